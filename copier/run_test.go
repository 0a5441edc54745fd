package copier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"flowtwin/copier/report"
	"flowtwin/tunnel"
)

func TestRunCopiesAndReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("hello"), c.answer(10), c.fin(), c.serverFin(), c.ack())
		r.status <- syscall.SIGUSR1
		synctest.Wait()
		if n := strings.Count(r.log.String(), "msg=status"); n != 1 {
			t.Errorf("%d status lines after SIGUSR1, want 1", n)
		}
		elapse(25 * time.Second)
		if n := strings.Count(r.log.String(), "msg=status"); n != 3 {
			t.Errorf("%d status lines after 25 s more, want 3", n)
		}
		began := time.Now()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("stopping took %v with nothing left to drain", d)
		}
		if got := r.out.String(); !strings.HasPrefix(got, "copied 100.00 %\n") || !strings.HasSuffix(got, "sums: ok\n") {
			t.Errorf("ledger is\n%s", got)
		}
		b, err := os.ReadFile(r.cfg.ReportFile)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Sums []string     `json:"sums_wrong"`
			Sent report.Count `json:"-"`
			S    struct {
				Delivered report.Count `json:"delivered"`
			} `json:"sent"`
		}
		if err := json.Unmarshal(b, &doc); err != nil || len(doc.Sums) > 0 || doc.S.Delivered.Bytes != 5 {
			t.Errorf("report %v %+v", err, doc)
		}
	})
}

// Accounts that come while the lanes are being finished are in the ledger, and a
// responder that does not answer holds nobody up.
func TestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		r.lane.answers = false
		r.client.finish = func(ctx context.Context) error {
			r.lane.bye <- struct{}{}
			<-ctx.Done()
			return fmt.Errorf("finish: %w", context.Cause(ctx))
		}
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("abc"))
		began := time.Now()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > r.cfg.Drain+finishWait+time.Second {
			t.Errorf("stopping took %v", d)
		}
		l := r.shards[0].ledger()
		if l.Sent.Delivered.Bytes != 3 || l.Sessions.Open != 0 {
			t.Errorf("sent %+v, sessions %+v", l.Sent, l.Sessions)
		}
		if !strings.Contains(r.log.String(), "accounts are missing") {
			t.Errorf("log says\n%s", &r.log)
		}
	})
}

// A refusal cannot be cured by trying again; an unreachable responder can.
func TestConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.client.stats = tunnel.ClientStats{}
		r.client.connect = func(context.Context) error { return fmt.Errorf("tunnel: %w: not in --allow", tunnel.ErrRefused) }
		if err := r.run(t.Context()); !errors.Is(err, tunnel.ErrRefused) {
			t.Errorf("error %v, want the refusal", err)
		}
		if r.out.String() != "" {
			t.Errorf("a ledger was printed:\n%s", &r.out)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ready := false
		r.cfg.Ready = func() { ready = true }
		r.client.connect = func(context.Context) error { return context.DeadlineExceeded }
		stop := r.start(t)
		elapse(time.Minute)
		if !ready || strings.Count(r.log.String(), `cannot be reached, trying on" meanwhile="flows that begin now are not copied"`) != 1 {
			t.Errorf("ready %v, log\n%s", ready, &r.log)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // a recording loses nothing by it
		r := newRig(t)
		r.cfg.Replay = &Replay{}
		r.client.connect = func(context.Context) error { return context.DeadlineExceeded }
		stop := r.start(t)
		elapse(time.Minute)
		if strings.Count(r.log.String(), `cannot be reached, trying on" meanwhile="the replay waits for it"`) != 1 {
			t.Errorf("log\n%s", &r.log)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A ring that fails ends the copy with its error, after the ledger.
func TestRingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		bad := errors.New("interface is gone")
		r.shards[0].ring = failing{r.ring, bad}
		if err := r.run(t.Context()); !errors.Is(err, bad) {
			t.Errorf("error %v, want %v", err, bad)
		}
		if !strings.Contains(r.out.String(), "sums: ok") {
			t.Errorf("ledger is\n%s", &r.out)
		}
	})
}

type failing struct {
	*fakeRing
	err error
}

func (f failing) Next(time.Duration) (bool, error) { return false, f.err }

func TestTLSIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("\x16\x03\x01\x02\x00\x01\x00\x01\xfc"))
		elapse(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(r.log.String(), "clients speak TLS"); n != 1 {
			t.Errorf("said %d times, want once", n)
		}
	})
}

// A copy that is over before the log's next look at it says so too.
func TestSecretsAreSaidAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("SSH-2.0-OpenSSH_9.2\r\n"))
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(r.log.String(), "clients speak SSH"); n != 1 {
			t.Errorf("said %d times, want once", n)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Target: Target{Maps: testMaps().list.Load().maps}}
	tests := []struct {
		name   string
		change func(*Config)
	}{
		{"maps", func(c *Config) { c.Maps = nil }},
		{"shards", func(c *Config) { c.Shards = 65 }},
		{"connections", func(c *Config) { c.Connections = -1 }},
		{"drain", func(c *Config) { c.Drain = -1 }},
	}
	if _, err := good.populate(); err != nil {
		t.Errorf("good config: %v", err)
	}
	for _, tt := range tests {
		c := good
		tt.change(&c)
		if err := Run(t.Context(), c); err == nil || !strings.HasPrefix(err.Error(), tt.name+":") {
			t.Errorf("error %v, want one that begins with %s", err, tt.name)
		}
	}
}

// Accounts that never come are a loss with a name.
func TestMissingAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newRig(t), newConn()
		r.lane.answers = false
		stop := r.start(t)
		r.capture(c.handshake()...)
		r.capture(c.data("abc"), c.fin(), c.serverFin())
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := r.out.String(); !strings.HasPrefix(got, "copied 0.00 %, 100.00 % account_missing (1 flow)\n") || !strings.HasSuffix(got, "sums: ok\n") {
			t.Errorf("ledger is\n%s", got)
		}
	})
}

// The first line says what is copied.
func TestTellStart(t *testing.T) {
	r := newRig(t)
	r.cfg.Invite.Addrs = []string{"192.0.2.1:7443"}
	r.tellStart([]string{"eth0", "lo"})
	want := `msg=copying maps="10.0.0.1:80 to 10.9.0.1:8080, port 443 of this host to 10.9.0.1:8443" interfaces="eth0, lo" responder=192.0.2.1:7443`
	if got := r.log.String(); !strings.Contains(got, want) {
		t.Errorf("log says %s, want %s in it", got, want)
	}
	r.cfg.Replay = &Replay{}
	r.tellStart([]string{"monday.pcap"})
	want = `msg=replaying maps="10.0.0.1:80 to 10.9.0.1:8080, port 443 of any server to 10.9.0.1:8443" files=monday.pcap responder=192.0.2.1:7443`
	if got := r.log.String(); !strings.Contains(got, want) {
		t.Errorf("log says %s, want %s in it", got, want)
	}
}
