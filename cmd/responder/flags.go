package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"flowtwin/internal/cli"
	"flowtwin/responder"
	"flowtwin/tunnel"
)

// options is what the command line says.
type options struct {
	config  responder.Config
	logFile string
	pidFile string
	json    bool
	daemon  bool
	version bool
}

// raw is the command line before it has been looked into.
type raw struct {
	options

	listen string
	allow  []string
	pool   []string
	gate   string
	client string
	closes string

	connections, bytes   string // rates
	rtt, bandwidth, loss string
}

func (r *raw) flags() *cli.Flags {
	fs := cli.NewFlags("responder")
	c := &r.config
	fs.Group("Who may copy what")
	fs.StringVar(&r.listen, "listen", ":7443", "take copiers at UDP `[HOST]:PORT`")
	fs.StringSliceVar(&r.allow, "allow", nil, "`TARGET[,...]`: what copiers may name: address, address:port or prefix (default: all addresses of this host)")
	fs.StringVar(&c.InviteFile, "invite-file", "", "write the invite for copiers to `FILE`")
	fs.StringSliceVar(&c.Advertise, "advertise", nil, "`HOST[:PORT][,...]`: what the invite names (default: this host's addresses)")
	fs.DurationVar(&c.InviteTTL, "invite-ttl", 0, "`TIME` that the invite is good for (default: for ever)")
	fs.StringVar(&c.StateDir, "state-dir", "", "`DIR` of key and secret (default: "+responder.DefaultStateDir+")")

	fs.Group("How the target sees clients")
	fs.StringSliceVarP(&r.pool, "client-pool", "c", nil, "`POOL[,...]` of their addresses: prefix, address, or 192.168.50.x (default: 198.18.0.0/15,2001:2::/48)")
	fs.StringVar(&r.client, "client-address", "pool", "`pool|original`: at addresses of the pool; or at their own, answered by the TUN device through a routing rule for the target's port")
	fs.BoolVar(&c.Force, "client-address-force", false, "with original: also where others are connected to the target, who will get no answers")
	fs.StringVar(&r.rtt, "rtt", "", "`40ms[±10ms]|client`: emulate a network with this round-trip time; client: each client's own, as it was online")
	fs.StringVar(&r.bandwidth, "bandwidth", "", "emulate a network with this rate for each connection and direction, as `10mbit`")
	fs.StringVar(&r.loss, "loss", "", "emulate a network that loses this share of the packets, as `1%`")

	fs.Group("When requests leave")
	fs.StringVar(&r.gate, "gate", "turn", "`turn|off`: a request waits until the target has answered the one before it; or does not")
	fs.DurationVar(&c.MaxHold, "max-hold", responder.DefaultMaxHold, "`TIME` that a request waits at most; a client's end ten times as long")
	fs.DurationVar(&c.Settle, "settle", responder.DefaultSettle, "an answer of other length than online is over when the target has been quiet for `TIME`")
	fs.StringVar(&r.closes, "on-target-close", "reconnect", "`reconnect|end`: when the target closes and its client goes on: from its next request on to another connection; or no further")

	fs.Group("How much")
	fs.StringVar(&r.connections, "rate-connections", "", "refuse flows beyond `N` connections a second, copies included (default: none)")
	fs.StringVar(&r.bytes, "rate-bytes", "", "refuse new flows while clients' bytes are more than `SIZE` a second, such as 10M (default: none)")
	fs.IntVar(&c.Sessions, "max-sessions", 200_000, "refuse flows beyond `N` sessions")

	fs.Group("Run")
	fs.DurationVar(&c.Drain, "drain", 5*time.Second, "`TIME` that sessions have after SIGINT, SIGTERM or SIGHUP; then they are cut, and copiers have up to 1 s more to take the accounts")
	fs.StringVar(&c.Control, "control", "", "listen at the unix socket `PATH` for \"responder ctl\"")
	fs.StringVar(&c.ReportFile, "report", "", "write the final summary as JSON to `FILE`")
	fs.IntVar(&c.Shards, "shards", 0, "`N` stacks and TUN queues (default: one for each CPU, at most 4)")
	fs.BoolVarP(&r.daemon, "daemon", "d", false, "run in the background")
	fs.StringVarP(&r.logFile, "log", "l", "", "log to `FILE` (default: stderr)")
	fs.StringVarP(&r.pidFile, "pid", "P", "", "write the process id to `FILE`")
	fs.BoolVar(&r.json, "json", false, "log as JSON")
	fs.BoolVar(&r.version, "version", false, "print the version")
	return fs
}

// usage is what --help prints.
func usage() string {
	return `Usage: responder [--listen :7443] [--allow TARGET] --invite-file FILE [flags]

Plays what copiers send to applications on this host, over a TUN device of its
own, and returns the headers of their answers. Needs CAP_NET_ADMIN. The device and
its route are all that changes on this host, and they go when it ends; with
--client-address=original also a routing rule for each target.

Examples:
  responder --allow 192.168.44.137:80 --invite-file invite
      port 80 of one address; give the file to the copiers
  responder --listen :7443 --advertise target.example.net --invite-file invite
      any target on this host; copiers reach it under its name
  responder -c 192.168.50.x --invite-file invite
      the target sees clients in 192.168.50.0/24
  responder --client-address=original --rtt=client --allow 192.168.44.137:80 --invite-file invite
      the target sees clients' own addresses, as far away as they were online
  responder --invite-file invite -d -l /var/log/responder.log -P /run/responder.pid
      in the background

kill -USR1 logs the status; SIGINT, SIGTERM or SIGHUP lets the sessions finish and
ends it, a second SIGINT or SIGTERM ends it at once.
` + (&raw{}).flags().Help()
}

