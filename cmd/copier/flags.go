package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"flowtwin/copier"
	"flowtwin/internal/cli"
	"flowtwin/tunnel"
)

// inviteEnv may hold the invite.
const inviteEnv = "FLOWTWIN_INVITE"

// options is what the command line says.
type options struct {
	config     copier.Config
	logFile    string
	pidFile    string
	json       bool
	daemon     bool
	version    bool
	openInvite bool // the invite was given as an argument
}

// raw is the command line before it has been looked into.
type raw struct {
	options

	maps        []string
	servers     []string
	inviteFiles []string
	http        httpFlags
	replay      replayFlags
	record      recordFlags
	decap       []string
	connections string // rates
	bytes       string
}

// resolver looks up the addresses of names in maps.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// lookupTimeout bounds the look-ups of all names.
const lookupTimeout = 10 * time.Second

func (r *raw) flags() *cli.Flags {
	fs := cli.NewFlags("copier")
	c := &r.config
	fs.Group("What to copy where")
	fs.StringArrayVarP(&r.maps, "map", "x", nil, "copy `MAP`: [localIP:]port-targetIP:port[,...]; may be repeated; with several responders one for all, or the k-th for the k-th")
	fs.StringArrayVar(&r.inviteFiles, "invite-file", nil, "`FILE` with the responder's invite (otherwise from $"+inviteEnv+"); repeated: several responders")
	fs.StringArrayVarP(&r.servers, "server", "s", nil, "reach the responder at `HOST[:PORT]`, not at the invite's address; or the invite itself; repeated: the k-th with the k-th file")
	fs.BoolVar(&c.Split, "split", false, "each client goes to one of several responders only, by a hash of its address")
	fs.StringSliceVar(&c.Interfaces, "interface", nil, "`IFACE[,...]`: capture on these (default: all that are up)")
	fs.StringVar(&c.NetNS, "netns", "", "`PATH|PID`: capture inside a network namespace: its file, or a process in it, such as a container's")
	fs.StringSliceVar(&r.decap, "decap", nil, "`vxlan|geneve|gre[,...]`: capture only what is mirrored to this host inside of these")

	fs.Group("Which connections")
	fs.Float64VarP(&c.Sample, "sample", "r", 100, "copy `PERCENT` of the connections, such as 25 or 0.5: always the same ones, by a hash of client and port")
	fs.DurationVar(&c.Ramp, "ramp", 0, "begin with no connection and reach --sample after `TIME`, such as 10m (default: at once)")
	fs.Float64VarP(&c.Copies, "copies", "n", 1, "replay each connection `N` times, 1 to 1000, from client addresses of their own; 2.5: half of them three times")
	fs.DurationVar(&c.Jitter, "jitter", 0, "spread the copies of a connection over `TIME`; each is late as a whole (default: all at once)")
	fs.StringVar(&r.connections, "rate-connections", "", "let the responder refuse connections beyond `N` a second, copies included (default: none)")
	fs.StringVar(&r.bytes, "rate-bytes", "", "let the responder refuse new connections while clients' bytes are more than `SIZE` a second, such as 10M (default: none)")
	fs.StringVar(&c.Midstream, "midstream", copier.MidstreamAdopt, "`adopt|skip`: connections that were open before: copied from their next request after an answer on; or not copied")

	r.http.add(fs)
	r.replay.add(fs)
	r.record.add(fs, &c.HeaderFile)

	fs.Group("Run")
	fs.DurationVar(&c.Drain, "drain", 5*time.Second, "`TIME` that live connections have after SIGINT, SIGTERM or SIGHUP; up to 3 s later what waits for its target even then is cut, and accounted for")
	fs.StringVar(&c.Control, "control", "", "listen at the unix socket `PATH` for \"copier ctl\"")
	fs.StringVar(&c.ReportFile, "report", "", "write the final ledger as JSON to `FILE`")
	fs.IntVar(&c.Shards, "shards", 0, "`N` capture rings and lanes (default: one for every 4 CPUs, 1 to 4)")
	fs.IntVar(&c.Connections, "connections", 1, "`N` QUIC connections for the lanes; for long paths that lose packets")
	fs.BoolVarP(&r.daemon, "daemon", "d", false, "run in the background")
	fs.StringVarP(&r.logFile, "log", "l", "", "log to `FILE` (default: stderr)")
	fs.StringVarP(&r.pidFile, "pid", "P", "", "write the process id to `FILE`")
	fs.BoolVar(&r.json, "json", false, "log as JSON")
	fs.BoolVar(&r.version, "version", false, "print the version")
	fs.Float64Var(&c.InjectLoss, "inject-loss", 0, "throw away this `share` of the captured packets, 0 to 1: for tests of what becomes of holes")
	_ = fs.MarkHidden("inject-loss")
	return fs
}

