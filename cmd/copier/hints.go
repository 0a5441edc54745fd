package main

// shortHint tells what became of tcpcopy's flag of that letter.
func shortHint(letter string) string {
	switch letter {
	case "c":
		return "the addresses that the target sees clients at belong to the responder: responder -c, --client-pool"
	case "C":
		return "the number of connections to the responder is --connections"
	case "p":
		return "the responder's port stands behind its name: -s HOST:PORT"
	case "v":
		return "the version is --version"
	case "F":
		return "what is copied is chosen by -x and --interface"
	case "W":
		return "copies that do not wait for answers are made by responder --gate off"
	case "g", "I":
		return "copies are made at the speed of their clients; the pauses of a recording (-i) are bounded by --max-gap"
	case "f", "H":
		return "not needed: the responder gives every connection an address and port of its own"
	case "t", "k":
		return "not needed: a copied connection ends when its client's does"
	case "O":
		return "connections that were open before are left out by --midstream skip"
	case "L":
		return "not needed: a responder that cannot be reached is tried again and again"
	case "m", "U", "B", "S", "M", "D", "R":
		return "not needed: memory is bounded, and packets are copied as they are"
	}
	return ""
}

// longHint tells whose flag it is.
func longHint(name string) string {
	switch name {
	case "client-pool", "client-address", "client-address-force", "gate", "max-hold", "settle", "on-target-close", "allow", "listen", "advertise", "invite-ttl",
		"state-dir", "max-sessions", "rtt", "bandwidth", "loss":
		return "is a flag of responder"
	case "rate":
		return "of what? --rate-connections or --rate-bytes"
	}
	return ""
}
