package frame

import "encoding/binary"

// Data carries in-order client bytes, each once.
type Data struct {
	Seen    uint64 // answer bytes that the client had acknowledged when it sent this
	Time    int64  // capture time, ns since the epoch
	Payload []byte // lent by ParseData: aliases the buffer
}

// dataFixed: seen 8, time 8; the payload follows.
const dataFixed = 16

// DataOverhead is the length of a Data frame beyond its payload.
const DataOverhead = HeaderLen + dataFixed

// AppendData appends a Data frame. The payload must not be longer than
// [MaxPayload].
func AppendData(b []byte, flow uint32, d *Data) []byte {
	b = AppendDataHead(b, flow, d.Seen, d.Time, len(d.Payload))
	return append(b, d.Payload...)
}

// AppendDataHead appends a Data frame up to its payload, of which n bytes must
// follow.
func AppendDataHead(b []byte, flow uint32, seen uint64, time int64, n int) []byte {
	b = appendHeader(b, TypeData, flow, dataFixed+n)
	b = binary.BigEndian.AppendUint64(b, seen)
	return binary.BigEndian.AppendUint64(b, uint64(time))
}

// ParseData reads the body of a Data frame; the payload is lent.
func ParseData(body []byte) (d Data, ok bool) {
	if len(body) < dataFixed {
		return Data{}, false
	}
	return Data{
		Seen:    binary.BigEndian.Uint64(body),
		Time:    int64(binary.BigEndian.Uint64(body[8:])),
		Payload: body[dataFixed:],
	}, true
}
