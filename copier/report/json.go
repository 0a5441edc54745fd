package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// document is the ledger as --report writes it. Names of fields are an interface
// for others: they are added to, not changed.
type document struct {
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended"`
	Final    bool      `json:"final"`
	Target   string    `json:"target,omitempty"` // which of several
	State    string    `json:"state,omitempty"`  // copying, paused or draining
	Split    string    `json:"split,omitempty"`  // which part of the clients, as 1/3
	Headline string    `json:"headline"`

	CopiedPercent *float64 `json:"copied_percent"` // of what has been decided; null: there was nothing to copy
	StalledNs     int64    `json:"stalled_ns"`     // nothing has been delivered for so long of what is sent; 0: it is
	SamplePercent float64  `json:"sample_percent"` // of the connections; of others only those that the kernel's filter let pass are counted
	Sums          []string `json:"sums_wrong"`

	// By the second, copies included; 0: no limit.
	RateConnections float64 `json:"rate_connections"`
	RateBytes       float64 `json:"rate_bytes"`

	Packets    packetsJSON       `json:"packets"`
	Flows      flowsJSON         `json:"flows"`
	Client     clientJSON        `json:"client"`
	Sent       sentJSON          `json:"sent"`
	Sessions   sessionsJSON      `json:"sessions"`
	Copies     *copiesJSON       `json:"copies,omitempty"`
	Ends       endsJSON          `json:"ends"`
	Answers    answersJSON       `json:"answers"`
	HTTP       HTTP              `json:"http"`
	Tunnel     tunnelJSON        `json:"tunnel"`
	LagNs      map[string]uint64 `json:"lag_ns,omitempty"`
	BadReturns uint64            `json:"bad_returns"`

	Recording *recordingJSON `json:"recording,omitempty"` // of replayed files
	Recorded  *recordedJSON  `json:"recorded,omitempty"`  // by --record
	Headers   *Headers       `json:"recorded_headers,omitempty"`
}

type packetsJSON struct {
	Captured      uint64            `json:"captured"`
	KernelDropped uint64            `json:"kernel_dropped"`
	By            map[string]uint64 `json:"by"`
}

type flowsJSON struct {
	Seen     uint64            `json:"seen"`
	Pending  uint64            `json:"pending"`
	Observed uint64            `json:"observed"`
	Admitted uint64            `json:"admitted"`
	Adopted  uint64            `json:"adopted"` // of the admitted
	Refused  map[string]uint64 `json:"refused"`
	Declined uint64            `json:"refused_by_server"` // of never_established: its reset answered the SYN
	Live     uint64            `json:"live"`
	Ended    map[string]uint64 `json:"ended_online"`
	GivenUp  map[string]uint64 `json:"given_up"`

	Waiting      uint64            `json:"waiting"`
	Late         uint64            `json:"late"` // of the admitted
	Suspended    uint64            `json:"suspended"`
	Resumed      map[string]uint64 `json:"resumed"`
	PrologueFull uint64            `json:"prologue_full"`
	Hurried      uint64            `json:"hurried"`
}

type clientJSON struct {
	Captured      Count            `json:"captured"`
	Sent          Count            `json:"sent"`
	Retransmitted Count            `json:"retransmitted"`
	Duplicate     Count            `json:"duplicate_capture"`
	Stored        Count            `json:"stored"`
	Dropped       map[string]Count `json:"dropped"`
	Conflicts     uint64           `json:"conflicts"`
	Missing       uint64           `json:"missing_bytes"`
	Prologue      Count            `json:"prologue"` // sent beside sent
	Injected      Count            `json:"injected"`
	Urgent        uint64           `json:"urgent"`
	Rewritten     Rewritten        `json:"rewritten"`
}

type sentJSON struct {
	Delivered  Count            `json:"delivered"`
	Dropped    map[string]Count `json:"dropped"`
	Gap        Count            `json:"reconnect"`
	AfterClose Count            `json:"after_close"`
	TunnelLost Count            `json:"tunnel_lost"` // fate unknown
	InFlight   Count            `json:"in_flight"`

	AccountMissing Count  `json:"account_missing"`             // fate unknown
	Arrived        uint64 `json:"delivered_unaccounted_bytes"` // of sessions whose account did not come, by the last word before; segments are with it
}

type sessionsJSON struct {
	Opened      uint64            `json:"opened"`
	Established uint64            `json:"established"`
	Open        uint64            `json:"open"`
	Closed      map[string]uint64 `json:"closed"`
	Lost        uint64            `json:"lost"`
	Reconnects  uint64            `json:"reconnects"`
	Resent      uint64            `json:"turns_resent"`

	AccountMissing uint64 `json:"account_missing"`
}

type endsJSON struct {
	Online Ends `json:"online"`
	Target Ends `json:"target"`
}

type answersJSON struct {
	Online         Count  `json:"online"`
	Target         Count  `json:"target"`
	Absorbed       uint64 `json:"absorbed_bytes"`
	Same           uint64 `json:"same_length"`
	Different      uint64 `json:"different_length"`
	Answered       uint64 `json:"answered"`   // connections that were answered online, and by the target
	Unanswered     uint64 `json:"unanswered"` // or not with a byte
	Turns          uint64 `json:"turns"`
	HeldMax        uint64 `json:"held_max"`
	Headers        uint64 `json:"headers_returned"`
	HeadersDropped uint64 `json:"headers_dropped"`
}

type tunnelJSON struct {
	Up            bool   `json:"up"`
	Remote        string `json:"remote"`
	Connects      uint64 `json:"connects"`
	RTTNs         int64  `json:"rtt_ns"`
	BytesSent     uint64 `json:"bytes_sent"`
	BytesReturned uint64 `json:"bytes_returned"`
}

