package copier

import "flowtwin/copier/report"

// cutAll ends all flows in order: the recording that they are of ends. Those that
// are open are closed at the target as by their clients, since nothing says
// otherwise. Another loop's flows may follow on the same tuples.
func (s *shard) cutAll() {
	for slot, r := range s.table.All() {
		if r.guess == guessHole && r.state.followed() {
			s.resolve(slot, r) // nothing comes any more; what is behind the hole may go on elsewhere
		}
	}
	for slot, r := range s.table.All() {
		switch {
		case r.state == stateFree:
			continue
		case r.state == stateSynSeen:
			s.refuse(slot, r, report.NeverEstablished)
			continue
		case r.state == stateObserved:
			s.refuse(slot, r, report.Midstream)
			continue
		case r.state == stateWaiting:
			s.leave(slot, r)
			continue
		case r.state == stateSettled:
			r.ending = report.RecordingOver
			s.over(slot, r)
			continue
		case r.state == stateShunned:
			s.free(slot, r)
			continue
		case r.state.open():
			s.cut(slot, r)
		}
		if r.state != stateFree {
			if r.state != stateEnded {
				s.await(slot, r)
			}
			s.table.Unlink(slot)
		}
	}
	s.known = newMemory(s.table.Max())
}

// cut ends one flow that is open.
func (s *shard) cut(slot uint32, r *record) {
	gap, waits := r.asm.Gap(s.store)
	if r.guess == guessReset || r.guess == guessFin && !waits {
		s.resolve(slot, r)
	}
	if !r.state.open() {
		return
	}
	if r.state == stateFinHeld && !waits {
		gap, waits = r.fin.Diff(r.asm.Next()), true
	}
	if waits {
		r.ending = report.RecordingOver // else it would wait for another session
		s.hole(slot, r, gap)
		return
	}
	if r.state == stateCopying {
		s.sendFin(slot, r)
	}
	if r.state.open() {
		r.ending = report.RecordingOver
		s.end(slot, r)
	}
}
