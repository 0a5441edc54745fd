package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

const unixTerm = unix.SIGTERM

// A bench takes the measurements and keeps their figures.
type bench struct {
	lab                       *lab
	bin                       string
	runs                      int
	seconds                   time.Duration
	copierArgs, responderArgs string
	figures                   []figure
}

// A figure is one row of the table.
type figure struct {
	Name    string
	Unit    string
	Value   float64
	Least   string // what issue 1 asks for at least
	Aim     string
	Samples []float64
}

type measurement struct {
	name string
	run  func(context.Context) error
}

// add keeps the median of samples under name.
func (b *bench) add(name, unit, least, aim string, samples []float64) {
	s := slices.Clone(samples)
	slices.Sort(s)
	b.figures = append(b.figures, figure{name, unit, s[len(s)/2], least, aim, samples})
}

func (b *bench) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tmedian\tunit\tat least\taim\truns")
	for _, f := range b.figures {
		var runs []string
		for _, s := range f.Samples {
			runs = append(runs, strconv.FormatFloat(s, 'g', 4, 64))
		}
		fmt.Fprintf(t, "%s\t%.4g\t%s\t%s\t%s\t%s\n", f.Name, f.Value, f.Unit, f.Least, f.Aim, strings.Join(runs, " "))
	}
	_ = t.Flush()
}

func (b *bench) writeJSON(file string) error {
	out, err := json.MarshalIndent(b.figures, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(out, '\n'), 0o644)
}

// measurements are all that the bench knows, in the order of the table.
func (b *bench) measurements() []measurement {
	var all []measurement
	keep := func(rate int, least, aim string) {
		name := "keepalive-" + rateName(rate)
		all = append(all, measurement{name, func(ctx context.Context) error {
			return b.copied(ctx, name, load{conns: 50, rate: rate, path: "/index.html"}, least, aim, rate == 1000 || rate == 10000)
		}})
	}
	keep(1000, "28", "14")
	keep(5000, "9.5", "4.75")
	keep(10000, "6.25", "3.1")
	keep(0, "2.45", "1.2")
	for _, l := range []struct {
		name string
		load
	}{
		{"short-1k", load{conns: 20, rate: 1000, short: true, path: "/index.html"}},
		{"short-full", load{conns: 20, short: true, path: "/index.html"}},
		{"post-64k", load{conns: 20, rate: 200, body: 64 << 10, path: "/post"}},
		{"post-1m", load{conns: 10, rate: 10, body: 1 << 20, path: "/post"}},
		{"conns-5000", load{conns: 5000, rate: 5000, path: "/index.html"}},
	} {
		all = append(all, measurement{l.name, func(ctx context.Context) error {
			return b.copied(ctx, l.name, l.load, "", "", false)
		}})
	}
	return append(all,
		measurement{"throughput", b.throughput},
		measurement{"client-keepalive", func(ctx context.Context) error {
			return b.against(ctx, "keep-alive request", load{conns: 50, path: "/index.html"}, "1.5", "1.2")
		}},
		measurement{"client-short", func(ctx context.Context) error {
			return b.against(ctx, "short connection", load{conns: 20, short: true, path: "/index.html"}, "2.0", "1.3")
		}},
		measurement{"lag", b.lag},
		measurement{"memory", b.memory},
		measurement{"amplify", b.amplify},
		measurement{"sample", b.sample},
		measurement{"fanout", b.fanout},
		measurement{"replay", b.replay},
	)
}

func rateName(rate int) string {
	if rate == 0 {
		return "full"
	}
	return strconv.Itoa(rate/1000) + "k"
}

