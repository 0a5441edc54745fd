package rig

import (
	"encoding/json"
	"fmt"
	"os"
)

// A Report is what the copier wrote to its --report file, as far as the books
// have to balance. It is read by the file's own names: what users' programs would
// meet.
type Report struct {
	Final         bool     `json:"final"`
	Headline      string   `json:"headline"`
	SamplePercent float64  `json:"sample_percent"`
	Split         string   `json:"split"`
	SumsWrong     []string `json:"sums_wrong"`
	Packets       struct {
		Captured      uint64            `json:"captured"`
		KernelDropped uint64            `json:"kernel_dropped"`
		By            map[string]uint64 `json:"by"`
	} `json:"packets"`
	Flows struct {
		Seen     uint64            `json:"seen"`
		Pending  uint64            `json:"pending"`
		Observed uint64            `json:"observed"`
		Admitted uint64            `json:"admitted"`
		Adopted  uint64            `json:"adopted"`
		Refused  map[string]uint64 `json:"refused"`
		Live     uint64            `json:"live"`
		Ended    map[string]uint64 `json:"ended_online"`
		GivenUp  map[string]uint64 `json:"given_up"`
		Waiting  uint64            `json:"waiting"`
		Late     uint64            `json:"late"`
		Resumed  map[string]uint64 `json:"resumed"`

		Suspended uint64 `json:"suspended"`
	} `json:"flows"`
	Client struct {
		Captured      Count            `json:"captured"`
		Sent          Count            `json:"sent"`
		Retransmitted Count            `json:"retransmitted"`
		Duplicate     Count            `json:"duplicate_capture"`
		Stored        Count            `json:"stored"`
		Dropped       map[string]Count `json:"dropped"`
		Missing       uint64           `json:"missing_bytes"`
		Prologue      Count            `json:"prologue"`
		Rewritten     struct {
			Added   Count `json:"added"`
			Removed Count `json:"removed"`
		} `json:"rewritten"`
		Injected Count  `json:"injected"`
		Urgent   uint64 `json:"urgent"`
	} `json:"client"`
	Sent struct {
		Delivered  Count            `json:"delivered"`
		Dropped    map[string]Count `json:"dropped"`
		Gap        Count            `json:"reconnect"`
		AfterClose Count            `json:"after_close"`
		TunnelLost Count            `json:"tunnel_lost"`
		InFlight   Count            `json:"in_flight"`

		AccountMissing Count  `json:"account_missing"`
		Arrived        uint64 `json:"delivered_unaccounted_bytes"`
	} `json:"sent"`
	Sessions struct {
		Opened      uint64            `json:"opened"`
		Established uint64            `json:"established"`
		Open        uint64            `json:"open"`
		Closed      map[string]uint64 `json:"closed"`
		Lost        uint64            `json:"lost"`
		Reconnects  uint64            `json:"reconnects"`
		Resent      uint64            `json:"turns_resent"`

		AccountMissing uint64 `json:"account_missing"`
	} `json:"sessions"`
	Copies struct {
		Factor      float64           `json:"factor"`
		Asked       uint64            `json:"asked"`
		Established uint64            `json:"established"`
		Closed      map[string]uint64 `json:"closed"`
		Lost        uint64            `json:"lost"`
		Missing     uint64            `json:"account_missing"`
		Given       Count             `json:"given"`
		Delivered   Count             `json:"delivered"`
		Dropped     Count             `json:"dropped"`
		TunnelLost  Count             `json:"tunnel_lost"`
		Unaccounted Count             `json:"unaccounted"`
	} `json:"copies"`
	Ends struct {
		Online Ends `json:"online"`
		Target Ends `json:"target"`
	} `json:"ends"`
	Answers struct {
		Same       uint64 `json:"same_length"`
		Different  uint64 `json:"different_length"`
		Answered   uint64 `json:"answered"`
		Unanswered uint64 `json:"unanswered"`
		Turns      uint64 `json:"turns"`
		HeldMax    uint64 `json:"held_max"`
		Target     Count  `json:"target"`
		Headers    uint64 `json:"headers_returned"`
	} `json:"answers"`
	HTTP struct {
		Selected uint64 `json:"selected"`
		LeftOut  uint64 `json:"left_out"`
	} `json:"http"`
	Recorded struct {
		Packets uint64 `json:"packets"`
		Dropped uint64 `json:"record_dropped"`
	} `json:"recorded"`
	Recording struct {
		Packets uint64            `json:"packets"`
		LeftOut map[string]uint64 `json:"left_out"`
		Lag     map[string]uint64 `json:"schedule_lag_ns"`
	} `json:"recording"`
	RecordedHeaders struct {
		Recorded uint64 `json:"recorded"`
		Dropped  uint64 `json:"dropped"`
	} `json:"recorded_headers"`
	Lag map[string]uint64 `json:"lag_ns"` // nanoseconds from capture to the target: p50, p99, max
}

