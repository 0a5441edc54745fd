package copier

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"flowtwin/copier/report"
	"flowtwin/internal/ctl"
	"flowtwin/internal/flow"
	"flowtwin/tunnel"
)

// answerWait is how long a responder has to say whether it takes a map, or a rate.
const answerWait = 5 * time.Second

// table returns what a running copier can be told; drain does what SIGTERM does. The
// operations come one at a time.
func (f *fleet) table(drain func()) ctl.Table {
	each := func(do func(c *copier, args []string) (string, error)) func(context.Context, []string) (any, error) {
		return func(_ context.Context, args []string) (any, error) { return f.on(f.copiers, args, do) }
	}
	return ctl.Table{
		"status": {Help: "the ledger as it stands, as JSON", Reads: true, Do: f.status},
		"pause":  {Help: "end all sessions and copy nothing; connections are followed on", Do: each((*copier).pause)},
		"resume": {Help: "copy again: new connections, and open ones from their next request on", Do: each((*copier).resume)},
		"percent": {
			Args: "PERCENT", Help: "the share of the connections that begin from now on, 0 to 100; ends a ramp", Min: 1,
			Do: each((*copier).setPercent),
		},
		"n": {Args: "N", Help: "how often connections that begin from now on are replayed", Min: 1, Do: each((*copier).setCopies)},
		"rate": {
			Args: "connections|bytes N|off", Help: "let the responder refuse whole connections beyond so much a second", Min: 2,
			Do: func(ctx context.Context, args []string) (any, error) {
				return f.on(f.copiers, args, func(c *copier, args []string) (string, error) { return c.setRate(ctx, args[0], args[1]) })
			},
		},
		"map": {
			Args: "add MAP[,MAP...] [TARGET] | remove [IP:]PORT [TARGET]", Min: 2, Max: 3,
			Help: "copy a further port, or one no more; with several targets add needs the TARGET's name", Do: f.remap,
		},
		"drain": {Help: "end as by SIGTERM: no new connections, the open ones have time", Do: func(context.Context, []string) (any, error) {
			f.end(drain)
			return "draining", nil
		}},
		"stop": {Help: "end at once: all sessions are cut", Do: func(context.Context, []string) (any, error) {
			for _, c := range f.copiers {
				c.halts.Do(func() { close(c.halt) })
			}
			f.end(drain)
			return "stopping", nil
		}},
	}
}

// end has the copiers drain. What clients begin once that is answered is not copied.
func (f *fleet) end(drain func()) {
	for _, c := range f.copiers {
		c.order()
	}
	drain()
}

// on does something to copiers, and joins what they say.
func (f *fleet) on(copiers []*copier, args []string, do func(c *copier, args []string) (string, error)) (any, error) {
	var said []string
	var errs []error
	for _, c := range copiers {
		text, err := do(c, args)
		if len(f.copiers) > 1 {
			text = c.cfg.name + ": " + text
			if err != nil {
				err = fmt.Errorf("%s: %w", c.cfg.name, err)
			}
		}
		if err == nil {
			said = append(said, text)
		}
		errs = append(errs, err)
	}
	return strings.Join(said, "\n"), errors.Join(errs...)
}

func (f *fleet) status(context.Context, []string) (any, error) {
	if len(f.copiers) == 1 {
		return f.copiers[0].summary(), nil
	}
	var sums []*report.Summary
	for _, c := range f.copiers {
		sums = append(sums, c.summary())
	}
	return report.Several(sums), nil
}

// state says what the copier was told to do.
func (c *copier) state() string {
	if c.draining.Load() {
		return "draining"
	}
	c.sampling.mu.Lock()
	defer c.sampling.mu.Unlock()
	if c.sampling.paused {
		return "paused"
	}
	return "copying"
}

// pause ends all sessions. Connections are followed on, so that they can be copied
// again.
func (c *copier) pause([]string) (string, error) { return c.setPaused(true) }

func (c *copier) resume([]string) (string, error) { return c.setPaused(false) }

func (c *copier) setPaused(paused bool) (string, error) {
	c.sampling.mu.Lock()
	defer c.sampling.mu.Unlock()
	c.sampling.paused = paused
	c.tellLocked(nil)
	if paused {
		return "paused", nil
	}
	return "copying", nil
}

func (c *copier) setPercent(args []string) (string, error) {
	percent, err := strconv.ParseFloat(strings.TrimSuffix(args[0], "%"), 64)
	if err != nil || !(percent >= 0 && percent <= 100) {
		return "", fmt.Errorf("%q is not within 0..100", args[0])
	}
	c.sampling.mu.Lock()
	defer c.sampling.mu.Unlock()
	c.sampling.manual = true
	if err := c.sampleLocked(percent); err != nil {
		return "", err
	}
	return fmt.Sprintf("%v %% of the connections that begin from now on", flow.Sampled(percent).Percent()), nil
}

