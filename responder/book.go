package responder

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"flowtwin/netstack"
	"flowtwin/responder/replay"
	"flowtwin/tunnel/frame"
)

// howCount is one more than the largest frame.CloseHow.
const howCount = frame.NumCloseHow

// A Book holds the responder's counters. Bytes of sessions that are still open
// are in Delivered and Absorbed, those dropped are counted when a session ends.
type Book struct {
	Opened            uint64   `json:"opened"`
	Established       uint64   `json:"established"`
	Closed            Hows     `json:"closed"`
	Parted            Hows     `json:"parted"`     // connections that ended before the client's end had left; another followed if it sent more
	Reconnects        uint64   `json:"reconnects"` // those that were followed by another
	Resent            uint64   `json:"resent"`     // turns written to two of them
	GapBytes          uint64   `json:"gap_bytes"`  // of DroppedBytes, lost between two of them
	DialErrors        uint64   `json:"dial_errors"`
	Delivered         uint64   `json:"delivered"` // bytes
	Absorbed          uint64   `json:"absorbed"`
	DroppedBytes      uint64   `json:"dropped_bytes"`
	DeliveredSegments uint64   `json:"delivered_segments"`
	DroppedSegments   uint64   `json:"dropped_segments"`
	Turns             uint64   `json:"turns"`
	HeldMax           uint64   `json:"held_max"`
	Settled           uint64   `json:"settled"` // turns released by the settle time
	HeadersReturned   uint64   `json:"headers_returned"`
	HeadersDropped    uint64   `json:"headers_dropped"`
	Queued            int      `json:"queued"` // bytes that wait for targets
	Gate              Gates    `json:"gate"`
	Copies            CopyBook `json:"copies"`
}

// Hows counts sessions by frame.CloseHow.
type Hows [howCount]uint64

// MarshalJSON names the counters that are not zero.
func (h Hows) MarshalJSON() ([]byte, error) {
	m := make(map[string]uint64)
	for i, n := range h {
		if n > 0 {
			m[frame.CloseHow(i).String()] = n
		}
	}
	return json.Marshal(m)
}

// Gates counts sessions by what they told of their gates.
type Gates [replay.NumGateNews]uint64

// MarshalJSON names the counters.
func (g Gates) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]uint64{
		"off_late": g[replay.GateLate], "off_http2": g[replay.GateHTTP2], "off_upgraded": g[replay.GateUpgraded],
	})
}

// close enters a session's account.
func (b *Book) close(c *frame.Closed) {
	b.Closed[min(int(c.How), howCount-1)]++
	b.DroppedBytes += c.DroppedBytes
	b.DeliveredSegments += c.DeliveredSegments
	b.DroppedSegments += c.DroppedSegments
	b.Turns += c.Turns
	b.HeldMax += c.HeldMax
	b.HeadersReturned += c.HeadersReturned
	b.HeadersDropped += c.HeadersDropped
	b.Reconnects += c.Reconnects
	b.Resent += c.Resent
	b.GapBytes += c.GapBytes
}

// add adds another shard's counters.
func (b *Book) add(o *Book) {
	b.Opened += o.Opened
	b.Established += o.Established
	for i := range o.Closed {
		b.Closed[i] += o.Closed[i]
		b.Parted[i] += o.Parted[i]
	}
	b.Reconnects += o.Reconnects
	b.Resent += o.Resent
	b.GapBytes += o.GapBytes
	b.DialErrors += o.DialErrors
	b.Delivered += o.Delivered
	b.Absorbed += o.Absorbed
	b.DroppedBytes += o.DroppedBytes
	b.DeliveredSegments += o.DeliveredSegments
	b.DroppedSegments += o.DroppedSegments
	b.Turns += o.Turns
	b.HeldMax += o.HeldMax
	b.Settled += o.Settled
	b.HeadersReturned += o.HeadersReturned
	b.HeadersDropped += o.HeadersDropped
	b.Queued += o.Queued
	b.Copies.add(&o.Copies)
	for i, n := range o.Gate {
		b.Gate[i] += n
	}
}

// A Summary is all that the status shows.
type Summary struct {
	Book
	Copiers int            `json:"copiers"`
	Open    int64          `json:"open"` // sessions
	Net     netstack.Stats `json:"net"`

	// Client data that lanes brought, and the part of it that is of no session, or
	// behind its account.
	Received         uint64 `json:"received"`
	ReceivedSegments uint64 `json:"received_segments"`
	Strays           uint64 `json:"strays"`
	StrayBytes       uint64 `json:"stray_bytes"`
	StraySegments    uint64 `json:"stray_segments"`

	Sums []string `json:"sums"` // of the final summary: those that do not add up; else nil
}

// check names the sums that do not add up. All sessions must be over.
func (s *Summary) check() []string {
	wrong := []string{}
	for _, c := range []struct {
		what                               string
		received, delivered, dropped, lost uint64
	}{
		{"bytes", s.Received, s.Delivered, s.DroppedBytes, s.StrayBytes},
		{"segments", s.ReceivedSegments, s.DeliveredSegments, s.DroppedSegments, s.StraySegments},
	} {
		if c.received != c.delivered+c.dropped+c.lost {
			wrong = append(wrong, fmt.Sprintf("%s: %d received are not %d delivered + %d dropped + %d stray: %+d",
				c.what, c.received, c.delivered, c.dropped, c.lost, int64(c.delivered+c.dropped+c.lost-c.received)))
		}
	}
	var closed uint64
	for _, n := range s.Closed {
		closed += n
	}
	if s.Opened != closed {
		wrong = append(wrong, fmt.Sprintf("sessions: %d opened are not %d closed", s.Opened, closed))
	}
	return append(wrong, s.Copies.check()...)
}