// usage is what --help prints.
func usage() string {
	return `Usage: copier -x MAP -s HOST --invite-file FILE [flags]
       copier ctl [--control PATH] OPERATION    tell a running copier something; see "help"

Copies what clients send to this server to a target, live, through the responder
on the target host. Nothing on this host is changed; needs CAP_NET_RAW.

Examples:
  copier -x 80-192.168.44.137:80 --invite-file invite
      port 80 of this host to 192.168.44.137:80, by the responder's invite
  copier -x 80-10.1.0.9:8080,443-10.1.0.9:8443 -s 10.1.0.9 --invite-file invite
      two ports; the responder is reached at 10.1.0.9
  copier -x '[2001:db8::1]:80-[2001:db8:2::7]:80' --interface eth0 --invite-file invite
      one of this host's addresses only, on one interface
  copier -x 80-10.1.0.9:80 --invite-file invite -r 25 --ramp 10m
      a quarter of the connections, reached in ten minutes
  copier -x 80-10.1.0.9:80 --invite-file invite --http-host a.example --http-set-header 'X-Copy: 1'
      of HTTP/1 only requests for one host, each with a header of its own
  copier -x 80-10.1.0.9:80 --netns 4711 --invite-file invite
      port 80 of the container that process 4711 is in
  copier -x 10.1.0.5:80-10.1.0.9:80 --decap vxlan --invite-file invite
      what a VPC's mirror session sends to this host of the server 10.1.0.5
  copier -x 6379-redis-copy:6379 --invite-file invite -d -l /var/log/copier.log -P /run/copier.pid
      in the background
  copier -x 80-10.1.0.9:80 --invite-file invite -i 'monday-*.pcap.gz' -a 10
      a recording, ten times as fast

A map without a local address stands for all addresses of this host; one with a
local address goes before it. kill -USR1 prints the status; SIGINT, SIGTERM or
SIGHUP ends the copy and prints the ledger, a second SIGINT or SIGTERM ends it at once.
` + (&raw{}).flags().Help()
}

// parseFlags reads the command line. It looks up names and reads the invite, but
// changes nothing.
func parseFlags(args []string, getenv func(string) string, names resolver) (options, error) {
	var r raw
	fs := r.flags()
	if err := fs.Parse(args); err != nil {
		return r.options, cli.Explain(err, shortHint, longHint)
	}
	switch {
	case r.version:
		return r.options, nil
	case fs.NArg() > 0:
		return r.options, fmt.Errorf("%q: not a flag; see --help", fs.Arg(0))
	case len(r.maps) == 0:
		return r.options, errors.New("-x: no map given, such as -x 80-192.168.44.137:80; see --help")
	case fs.Changed("shards") && r.config.Shards < 1:
		return r.options, fmt.Errorf("--shards: %d is less than 1", r.config.Shards)
	case r.config.Connections < 1 || r.config.Connections > tunnel.MaxConnections:
		return r.options, fmt.Errorf("--connections: %d is not within 1..%d", r.config.Connections, tunnel.MaxConnections)
	case r.config.Midstream != copier.MidstreamAdopt && r.config.Midstream != copier.MidstreamSkip:
		return r.options, fmt.Errorf("--midstream: %q is neither adopt nor skip", r.config.Midstream)
	case !(r.config.Sample > 0 && r.config.Sample <= 100):
		return r.options, fmt.Errorf("-r, --sample: %v is not above 0 and up to 100 percent", r.config.Sample)
	case r.config.Ramp < 0:
		return r.options, fmt.Errorf("--ramp: %v is negative", r.config.Ramp)
	case r.config.Copies > 0 && r.config.Copies < 1:
		return r.options, fmt.Errorf("-n, --copies: %v is less than once; to copy a part of the connections: -r %v", r.config.Copies, 100*r.config.Copies)
	case !(r.config.Copies >= 1 && r.config.Copies <= copier.MaxCopies):
		return r.options, fmt.Errorf("-n, --copies: %v is not within 1..%d", r.config.Copies, copier.MaxCopies)
	case r.config.Jitter < 0 || r.config.Jitter > copier.MaxJitter:
		return r.options, fmt.Errorf("--jitter: %v is not within 0..%v", r.config.Jitter, copier.MaxJitter)
	case r.config.InjectLoss < 0 || r.config.InjectLoss > 1:
		return r.options, fmt.Errorf("--inject-loss: %v is not within 0..1", r.config.InjectLoss)
	case r.config.Drain < 0:
		return r.options, fmt.Errorf("--drain: %v is negative", r.config.Drain)
	}
	var err error
	if r.config.Decap, err = copier.ParseDecap(r.decap); err != nil {
		return r.options, fmt.Errorf("--decap: %w", err)
	}
	if r.config.HTTP, err = r.http.parse(fs); err != nil {
		return r.options, err
	}
	r.config.HTTPPass = r.http.onError == onErrorPass
	if r.config.Replay, err = r.replay.parse(fs); err != nil {
		return r.options, err
	}
	if r.config.Record, err = r.record.parse(fs); err != nil {
		return r.options, err
	}
	if r.config.Record != nil {
		r.config.Record.Alone = len(r.servers)+len(r.inviteFiles) == 0 && getenv(inviteEnv) == ""
	}
	if err := r.rates(); err != nil {
		return r.options, err
	}
	if err := r.combined(fs); err != nil {
		return r.options, err
	}
	return r.options, r.targets(getenv, names)
}