// parseFlags reads the command line; it changes nothing. Errors name the flag.
func parseFlags(args []string) (options, error) {
	var r raw
	fs := r.flags()
	if err := fs.Parse(args); err != nil {
		return r.options, cli.Explain(err, letterHint, nameHint)
	}
	c := &r.config
	switch {
	case r.version:
		return r.options, nil
	case fs.NArg() > 0:
		return r.options, fmt.Errorf("%q: not a flag; see --help", fs.Arg(0))
	case fs.Changed("shards") && c.Shards < 1:
		return r.options, fmt.Errorf("--shards: %d is less than 1", c.Shards)
	case c.Sessions < 1:
		return r.options, fmt.Errorf("--max-sessions: %d is less than 1", c.Sessions)
	case c.MaxHold <= 0:
		return r.options, fmt.Errorf("--max-hold: %v is not positive; --gate=off lets nothing wait", c.MaxHold)
	case c.Settle <= 0:
		return r.options, fmt.Errorf("--settle: %v is not positive", c.Settle)
	case c.Drain < 0:
		return r.options, fmt.Errorf("--drain: %v is negative", c.Drain)
	case c.InviteTTL < 0 || fs.Changed("invite-ttl") && c.InviteTTL == 0:
		return r.options, fmt.Errorf("--invite-ttl: %v is not positive", c.InviteTTL)
	}
	if err := r.choices(); err != nil {
		return r.options, err
	}
	var err error
	if c.Listen, err = parseListen(r.listen); err != nil {
		return r.options, err
	}
	for _, a := range r.allow {
		rule, err := responder.ParseRule(a)
		if err != nil {
			return r.options, fmt.Errorf("--allow: %w", err)
		}
		c.Allow = append(c.Allow, rule)
	}
	if n := len(c.Advertise); n > maxAdvertised {
		return r.options, fmt.Errorf("--advertise: %d addresses, an invite has room for %d", n, maxAdvertised)
	}
	for _, a := range c.Advertise {
		if err := checkAdvertise(a); err != nil {
			return r.options, err
		}
	}
	if err := r.rates(); err != nil {
		return r.options, err
	}
	c.Pool, err = parsePool(r.pool)
	return r.options, err
}

// rates reads the flags that are so much a second.
func (r *raw) rates() (err error) {
	c := &r.config
	if r.connections != "" {
		if c.RateConnections, err = tunnel.ParseRate(r.connections); err != nil {
			return fmt.Errorf("--rate-connections: %w", err)
		}
	}
	if r.bytes != "" {
		if c.RateBytes, err = tunnel.ParseRate(r.bytes); err != nil {
			return fmt.Errorf("--rate-bytes: %w", err)
		}
	}
	return nil
}

// choices reads the flags that have one of a few values.
func (r *raw) choices() error {
	c := &r.config
	switch r.gate {
	case "turn":
	case "off":
		c.GateOff = true
	default:
		return fmt.Errorf("--gate: %q is neither turn nor off", r.gate)
	}
	switch r.closes {
	case "reconnect":
	case "end":
		c.End = true
	default:
		return fmt.Errorf("--on-target-close: %q is neither reconnect nor end", r.closes)
	}
	switch r.client {
	case "pool":
	case "original":
		c.Original = true
	default:
		return fmt.Errorf("--client-address: %q is neither pool nor original", r.client)
	}
	if c.Force && !c.Original {
		return errors.New("--client-address-force: it belongs to --client-address=original")
	}
	var err error
	c.Line, err = parseLine(r.rtt, r.bandwidth, r.loss)
	return err
}

// parseListen checks host:port; a port alone stands for all addresses.
func parseListen(s string) (string, error) {
	if !strings.Contains(s, ":") {
		s = ":" + s
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("--listen: %q is not [host]:port", s)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("--listen: %q: port %q is not within 0..65535", s, port)
	}
	return s, nil
}

// What an invite has room for: a name may get our port, so that it must be a
// little shorter.
const (
	maxAdvertised    = 16
	maxAdvertisedLen = 255 - len(":65535")
)

func checkAdvertise(s string) error {
	if len(s) > maxAdvertisedLen {
		return fmt.Errorf("--advertise: %.20q… has %d bytes, at most %d find room", s, len(s), maxAdvertisedLen)
	}
	if !cli.IsHostPort(s) {
		return fmt.Errorf("--advertise: %q is not host or host:port", s)
	}
	return nil
}

// parsePool reads prefixes, single addresses, and tcpcopy's 192.168.50.x, which
// stands for the 256 addresses of 192.168.50.0/24.
func parsePool(list []string) ([]netip.Prefix, error) {
	var pool []netip.Prefix
	for _, s := range list {
		p, err := poolPrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		for _, o := range pool {
			if o.Overlaps(p) {
				return nil, fmt.Errorf("-c: %s and %s overlap", o, p)
			}
		}
		pool = append(pool, p)
	}
	return pool, nil
}

func poolPrefix(s string) (netip.Prefix, error) {
	text := s
	if net3, ok := strings.CutSuffix(s, ".x"); ok {
		text = net3 + ".0/24"
	}
	p, err := netip.ParsePrefix(text)
	if a, addrErr := netip.ParseAddr(text); addrErr == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return p, fmt.Errorf("-c: %q is not a prefix such as 198.18.0.0/15, an address, or 192.168.50.x", s)
	case p.Addr().Is4In6():
		return p, errors.New("-c: " + s + ": write IPv4 addresses as such")
	case p != p.Masked():
		return p, fmt.Errorf("-c: %s has bits behind its length; is %s meant?", s, p.Masked())
	}
	return p, nil
}