// Ends is how many connections have ended in which way.
type Ends struct {
	ClientFirst uint64 `json:"client_first"`
	ServerFirst uint64 `json:"server_first"`
	ClientReset uint64 `json:"client_reset"`
	ServerReset uint64 `json:"server_reset"`
	Other       uint64 `json:"other"`
}

// A Count is a number of segments and of the bytes in them.
type Count struct {
	Segments uint64 `json:"segments"`
	Bytes    uint64 `json:"bytes"`
}

// ReadReport reads a report file.
func ReadReport(file string) (*Report, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &Report{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// ReadReports reads a report file of several targets.
func ReadReports(file string) ([]*Report, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all struct {
		Targets []*Report `json:"targets"`
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return all.Targets, nil
}

// Check adds up what is in the report, not trusting the copier's own sums, and
// returns what is wrong. Nothing may be under way any more.
func (r *Report) Check() []string {
	wrong := r.SumsWrong
	same := func(what string, got, want uint64) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %d, its parts are %d", what, got, want))
		}
	}
	counts := func(what string, got Count, parts ...Count) {
		want := sumCounts(parts)
		same(what+" (segments)", got.Segments, want.Segments)
		same(what+" (bytes)", got.Bytes, want.Bytes)
	}
	if !r.Final {
		wrong = append(wrong, "the report is not the final one")
	}
	f, c, s := &r.Flows, &r.Client, &r.Sessions
	same("packets captured", r.Packets.Captured, sum(r.Packets.By))
	same("flows seen", f.Seen, f.Admitted+sum(f.Refused))
	same("flows admitted and resumed", f.Admitted+sum(f.Resumed), sum(f.Ended)+sum(f.GivenUp))
	counts("captured of clients, and added", sumCounts([]Count{c.Captured, c.Rewritten.Added}), append(values(c.Dropped), c.Sent, c.Retransmitted, c.Duplicate, c.Rewritten.Removed)...)
	counts("sent", sumCounts([]Count{c.Sent, c.Prologue}), append(values(r.Sent.Dropped), r.Sent.Delivered, r.Sent.Gap, r.Sent.AfterClose, r.Sent.TunnelLost, r.Sent.AccountMissing, Count{Bytes: r.Sent.Arrived})...)
	same("sessions opened", s.Opened, sum(s.Closed)+s.Lost+s.AccountMissing)
	same("sessions opened for flows admitted or resumed", s.Opened, f.Admitted+sum(f.Resumed))
	m := &r.Copies
	same("copies asked for", m.Asked, sum(m.Closed)+m.Lost+m.Missing)
	counts("given to copies", m.Given, m.Delivered, m.Dropped, m.TunnelLost, m.Unaccounted)
	same("under way after the end", 0, f.Pending+f.Observed+f.Waiting+f.Suspended+f.Live+s.Open+c.Stored.Segments+r.Sent.InFlight.Segments)
	return wrong
}

func sum(parts map[string]uint64) (all uint64) {
	for _, n := range parts {
		all += n
	}
	return all
}

func values(m map[string]Count) []Count {
	var all []Count
	for _, c := range m {
		all = append(all, c)
	}
	return all
}

func sumCounts(parts []Count) (all Count) {
	for _, c := range parts {
		all.Segments += c.Segments
		all.Bytes += c.Bytes
	}
	return all
}
