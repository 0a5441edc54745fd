//go:build netns

package e2e

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"

	"flowtwin/internal/e2e/rig"
	"flowtwin/internal/e2e/traffic"
	"flowtwin/internal/testnet"
)

// Connections that clients began before the copier was told to stop are copied, all of
// them, though the copier has not read their packets by then.
func TestStopIsByThePacketsTime(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"SIGTERM", "ctl drain", "SIGTERM to one that lay still"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, testnet.LabConfig{})
			online, target := s.serve(port, port)
			responder := s.keep(s.StartResponder(s.within()))
			ctl := &control{s, "copier", filepath.Join(s.Dir, "control")}
			copier := s.keep(s.StartCopier(s.within(), httpMap, "--control", ctl.path))
			signal := func(sig syscall.Signal) {
				t.Helper()
				if err := copier.Signal(sig); err != nil {
					t.Fatal(err)
				}
			}
			still := how == "SIGTERM to one that lay still"
			rounds := 30
			if still {
				signal(syscall.SIGSTOP)
				rounds = 5 // of what its ring holds meanwhile
			}

			// Clients that go on are in the middle of something when the order comes.
			around, enough := context.WithCancel(t.Context())
			defer enough()
			over := make(chan traffic.Stats, 1)
			go func() {
				if still {
					<-around.Done()
				}
				over <- traffic.Load{Name: "around", Clients: 2, Requests: 1}.Run(around, s.dialer(port).Dial)
			}()
			before := s.make(traffic.Load{Name: "before", Clients: 4, Rounds: rounds, Requests: 1}, s.dialer(port))
			switch how {
			case "ctl drain":
				ctl.tell("drain")
			default:
				signal(syscall.SIGTERM)
				signal(syscall.SIGCONT)
				if err := copier.WaitOutput(s.within(), "stopping"); err != nil {
					t.Fatal(err)
				}
			}
			behind := s.make(traffic.Load{Name: "behind", Clients: 4, Rounds: 5, Requests: 1}, s.dialer(port))
			enough()
			others := <-over

			if code, err := copier.Wait(s.within()); err != nil || code != 0 { // another signal would cut it short
				t.Fatalf("copier: exit code %d, %v", code, err)
			}
			report := s.end(copier, responder)
			rig.Until(s.within(), func() bool { _, _, open := target.Counts(); return open == 0 })
			s.compare(only(online.Log(), "/before/"), only(target.Log(), "/before/"))
			if n := len(only(target.Log(), "/behind/")); n > 0 {
				t.Errorf("%d of %d connections are copied that began behind the order", n, behind.Connections)
			}
			t.Logf("%d of %d connections around the order are copied; refused %v", len(only(target.Log(), "/around/")), others.Connections, report.Flows.Refused)
			if got := len(target.Log()); got != int(report.Sessions.Opened) || got < int(before.Connections) {
				t.Errorf("target saw %d connections, %d sessions", got, report.Sessions.Opened)
			}
			if got := report.Packets.KernelDropped; got > 0 {
				t.Errorf("%d packets dropped by the kernel", got)
			}
		})
	}
}
