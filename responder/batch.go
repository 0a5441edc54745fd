package responder

import "flowtwin/tunnel/frame"

// what a batch tells besides its frames, which come first.
type what uint8

const (
	whatFrames what = iota // nothing
	whatBye                // the lane has no more frames
	whatGone               // the lane's connection is gone: its sessions end
	whatDrain              // all sessions of the shard end, and none begins any more
	whatStop               // the same, until told otherwise
	whatTell               // publish the counters as they are
)

// A batch carries frames from a lane's reader to a worker, which gives it back
// with release. Payloads are copied into it: the tunnel only lends them.
type batch struct {
	host   *host
	strand *strand
	what   what
	data   []byte
	items  []item
	done   chan struct{} // closed when whatDrain, whatStop or whatTell is carried out
}

// An item is a frame; its body is data[at:at+len].
type item struct {
	session *session
	fan     *fan // instead of a session
	at, len int
	kind    frame.Type
}

func (h *host) newBatch(st *strand) *batch {
	b, ok := h.batches.Get().(*batch)
	if !ok {
		b = new(batch)
	}
	b.host, b.strand = h, st
	return b
}

// add appends a frame, copying its body.
func (b *batch) add(t frame.Type, s *session, body []byte) {
	b.items = append(b.items, item{session: s, at: len(b.data), len: len(body), kind: t})
	b.data = append(b.data, body...)
}

// again appends the last frame once more, for the copies of its flow.
func (b *batch) again(f *fan) {
	it := b.items[len(b.items)-1]
	it.session, it.fan = nil, f
	b.items = append(b.items, it)
}

// addFan appends a frame for copies, copying its body.
func (b *batch) addFan(t frame.Type, f *fan, body []byte) {
	b.add(t, nil, body)
	b.items[len(b.items)-1].fan = f
}

// release empties b and lets it be used again.
func (b *batch) release() {
	h := b.host
	clear(b.items)
	*b = batch{data: b.data[:0], items: b.items[:0]}
	h.batches.Put(b)
}
