package copier

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// ploddingLane is of a target that comes nearer to its end all the time, and never
// reaches it.
type ploddingLane struct {
	*timedLane
	over <-chan struct{}
}

func (l *ploddingLane) Returns() ([]byte, uint64) {
	select {
	case <-l.over:
		l.moved(1)
	default:
	}
	return l.timedLane.Returns()
}

// A recording may be played long before a slow target has answered it. Who ends the
// copier then waits for --drain, and who stops it for nothing.
func TestReplayIsEndedWhileTheTargetAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		stop bool
		most time.Duration
	}{
		"ended":   {false, 5 * time.Second},
		"stopped": {true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newStage(t, Replay{Pace: PaceTarget}, minutes())
				g.c.tunnel, g.c.cfg.Drain, g.c.cfg.Log = newFakeClient(), 5*time.Second, slog.New(slog.DiscardHandler)
				g.lane.answers = false
				g.s.lane = &ploddingLane{timedLane: g.lane, over: g.p.over}
				g.start()
				<-g.p.over
				ctx, end := context.WithCancel(t.Context())
				settled := make(chan struct{})
				go func() { g.c.settle(ctx, t.Context()); close(settled) }()
				<-time.After(time.Minute)
				select {
				case <-settled:
					t.Fatal("did not wait for a target that moves on")
				default:
				}
				began := time.Now()
				if tt.stop {
					close(g.c.halt)
				}
				end()
				select {
				case <-settled:
				case <-time.After(time.Hour):
					t.Fatal("goes on for an hour after it was ended")
				}
				if d := time.Since(began); d > tt.most+finishWait {
					t.Errorf("ended after %v", d)
				}
				g.s.ask(phaseOver)
				for range 2 {
					if err := <-g.done; err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// Copies that are late by --jitter are not to be hurried because nothing has moved for
// --drain.
func TestReplayWaitsForLateCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t, Replay{Pace: PaceTarget}, minutes())
		g.c.tunnel, g.c.cfg.Log = newFakeClient(), slog.New(slog.DiscardHandler)
		g.c.cfg.Drain, g.c.cfg.Jitter, g.c.cfg.Copies = 5*time.Second, time.Hour, 2
		g.lane.answers = false
		g.start()
		<-g.p.over
		began := time.Now()
		g.c.settle(t.Context(), t.Context())
		if d := time.Since(began); d < time.Hour || d > 2*time.Hour+time.Minute { // the first look may have been at books of a tick before
			t.Errorf("settled after %v", d)
		}
		g.s.ask(phaseOver)
		for range 2 {
			if err := <-g.done; err != nil {
				t.Error(err)
			}
		}
	})
}
