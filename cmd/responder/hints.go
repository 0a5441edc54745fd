package main

// letterHint tells what became of intercept's flag of that letter.
func letterHint(letter string) string {
	switch letter {
	case "p", "b":
		return "the UDP port and address that copiers connect to are --listen [HOST]:PORT"
	case "i", "F", "o":
		return "not needed: the target's answers come out of a device of the responder's own"
	case "x", "s":
		return "what to copy where is said to the copier: copier -x; the targets that it may name are --allow"
	case "r", "n":
		return "is a flag of copier"
	case "v":
		return "the version is --version"
	}
	return ""
}

// nameHint tells whose flag it is.
func nameHint(name string) string {
	switch name {
	case "map", "server", "sample", "ramp", "copies", "jitter", "midstream", "interface", "netns", "decap", "input", "record":
		return "is a flag of copier"
	case "rate":
		return "of what? --rate-connections or --rate-bytes"
	}
	return ""
}