// named makes a map of parts by label, those of 0 left out.
func named[T comparable](parts []T, label func(int) string) map[string]T {
	var zero T
	out := make(map[string]T)
	for i, v := range parts {
		if v != zero {
			out[label(i)] = v
		}
	}
	return out
}

func reasonName(i int) string { return Reason(i).String() }
func endingName(i int) string { return Ending(i).String() }

// MarshalJSON returns the summary as --report writes it. Counters by reason are
// there when they are not 0.
func (s *Summary) MarshalJSON() ([]byte, error) {
	l := &s.Ledger
	p := &l.Packets
	d := document{
		Version: s.Version, Started: s.Started.UTC(), Ended: s.Ended.UTC(), Final: s.Final, Target: s.Target, State: s.State, Split: s.Split,
		Headline: s.headline(), SamplePercent: s.Sample, Sums: s.Check(), BadReturns: l.BadReturns,
		StalledNs: int64(s.Stalled), RateConnections: s.Rates.Connections, RateBytes: s.Rates.Bytes,
		Packets: packetsJSON{p.Captured, s.Kernel.Dropped, map[string]uint64{
			"to_server": p.ToServer, "to_client": p.ToClient, "refused": p.Refused, "late": p.Late, "no_flow": p.NoFlow,
			"unmapped": p.Unmapped, "not_tcp": p.NotTCP, "fragment": p.Fragment, "truncated": p.Truncated, "malformed": p.Malformed,
			"bad_checksum": p.BadChecksum, "injected": p.Injected,
		}},
		Flows: flowsJSON{
			l.Flows.Seen, l.Flows.Pending, l.Flows.Observed, l.Flows.Admitted, l.Flows.Adopted, named(l.Flows.Refused[:], reasonName), l.Flows.Declined,
			l.Flows.Live, named(l.Flows.Ended[:], endingName), named(l.Flows.GivenUp[:], reasonName),
			l.Flows.Waiting, l.Flows.Late, l.Flows.Suspended, named(l.Flows.Resumed[:], reasonName), l.Flows.PrologueFull, l.Flows.Hurried,
		},
		Client: clientJSON{
			l.Client.Captured, l.Client.Sent, l.Client.Retransmitted, l.Client.Duplicate, l.Client.Stored,
			named(l.Client.Dropped[:], reasonName), l.Client.Conflicts, l.Client.Missing,
			l.Client.Prologue, l.Client.Injected, l.Client.Urgent, l.Client.Rewritten,
		},
		Sent: sentJSON{
			l.Sent.Delivered, named(l.Sent.Dropped[:], howName), l.Sent.Gap, l.Sent.AfterClose, l.Sent.TunnelLost, l.Sent.InFlight, l.Sent.AccountMissing, l.Sent.Arrived,
		},
		Sessions: sessionsJSON{
			l.Sessions.Opened, l.Sessions.Established, l.Sessions.Open, named(l.Sessions.Closed[:], howName), l.Sessions.Lost,
			l.Sessions.Reconnects, l.Sessions.Resent, l.Sessions.AccountMissing,
		},
		Copies: l.copiesJSON(),
		Answers: answersJSON{
			l.Answers.Online, l.Answers.Target, l.Answers.Absorbed, l.Answers.Same, l.Answers.Different, l.Answers.Answered, l.Answers.Unanswered,
			l.Answers.Turns, l.Answers.HeldMax, l.Answers.Headers, l.Answers.HeadersDropped,
		},
		Recording: s.Recording.json(l), Recorded: s.Recorded.json(l), Headers: s.Headers,
		Tunnel: tunnelJSON{
			s.Tunnel.Up, s.Tunnel.Remote, s.Tunnel.Connects, int64(s.Tunnel.RTT), s.Tunnel.BytesSent, s.Tunnel.BytesReturned,
		},
		HTTP: l.HTTP,
	}
	d.Ends.Online, d.Ends.Target = l.Ends()
	if delivered, of, ok := l.Copied(); ok {
		f := 100 * float64(delivered) / float64(of)
		d.CopiedPercent = &f
	}
	if p50, ok := l.Lag.Quantile(0.5); ok {
		p99, _ := l.Lag.Quantile(0.99)
		d.LagNs = map[string]uint64{"p50": uint64(p50), "p99": uint64(p99), "max": uint64(max(l.Lag.Max, 0))}
	}
	if d.Sums == nil {
		d.Sums = []string{}
	}
	return json.Marshal(&d)
}

// WriteFile writes the summary to file as JSON. The file appears complete, or
// stays what it was; what is not a regular file (/dev/stdout) is written to.
func (s *Summary) WriteFile(file string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return writeFile(file, b)
}

// CheckFile reports why a report could not be written to file, and changes nothing.
func CheckFile(file string) error {
	if file == "" {
		return nil
	}
	st, err := os.Stat(file)
	switch {
	case err == nil && st.IsDir():
		err = fmt.Errorf("%s is a directory", file)
	case err == nil && !st.Mode().IsRegular():
		return nil
	case err == nil || errors.Is(err, os.ErrNotExist):
		// It is written beside it, and then renamed.
		var f *os.File
		if f, err = os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*"); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	if err != nil {
		return naming(file, err)
	}
	return nil
}

// naming makes err name file, not the one beside it that is written first.
func naming(file string, err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		err = &os.PathError{Op: p.Op, Path: file, Err: p.Err}
	}
	return fmt.Errorf("report: %w", err)
}

func writeFile(file string, b []byte) (err error) {
	b = append(b, '\n')
	if st, err := os.Stat(file); err == nil && !st.Mode().IsRegular() {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			return fmt.Errorf("report: %w", err)
		}
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return naming(file, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(naming(file, err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
