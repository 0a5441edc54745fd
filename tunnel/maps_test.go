package tunnel

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func moreMaps() []Map {
	return append(testMaps(), Map{Port: 81, Target: netip.MustParseAddrPort("192.0.2.1:81")})
}

// A map is added while flows run: the responder decides before the first flow can
// name it, and a reconnect names it again.
func TestSetMaps(t *testing.T) {
	checkLeaks(t)
	id := testIdentity(t)
	s := listen(t, ServerConfig{Identity: id})
	c := newClient(t, ClientConfig{Invite: id.Invite([]string{s.Addr().String()}, time.Time{})})
	ctx := testContext(t)
	if err := c.SetMaps(ctx, moreMaps()); !errors.Is(err, ErrNotConnected) {
		t.Errorf("before it is connected: %v", err)
	}
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	p, err := s.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetMaps(ctx, moreMaps()); !errors.Is(err, ErrRefused) {
		t.Errorf("without a handler: %v", err)
	}
	var got [][]Map
	p.HandleMaps(func(m []Map) error {
		got = append(got, m)
		if len(m) > 2 {
			return errors.New(strings.Repeat("\x01", 2000))
		}
		return nil
	})
	if err := c.SetMaps(ctx, moreMaps()); err != nil {
		t.Fatal(err)
	}
	if err := c.SetMaps(ctx, append(moreMaps(), moreMaps()[0])); !errors.Is(err, ErrRefused) {
		t.Errorf("refused with a long reason: %v", err)
	}
	reason := strings.Repeat("a hint at what to do ", 30) + "ends here"
	p.HandleMaps(func([]Map) error { return errors.New(reason) })
	if err := c.SetMaps(ctx, moreMaps()); err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("of a reason of %d bytes arrives: %v", len(reason), err)
	}
	if err := c.SetMaps(ctx, nil); err == nil {
		t.Error("took no maps at all")
	}
	if len(got) != 2 || !slices.Equal(got[0], moreMaps()) {
		t.Errorf("the responder was asked for %v", got)
	}
	_ = p.Close("test")
	<-c.current().done
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if p, err = s.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	if h := p.Hello(); !slices.Equal(h.Maps, moreMaps()) {
		t.Errorf("the next connection names %v", h.Maps)
	}
}

// Whoever adds a map must get an answer, also from a responder that is gone.
func TestSetMapsEndsWithTheConnection(t *testing.T) {
	c, p := pair(t, ClientConfig{})
	p.HandleMaps(func([]Map) error { return p.Close("test") })
	if err := c.SetMaps(testContext(t), moreMaps()); err == nil {
		t.Error("taken by a responder that has closed")
	}
}

func TestSetMapsEndsWithItsContext(t *testing.T) {
	c, p := pair(t, ClientConfig{})
	ctx, cancel := context.WithCancel(testContext(t))
	stay := make(chan struct{})
	p.HandleMaps(func([]Map) error { cancel(); <-stay; return nil })
	if err := c.SetMaps(ctx, moreMaps()); !errors.Is(err, context.Canceled) {
		t.Errorf("an impatient caller gets %v", err)
	}
	close(stay)
}
