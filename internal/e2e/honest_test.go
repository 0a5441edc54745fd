//go:build netns

package e2e

import (
	"strings"
	"syscall"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// Whatever stops the copy must be said by the one who notices, once: a responder that
// hangs by the copier, a target that dies by the responder.
func TestWhatStopsTheCopyIsSaid(t *testing.T) {
	t.Parallel()
	s := newScene(t, testnet.LabConfig{})
	_, target := s.serve(port, port)
	copier, responder := s.copies(httpMap)
	d := s.dialer(port)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			l := traffic.Load{Name: "honest", Clients: 5, Rounds: 1, Requests: 2, Rate: 50}
			l.Run(t.Context(), d.Dial)
		}
	}()
	says := func(p *rig.Process, text string) {
		t.Helper()
		if err := p.WaitOutput(s.within(), text); err != nil {
			t.Error(err)
		}
	}
	signal := func(sig syscall.Signal) {
		t.Helper()
		if err := responder.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	if !rig.Until(s.within(), func() bool { _, n, _ := target.Counts(); return n > 5 }) {
		t.Fatal("nothing is copied")
	}
	signal(syscall.SIGSTOP)
	says(copier, "nothing comes back from the responder")
	signal(syscall.SIGCONT)
	if !rig.Until(s.within(), func() bool {
		out := copier.Output() // on a busy host the tunnel may have been given up
		return strings.Contains(out, "what is under way moves again") || strings.Count(out, rig.TunnelUp) > 1
	}) {
		t.Error("the copier does not say that it goes on")
	}

	if err := target.Close(); err != nil {
		t.Error(err)
	}
	says(responder, "target refuses connections")
	says(copier, "nothing delivered: look at the target")
	s.serveAt(s.Lab.Target, port)
	says(responder, "target accepts connections again")
	close(stop)
	<-done
	s.end(copier, responder)
	for text, p := range map[string]*rig.Process{"nothing comes back": copier, "nothing delivered: look at": copier, "target refuses": responder, "connections again": responder} {
		if n := strings.Count(p.Output(), text); n != 1 {
			t.Errorf("%q is said %d times", text, n)
		}
	}
}