// copied runs a load with the copier and says how exact the copy was and what
// it cost; with busy also what the whole machine paid, against runs without.
func (b *bench) copied(ctx context.Context, name string, l load, least, aim string, busy bool) error {
	var cost, other, requests, conns, rates, extra []float64
	for range b.runs {
		r, err := b.runCopied(ctx, l)
		if err != nil {
			return err
		}
		if busy {
			without, err := b.runPlain(ctx, l)
			if err != nil {
				return err
			}
			extra = append(extra, 1e6*(r.busy/float64(r.load.Requests)-without.busy/float64(without.load.Requests)))
		}
		per1000 := 1e6 / float64(r.load.Requests)
		cost, other = append(cost, r.copierCPU*per1000), append(other, r.responderCPU*per1000)
		rates = append(rates, float64(r.load.Requests)/r.load.Seconds)
		requests = append(requests, percent(r.exact.Copied, r.exact.Requests))
		conns = append(conns, percent(r.exact.Identical, r.exact.Connections))
	}
	b.add(name+": requests copied", "%", "100", "100", requests)
	b.add(name+": connections identical", "%", "100", "100", conns)
	b.add(name+": copier CPU", "ms/1000 requests", least, aim, cost)
	b.add(name+": responder CPU", "ms/1000 requests", "", "", other)
	b.add(name+": clients' rate", "requests/s", "", "", rates)
	if busy {
		limit := map[int]string{1000: "120", 10000: "44"}[l.rate]
		goal := map[int]string{1000: "84", 10000: "31"}[l.rate]
		b.add(name+": whole machine, more than without copier", "ms/1000 requests", limit, goal, extra)
	}
	return nil
}

func percent(part, whole int) float64 { return 100 * float64(part) / float64(max(whole, 1)) }

// A run is one load with both servers and, perhaps, the two programs.
type run struct {
	load                    loadResult
	exact                   exactness
	copierCPU, responderCPU float64
	busy                    float64 // whole machine, while the load ran
}

// runCopied runs the load with everything in place.
func (b *bench) runCopied(ctx context.Context, l load) (r run, err error) {
	online, target, err := b.servers(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, online.stop(), target.stop()) }()
	responder, copier, err := b.programs(ctx)
	if err != nil {
		return r, err
	}
	l.addr, l.duration = onlineAddr+":80", b.seconds
	before, busy := [2]float64{processCPU(copier.pid()), processCPU(responder.pid())}, machineBusy()
	r.load, err = b.lab.load(ctx, b.lab.clients, l)
	if err == nil {
		err = b.settled(ctx)
	}
	r.busy = machineBusy() - busy
	r.copierCPU = processCPU(copier.pid()) - before[0]
	r.responderCPU = processCPU(responder.pid()) - before[1]
	if err = errors.Join(err, copier.stop(), responder.stop()); err != nil {
		return r, err
	}
	r.exact, err = b.compareLogs()
	return r, err
}

// rest is how long a log must not grow to be complete: nginx flushes its own
// every second. A log that lacks requests is given patience: a responder that is
// seconds behind on a busy CPU may leave the target without any for a while.
const (
	rest     = 1500 * time.Millisecond
	patience = 8 * time.Second
)

// settled waits until the target's log has stopped growing.
func (b *bench) settled(ctx context.Context) error {
	target, online := filepath.Join(b.lab.dir, "target", "access.log"), filepath.Join(b.lab.dir, "online", "access.log")
	last, since := int64(-1), time.Now()
	return until(ctx, "target's log at rest", 60*time.Second, func() bool {
		st, err := os.Stat(target)
		if err != nil || st.Size() != last {
			if err == nil {
				last = st.Size()
			}
			since = time.Now()
			return false
		}
		quiet := time.Since(since)
		return quiet > patience || quiet > rest && lines(target) >= lines(online)
	})
}

// lines counts the lines of a file, 0 when it cannot be read.
func lines(file string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	return bytes.Count(b, []byte{'\n'})
}

func (b *bench) compareLogs() (exactness, error) {
	online, err := readLog(filepath.Join(b.lab.dir, "online", "access.log"))
	if err != nil {
		return exactness{}, err
	}
	target, err := readLog(filepath.Join(b.lab.dir, "target", "access.log"))
	if err != nil {
		return exactness{}, err
	}
	return compare(online, target), nil
}

// runPlain runs the load with both servers up and nothing copied.
func (b *bench) runPlain(ctx context.Context, l load) (r run, err error) {
	online, target, err := b.servers(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, online.stop(), target.stop()) }()
	l.addr, l.duration = onlineAddr+":80", b.seconds
	busy := machineBusy()
	r.load, err = b.lab.load(ctx, b.lab.clients, l)
	<-time.After(rest) // the runs with a copier pay for such a tail too
	r.busy = machineBusy() - busy
	return r, err
}

