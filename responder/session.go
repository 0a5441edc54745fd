package responder

import (
	"net/netip"
	"sync/atomic"
	"time"

	"flowtwin/netstack"
	"flowtwin/responder/replay"
	"flowtwin/tunnel/frame"
)

// A session is a flow at the responder. The lane's reader makes it; from then on
// it belongs to the worker of its shard, but for the parts marked otherwise.
type session struct {
	replay.Session

	strand *strand
	flow   uint32
	number int // 0: the flow's own session, else one of its copies

	// Copies; set by the reader in the flow's own session.
	fans     []*fan
	sessions int // with the flow's own
	forgone  int // how many were refused: with the flow, or for want of an address

	// How it is to begin; set by the reader.
	lease    netstack.Lease
	target   netip.AddrPort
	watch    *watch // of the target, until its first handshake is over
	place    *watch // the same, for good
	baseSeen uint64
	refused  frame.CloseHow // 0: dial
	admitted bool           // holds one of the responder's places
	late     time.Duration  // a copy's delay

	conn       conn
	dialled    bool           // the lease is the conn's
	outward    netip.AddrPort // what the target sees now
	acct       frame.Closed
	moved      frame.Moved // what its strand has been told of
	prev, next *session    // of the strand

	over atomic.Bool // the flow's number may be used again

	// Guarded by the worker's taps.
	user             uint64 // 0: no target packet is to come
	returned, missed uint64 // headers that were returned, and that were refused
}

// A strand is what one worker keeps of one lane: its sessions there, and what it
// has to return.
type strand struct {
	lane *lane

	// Of the worker.
	first      *session
	live       int
	lag        lag
	moved      traffic
	copies     CopyBook // since the last report
	openCopies int
	news       frame.Moved // since the last Moved frame
	told       int64       // when that was
	must       []byte      // Established and Closed frames of this round
	ended      []*session  // whose Closed is to be written at the end of this round
	touched    bool        // in the worker's list
	said       bool        // that the copier has said Bye
	gone       bool        // the connection broke: nothing is returned any more
	done       bool        // said or gone, and no session is left

	// Guarded by the worker's taps.
	headers []byte
	who     []*session // a header each
	tapped  bool       // in the taps' list
}

// link enters s in the strand.
func (st *strand) link(s *session) {
	s.next = st.first
	if st.first != nil {
		st.first.prev = s
	}
	st.first = s
	st.live++
}

// unlink takes s out of it.
func (st *strand) unlink(s *session) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		st.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.prev, s.next = nil, nil
	st.live--
}