// attrs returns the status as the attributes of a log line, as few as say how it
// goes: ends as they should be are one number, and what is zero and rarely is
// anything else is left out.
func (s *Summary) attrs() []any {
	a := []any{
		slog.Int("copiers", s.Copiers), slog.Int64("sessions", s.Open),
		slog.Uint64("opened", s.Opened), slog.Uint64("established", s.Established),
		slog.Uint64("ended", s.Closed[frame.ClosedBoth]+s.Closed[frame.ClosedTargetFirst]+s.Closed[frame.ClosedClientReset]),
	}
	for i, n := range s.Closed {
		switch how := frame.CloseHow(i); how {
		case frame.ClosedBoth, frame.ClosedTargetFirst, frame.ClosedClientReset:
		default:
			if n > 0 {
				a = append(a, slog.Uint64(how.String(), n))
			}
		}
	}
	if c := &s.Copies; c.Opened > 0 {
		a = append(a, slog.Uint64("copies", c.Opened), slog.Uint64("copies_open", c.Open), slog.Uint64("copies_established", c.Established))
	}
	for i, n := range s.Parted {
		if n > 0 {
			a = append(a, slog.Uint64("parted_"+frame.CloseHow(i).String(), n))
		}
	}
	a = append(a, slog.Uint64("delivered_bytes", s.Delivered), slog.Uint64("answer_bytes", s.Absorbed))
	for _, c := range []struct {
		name string
		n    uint64
	}{
		{"reconnects", s.Reconnects},
		{"dropped_bytes", s.DroppedBytes},
		{"turns_settled", s.Settled},
		{"held_max", s.HeldMax},
		{"headers_dropped", s.HeadersDropped},
		{"dial_errors", s.DialErrors},
		{"queued_bytes", uint64(max(0, s.Queued))},
		{"stray_frames", s.Strays},
		{"stray_packets", s.Net.Strays},
		{"tuples_refused", s.Net.TuplesRefused},
		{"tuples_pooled", s.Net.TuplesPooled},
		{"emulated_loss", s.Net.LineLost},
		{"emulated_overflow", s.Net.LineFull},
		{"rtt_unknown", s.Net.LineUnknown},
	} {
		if c.n > 0 {
			a = append(a, slog.Uint64(c.name, c.n))
		}
	}
	return a
}

// write prints the final summary.
func (s *Summary) write(w io.Writer) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("sessions   %d opened, %d established\n", s.Opened, s.Established)
	for i, n := range s.Closed {
		if n > 0 {
			p("  closed   %d %s\n", n, frame.CloseHow(i))
		}
	}
	for i, n := range s.Parted {
		if n > 0 {
			p("  parted   %d %s, before the client's end\n", n, frame.CloseHow(i))
		}
	}
	if s.Reconnects > 0 {
		p("  again    %d connections more, %d turns written twice, %d bytes lost between\n", s.Reconnects, s.Resent, s.GapBytes)
	}
	p("received   %d bytes in %d segments\n", s.Received, s.ReceivedSegments)
	p("bytes      %d delivered, %d dropped, %d of answers absorbed\n", s.Delivered, s.DroppedBytes, s.Absorbed)
	p("segments   %d delivered, %d dropped\n", s.DeliveredSegments, s.DroppedSegments)
	if s.Strays > 0 {
		p("stray      %d frames of no session, with %d bytes in %d segments\n", s.Strays, s.StrayBytes, s.StraySegments)
	}
	if s.Net.TuplesPooled > 0 {
		p("addresses  %d sessions without their client's own address\n", s.Net.TuplesPooled)
	}
	if n := &s.Net; n.LineLost+n.LineFull+n.LineUnknown > 0 {
		p("emulated   %d packets lost, %d more in full buffers; %d sessions of unknown round-trip time\n", n.LineLost, n.LineFull, n.LineUnknown)
	}
	p("turns      %d, of which %d released by the settle time, %d by max-hold\n", s.Turns, s.Settled, s.HeldMax)
	if g := s.Gate; g[replay.GateLate]+g[replay.GateHTTP2]+g[replay.GateUpgraded] > 0 {
		p("gate off   %d sessions of HTTP/2, %d upgraded, %d without answers to their turns\n",
			g[replay.GateHTTP2], g[replay.GateUpgraded], g[replay.GateLate])
	}
	p("headers    %d returned, %d dropped\n", s.HeadersReturned, s.HeadersDropped)
	if c := &s.Copies; c.Opened > 0 {
		p("copies     %d opened, %d established\n", c.Opened, c.Established)
		for i, n := range c.Closed {
			if n > 0 {
				p("  closed   %d %s\n", n, frame.CloseHow(i))
			}
		}
		p("  given    %d bytes in %d segments\n", c.GivenBytes, c.GivenSegments)
		p("  bytes    %d delivered, %d dropped, %d of answers absorbed\n", c.DeliveredBytes, c.DroppedBytes, c.AnswerBytes)
	}
	if len(s.Sums) == 0 {
		p("sums       ok\n")
	}
	for _, wrong := range s.Sums {
		p("sums       WRONG: %s\n", wrong)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