func (b *bench) servers(ctx context.Context) (online, target *proc, err error) {
	if online, err = b.lab.nginx(b.lab.online, onlineCPU, "online"); err != nil {
		return nil, nil, err
	}
	if target, err = b.lab.nginx(b.lab.target, otherCPU, "target"); err != nil {
		return nil, nil, errors.Join(err, online.stop())
	}
	err = until(ctx, "nginx listening", 10*time.Second, func() bool { return listening(b.lab.online) && listening(b.lab.target) })
	if err != nil {
		err = errors.Join(err, online.stop(), target.stop())
	}
	return online, target, err
}

// programs starts responder and copier and waits until flows are copied.
func (b *bench) programs(ctx context.Context) (responder, copier *proc, err error) {
	invite := filepath.Join(b.lab.dir, "invite")
	if err := os.Remove(invite); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	args := append([]string{
		"--listen", targetAddr + ":7443", "--allow", targetAddr + ":80",
		"--invite-file", invite, "--state-dir", filepath.Join(b.lab.dir, "state"),
	}, strings.Fields(b.responderArgs)...)
	if responder, err = b.lab.start(b.lab.target, otherCPU, "responder.log", filepath.Join(b.bin, "responder"), args...); err != nil {
		return nil, nil, err
	}
	if err := until(ctx, "invite", 10*time.Second, func() bool { _, err := os.Stat(invite); return err == nil }); err != nil {
		return nil, nil, errors.Join(err, responder.stop())
	}
	args = append([]string{
		"-x", "80-" + targetAddr + ":80", "--invite-file", invite,
		"--report", filepath.Join(b.lab.dir, "report.json"),
	}, strings.Fields(b.copierArgs)...)
	if copier, err = b.lab.start(b.lab.online, onlineCPU, "copier.log", filepath.Join(b.bin, "copier"), args...); err != nil {
		return nil, nil, errors.Join(err, responder.stop())
	}
	err = until(ctx, "copier copying", 10*time.Second, func() bool {
		log, err := os.ReadFile(filepath.Join(b.lab.dir, "copier.log"))
		return err == nil && strings.Contains(string(log), "tunnel is up")
	})
	if err != nil {
		err = errors.Join(err, copier.stop(), responder.stop())
	}
	return responder, copier, err
}

// throughput is what the online server can do at full load on the CPU that it
// shares with the copier, with the copier on and off in turn.
func (b *bench) throughput(ctx context.Context) error {
	l := load{conns: 20, path: "/gzip.html"}
	var ratios []float64
	for range b.runs {
		off, err := b.runPlain(ctx, l)
		if err != nil {
			return err
		}
		on, err := b.runCopied(ctx, l)
		if err != nil {
			return err
		}
		ratios = append(ratios, float64(on.load.Requests)/on.load.Seconds/(float64(off.load.Requests)/off.load.Seconds))
	}
	b.add("online throughput, copier on ÷ off, one CPU", "ratio", "0.85", "0.95", ratios)
	return nil
}

// against compares the responder's CPU with that of a client on kernel sockets
// that does the same to the same target.
func (b *bench) against(ctx context.Context, name string, l load, least, aim string) error {
	var ratios, ours, theirs []float64
	for range b.runs {
		r, err := b.runCopied(ctx, l)
		if err != nil {
			return err
		}
		kernel, err := b.runKernelClient(ctx, l)
		if err != nil {
			return err
		}
		o, k := 1e6*r.responderCPU/float64(r.load.Requests), 1e6*kernel.CPU/float64(kernel.Requests)
		ours, theirs, ratios = append(ours, o), append(theirs, k), append(ratios, o/k)
	}
	b.add("responder CPU per "+name+" ÷ kernel-socket client", "ratio", least, aim, ratios)
	b.add("  responder", "µs", "", "", ours)
	b.add("  kernel-socket client", "µs", "", "", theirs)
	return nil
}

func (b *bench) runKernelClient(ctx context.Context, l load) (r loadResult, err error) {
	target, err := b.lab.nginx(b.lab.target, onlineCPU, "target")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, target.stop()) }()
	if err := until(ctx, "nginx listening", 10*time.Second, func() bool { return listening(b.lab.target) }); err != nil {
		return r, err
	}
	l.addr, l.duration = targetAddr+":80", b.seconds
	return b.lab.load(ctx, b.lab.target, l)
}
