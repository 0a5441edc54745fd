package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// replay is how fast a recording is replayed, against what is copied live at full
// speed, and how late packets are at 5,000 requests a second.
func (b *bench) replay(ctx context.Context) error {
	var live, fast, exact, late []float64
	for range b.runs {
		full := load{conns: 50, path: "/index.html"}
		r, err := b.runCopied(ctx, full)
		if err != nil {
			return err
		}
		live = append(live, float64(r.load.Requests)/r.load.Seconds)
		if r, err = b.runRecorded(ctx, full, "--pace=target"); err != nil {
			return err
		}
		fast = append(fast, float64(r.exact.Copied)/r.load.Seconds)
		exact = append(exact, percent(r.exact.Copied, r.exact.Requests))
		var lag time.Duration
		if r, lag, err = b.runScheduled(ctx, load{conns: 50, rate: 5000, path: "/index.html"}); err != nil {
			return err
		}
		late = append(late, lag.Seconds()*1e3)
		exact = append(exact, percent(r.exact.Copied, r.exact.Requests))
	}
	var ratios []float64
	for i := range live {
		ratios = append(ratios, fast[i]/live[i])
	}
	b.add("replay: requests of the recording at the target", "%", "100", "100", exact)
	b.add("replay, --pace=target: rate", "requests/s", "", "", fast)
	b.add("replay, --pace=target ÷ live at full speed", "ratio", "1", "", ratios)
	b.add("replay, --pace=clock at 5k/s: schedule lag p99", "ms", "5", "", late)
	return nil
}

// runScheduled is runRecorded with the recorded pace; lag is the schedule's p99.
func (b *bench) runScheduled(ctx context.Context, l load) (r run, lag time.Duration, err error) {
	if r, err = b.runRecorded(ctx, l, "--pace=clock"); err != nil {
		return r, 0, err
	}
	var report struct {
		Recording struct {
			Lag map[string]int64 `json:"schedule_lag_ns"`
		} `json:"recording"`
	}
	text, err := os.ReadFile(filepath.Join(b.lab.dir, "report.json"))
	if err != nil {
		return r, 0, err
	}
	err = json.Unmarshal(text, &report)
	return r, time.Duration(report.Recording.Lag["p99"]), err
}

// runRecorded records a load, nothing being copied, and replays it. The run's seconds
// are the replay's, its exactness that of the replay against the recorded server.
func (b *bench) runRecorded(ctx context.Context, l load, pace string) (r run, err error) {
	dir := filepath.Join(b.lab.dir, "recorded")
	if err := os.RemoveAll(dir); err != nil {
		return r, err
	}
	online, target, err := b.servers(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, online.stop(), target.stop()) }()
	recorder, err := b.lab.start(b.lab.online, onlineCPU, "recorder.log", filepath.Join(b.bin, "copier"),
		"-x", "80-"+targetAddr+":80", "--record", dir)
	if err != nil {
		return r, err
	}
	err = until(ctx, "recorder", 10*time.Second, func() bool {
		log, err := os.ReadFile(filepath.Join(b.lab.dir, "recorder.log"))
		return err == nil && len(log) > 0
	})
	if err == nil {
		l.addr, l.duration = onlineAddr+":80", b.seconds
		r.load, err = b.lab.load(ctx, b.lab.clients, l)
	}
	if err = errors.Join(err, recorder.stop()); err != nil {
		return r, err
	}
	with := *b
	with.copierArgs += " -i " + filepath.Join(dir, "*.pcapng") + " " + pace
	began := time.Now()
	responder, copier, err := with.programs(ctx)
	if err != nil {
		return r, err
	}
	err = copier.wait(10*b.seconds + time.Minute)
	r.load.Seconds = time.Since(began).Seconds()
	if err = errors.Join(err, b.settled(ctx), responder.stop()); err != nil {
		return r, err
	}
	r.exact, err = b.compareLogs()
	return r, err
}

// wait waits for the program's own end.
func (p *proc) wait(limit time.Duration) error {
	kill := time.AfterFunc(limit, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	return errors.Join(p.cmd.Wait(), p.log.Close())
}
