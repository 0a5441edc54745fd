// Package e2e tests the two real binaries between network namespaces:
//
//	clients ── router ── online (copier)
//	             └────── target (responder)
//
// Real clients talk to a server on the online host; a server on the target host
// must meet the same connections with the same requests. The tests need root and
// the build tag netns. Each ends both programs by SIGTERM, and checks that they
// exit with 0, that the copier's ledger adds up, and that neither host is changed
// or has sent a packet under an address that is not its own.
package e2e
