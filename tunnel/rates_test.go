package tunnel

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

// What a user says while the tunnel is down or breaks must hold when it is up again,
// without anybody saying it twice.
func TestSetRates(t *testing.T) {
	checkLeaks(t)
	id := testIdentity(t)
	s := listen(t, ServerConfig{Identity: id})
	c := newClient(t, ClientConfig{Invite: id.Invite([]string{s.Addr().String()}, time.Time{}), Rates: Rates{Bytes: 1}})
	ctx := testContext(t)
	first := Rates{Connections: 0.5}
	if told, err := c.SetRates(ctx, first); told || err != nil {
		t.Errorf("before it is connected: %v, %v", told, err)
	}
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	p, err := s.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if h := p.Hello(); h.Rates != first {
		t.Errorf("the handshake says %+v", h.Rates)
	}
	early := Rates{Connections: 7}
	if told, err := c.SetRates(ctx, early); !told || err != nil {
		t.Errorf("before anybody keeps them: %v, %v", told, err)
	}
	var kept []Rates
	p.HandleRates(func(r Rates) { kept = append(kept, r) })
	late := Rates{Connections: 100, Bytes: 1e6}
	if told, err := c.SetRates(ctx, late); !told || err != nil {
		t.Errorf("while somebody keeps them: %v, %v", told, err)
	}
	for _, r := range []Rates{{Connections: -1}, {Bytes: math.NaN()}, {Bytes: math.Inf(1)}} {
		if _, err := c.SetRates(ctx, r); err == nil {
			t.Errorf("%+v is taken", r)
		}
	}
	last := Rates{Bytes: 5}
	p.HandleRates(func(r Rates) {
		if r == last {
			_ = p.Close("test")
		}
	})
	if len(kept) != 2 || kept[0] != early || kept[1] != late {
		t.Errorf("the responder keeps %+v", kept)
	}
	if told, err := c.SetRates(ctx, last); told || err != nil {
		t.Errorf("to a responder that closes: %v, %v", told, err)
	}
	<-c.current().done
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if p, err = s.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	if h := p.Hello(); h.Rates != last {
		t.Errorf("the next connection says %+v", h.Rates)
	}
}

// A rate that a responder cannot be told now, since it is busy with a question, must be
// said as soon as it is not: a connection that lives may live for weeks.
func TestRatesSaidLate(t *testing.T) {
	c, p := pair(t, ClientConfig{})
	asked, free := make(chan struct{}), make(chan struct{})
	kept := make(chan Rates, 10)
	p.HandleRates(func(r Rates) {
		if r.Connections == 1 {
			close(asked)
			<-free
		}
		kept <- r
	})
	ctx, cancel := context.WithCancel(testContext(t))
	go func() {
		<-asked
		cancel()
	}()
	for per := 1.0; per <= 3; per++ {
		if told, err := c.SetRates(ctx, Rates{Connections: per}); told || err != nil {
			t.Errorf("while the responder is busy: %v, %v", told, err)
		}
	}
	close(free)
	for _, want := range []float64{0, 1, 3} { // what holds no more nobody needs to hear
		select {
		case r := <-kept:
			if r.Connections != want {
				t.Errorf("%+v is kept, want %v connections", r, want)
			}
		case <-testContext(t).Done():
			t.Fatalf("%v connections a second are not kept", want)
		}
	}
}

// A copier of another make must not make sums of ours overflow, or turn a limit
// around.
func TestRatesThatNoneCanBe(t *testing.T) {
	c, p := pair(t, ClientConfig{})
	p.HandleRates(func(r Rates) {
		if r != (Rates{}) {
			t.Errorf("takes %+v", r)
		}
	})
	for _, r := range []Rates{{Connections: -1}, {Bytes: 1e300}} {
		if err := c.ask(testContext(t), ask{what: controlRates, msg: ratesMsg{r}}); !errors.Is(err, ErrRefused) {
			t.Errorf("%+v: %v", r, err)
		}
		h := helloMsg{Lanes: 1, Connections: 1, Maps: testMaps(), Rates: r}
		if h.check() == nil {
			t.Errorf("%+v is taken at the handshake", r)
		}
	}
}

func TestChangeRates(t *testing.T) {
	var r Rates
	for _, tt := range []struct{ what, per, want string }{
		{"connections", "100", "connections: 100 a second"},
		{"bytes", "10MB/s", "bytes: 10000000 a second"},
		{"connections", "off", "connections: no limit"},
		{"100", "off", ""},
		{"bytes", "much", ""},
	} {
		if got, err := r.Change(tt.what, tt.per); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s %s: %q, %v", tt.what, tt.per, got, err)
		}
	}
	if _, err := r.Change("bytes", "0"); err == nil || !strings.HasSuffix(err.Error(), ", or off") {
		t.Errorf("0 is refused as %v: how to have no limit?", err)
	}
	if r != (Rates{Bytes: 1e7}) {
		t.Errorf("in the end %+v", r)
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]float64{
		"500": 500, "0.5/s": 0.5, "10M": 10e6, "10MB/s": 10e6, "64KiB/s": 64 << 10, "1k": 1000, "2G": 2e9, "3Gi/s": 3 << 30,
		"": 0, "0": 0, "-1": 0, "NaN": 0, "inf": 0, "10 M": 0, "M": 0, "1e300": 0, "10/m": 0,
	} {
		if got, err := ParseRate(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}
