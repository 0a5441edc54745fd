package copier

// answers is what is known of the answers to the requests of a flow that is cut.
//
// The gate counts bytes of answers (see *seen* in PROTOCOL.md). Those to requests
// that were left out the target never sends: they are added to record.less. Where a
// client asks and reads in turns, all that it acknowledged since its last request is
// the answer to that one, so this is exact. A client that pipelines requests of
// which some are left out cannot be followed in this way, since only the lengths of
// answers are captured and not where one ends: from there on its flow is vague. What
// it has seen counts no more then; where it begins a request after it has read
// something the gate is told that a turn begins, not what was seen. Something is what
// the server had not sent yet when it got the latest turn: what it had sent answers
// nothing of that turn, nor of what came behind, so that no more needs to be answered
// for this request than for that turn, and both leave together. What was read before the
// flow became vague counts: it is told first.
type answers struct {
	mark uint64 // what the client had seen, as far as it is accounted for

	kept, left bool // requests that wait for an answer at mark: selected ones, others
	fresh      bool // the client has read something behind them
	counts     bool // what it has read last counts, and no frame has told it
	mixed      bool // something was left out
	expects    bool // the request at hand waits for an interim answer

	vague bool
	asked bool // a selected request has been sent since the latest turn

	sent uint64 // by the server when it got the latest turn; counted as mark
}

// hear notes what the client has seen by now, and returns how much of that the
// target does not send.
func (a *answers) hear(c *cut, seen uint64) (less int64) {
	d := int64(seen - a.mark)
	if d <= 0 {
		return 0
	}
	a.mark = seen
	if c.cursor.Boundary() {
		a.fresh = true
		if a.vague || a.left {
			return d
		}
		a.counts = true
		return 0
	}
	// In the middle of a request. Either it is an interim answer, or the client goes
	// on sending while it reads the answers to others, or an early one: that the next
	// bytes wait for that is wanted only where it is sure to come.
	a.kept, a.left = c.keep, !c.keep
	if a.vague || !c.keep || a.mixed && !a.expects {
		return d
	}
	a.counts = true
	return 0
}

// begin notes a request.
func (a *answers) begin(selected, expects bool) {
	if a.fresh {
		a.kept, a.left, a.fresh = false, false, false
	}
	if (a.kept || a.left) && (a.left || !selected) {
		a.vague = true
	}
	a.kept = a.kept || selected
	a.left = a.left || !selected
	a.mixed = a.mixed || !selected
	a.expects = expects
}

// turn reports whether what the client sends now begins a turn of which it is not
// known what was seen.
func (a *answers) turn() bool { return a.vague && a.mark > a.sent && a.asked }

// turns notes that a turn begins, or the session, when the server had sent so much.
func (a *answers) turns(sent uint64) { a.sent, a.asked = max(sent, a.mark), false }

// answeredBy returns how much the server had sent when it got the segment at hand. Where
// it has acknowledged any of that already (at a mirror port an answer may be captured
// before its request) only what the client had seen is known to be older.
func (s *shard) answeredBy(r *record) uint64 {
	if r.got.After(s.sieve.start) {
		return 0
	}
	return r.seen + uint64(max(r.answerNxt.Diff(r.acked), 0))
}
