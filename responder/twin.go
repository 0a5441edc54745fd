package responder

import "flowtwin/tunnel"

// twin returns a map of h that another copier on the same host has, too: one that was
// started a second time by mistake, most likely. r.mu is held.
func (r *server) twin(h tunnel.Hello) (tunnel.Map, bool) {
	for p := range r.peers {
		if m, ok := common(h, p.Hello()); ok {
			return m, true
		}
	}
	return tunnel.Map{}, false
}

// common returns a map by which two copiers on one host copy the same.
func common(a, b tunnel.Hello) (tunnel.Map, bool) {
	if a.Name != b.Name || a.Remote.Addr() != b.Remote.Addr() {
		return tunnel.Map{}, false
	}
	for _, m := range a.Maps {
		for _, n := range b.Maps {
			if m.Port == n.Port && m.Target == n.Target && (m.Server == n.Server || !m.Server.IsValid() || !n.Server.IsValid()) {
				return m, true
			}
		}
	}
	return tunnel.Map{}, false
}