func (c *copier) setCopies(args []string) (string, error) {
	n, err := strconv.ParseFloat(args[0], 64)
	if err != nil || !(n >= 1 && n <= MaxCopies) {
		return "", fmt.Errorf("%q is not within 1..%d", args[0], MaxCopies)
	}
	if c.cfg.Record != nil && c.cfg.Record.Alone {
		return "", errNotCopied
	}
	c.sampling.mu.Lock()
	defer c.sampling.mu.Unlock()
	c.amount = newAmount(n, c.cfg.Jitter)
	c.tellLocked(nil)
	return fmt.Sprintf("connections that begin from now on are replayed %v times", n), nil
}

// setRate has the responder keep another rate.
func (c *copier) setRate(ctx context.Context, what, per string) (string, error) {
	rates := c.limited()
	said, err := rates.Change(what, per)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	told, err := c.tunnel.SetRates(ctx, rates)
	if err != nil {
		return "", err
	}
	c.sampling.mu.Lock()
	c.rates = rates
	c.sampling.mu.Unlock()
	if !told {
		said += ", as soon as the responder can be reached"
	}
	return said, nil
}

// limited returns the rates that the responder is to keep.
func (c *copier) limited() tunnel.Rates {
	c.sampling.mu.Lock()
	defer c.sampling.mu.Unlock()
	return c.rates
}

// remap adds maps or removes one.
func (f *fleet) remap(ctx context.Context, args []string) (any, error) {
	defer f.share()
	copiers := f.copiers
	if len(args) > 2 {
		copiers = nil
		for _, c := range f.copiers {
			if c.cfg.name == args[2] {
				copiers = []*copier{c}
			}
		}
	}
	switch {
	case copiers == nil:
		return nil, fmt.Errorf("%q is no target; see status", args[2])
	case args[0] == "remove":
		return f.on(copiers, args[1:2], (*copier).removeMap)
	case args[0] != "add":
		return nil, fmt.Errorf("%q is neither add nor remove", args[0])
	case len(copiers) > 1:
		return nil, errors.New("there are several targets; name the one that the map is for")
	}
	maps, err := f.cfg.ParseMaps(ctx, args[1])
	if err != nil {
		return nil, err
	}
	if err := copiers[0].addMaps(ctx, maps); err != nil {
		return nil, err
	}
	return "copying " + describeMaps(maps), nil
}

// addMaps begins to copy by further maps: the responder must take them, then the
// shards know them, then the filter lets their packets pass.
func (c *copier) addMaps(ctx context.Context, maps []tunnel.Map) error {
	if c.player != nil {
		return errors.New("a recording's maps stay what they are")
	}
	before := c.maps.list.Load()
	list := before
	for _, m := range maps {
		there := -1
		for i, old := range list.maps {
			switch {
			case old.Server != m.Server || old.Port != m.Port:
			case !list.gone[i]:
				return fmt.Errorf("%s is copied already", describeMaps([]tunnel.Map{old}))
			case old == m:
				there = i
			}
		}
		if there >= 0 {
			list = list.marked(there, false)
		} else {
			list = list.with([]tunnel.Map{m})
		}
	}
	if len(list.maps) > len(before.maps) {
		ctx, cancel := context.WithTimeout(ctx, answerWait)
		defer cancel()
		if err := c.tunnel.SetMaps(ctx, list.maps); err != nil {
			return err
		}
	}
	return c.setMaps(list)
}

// removeMap copies one port no more, at once.
func (c *copier) removeMap(args []string) (string, error) {
	server, port, err := parseLocal(args[0])
	if err != nil {
		return "", err
	}
	list := c.maps.list.Load()
	for i, m := range list.maps {
		if m.Server != server || m.Port != port || list.gone[i] {
			continue
		}
		if len(list.present()) == 1 {
			return "", errors.New("it is the only map; see pause and stop")
		}
		if err := c.setMaps(list.marked(i, true)); err != nil {
			return "", err
		}
		return "copying " + describeMaps(c.maps.list.Load().present()), nil
	}
	return "", fmt.Errorf("%s is not copied; what is: %s", args[0], describeMaps(list.present()))
}

func (c *copier) setMaps(list *mapList) error {
	c.sampling.mu.Lock()
	defer c.sampling.mu.Unlock()
	before := c.maps.list.Load()
	c.maps.list.Store(list)
	c.tellLocked(nil)
	if err := c.filterLocked(c.sampling.filter); err != nil {
		c.maps.list.Store(list.like(before))
		c.tellLocked(nil)
		return err
	}
	return nil
}

// parseLocal reads the local side of a map, [IP:]PORT.
func parseLocal(text string) (server netip.Addr, port uint16, err error) {
	if a, err := netip.ParseAddrPort(text); err == nil {
		return a.Addr().Unmap(), a.Port(), nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "*:"), 10, 16)
	if err != nil || n == 0 {
		return server, 0, fmt.Errorf("%q is not [IP:]PORT", text)
	}
	return server, uint16(n), nil
}
