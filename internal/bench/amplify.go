package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// amplify is whether each request comes exactly ten times with -n 10, and what the
// tunnel carries more for it.
func (b *bench) amplify(ctx context.Context) error {
	const times = 10
	l := load{conns: 50, rate: 1000, path: "/index.html"}
	var requests, conns, bytes, cost []float64
	for range b.runs {
		_, once, err := b.runAmplified(ctx, l, 1)
		if err != nil {
			return err
		}
		r, more, err := b.runAmplified(ctx, l, times)
		if err != nil {
			return err
		}
		requests = append(requests, percent(r.exact.Copied, r.exact.Requests))
		conns = append(conns, percent(r.exact.Identical, r.exact.Connections))
		bytes = append(bytes, 100*more/once)
		cost = append(cost, 1e6*r.responderCPU/float64(r.exact.Requests))
	}
	b.add("-n 10 at 1k/s: requests there exactly ten times", "%", "100", "100", requests)
	b.add("-n 10 at 1k/s: connections there ten times, identical", "%", "100", "100", conns)
	b.add("-n 10 at 1k/s: tunnel bytes of a request, -n 1 = 100", "%", "105", "105", bytes)
	b.add("-n 10 at 1k/s: responder CPU", "ms/1000 requests replayed", "", "", cost)
	return nil
}

// runAmplified copies a load so many times. perRequest is what the tunnel carried
// both ways for each request that clients made.
func (b *bench) runAmplified(ctx context.Context, l load, times int) (r run, perRequest float64, err error) {
	with := *b
	with.copierArgs += fmt.Sprintf(" -n %d", times)
	if r, err = with.runCopied(ctx, l); err != nil {
		return r, 0, err
	}
	online, err := readLog(filepath.Join(b.lab.dir, "online", "access.log"))
	if err != nil {
		return r, 0, err
	}
	target, err := readLog(filepath.Join(b.lab.dir, "target", "access.log"))
	if err != nil {
		return r, 0, err
	}
	r.exact = compare(online.times(times), target)
	r.exact.Copied -= max(0, target.requests()-r.exact.Requests) // one too many is as wrong as one too few
	var report struct {
		Tunnel struct {
			Sent     float64 `json:"bytes_sent"`
			Returned float64 `json:"bytes_returned"`
		} `json:"tunnel"`
	}
	text, err := os.ReadFile(filepath.Join(b.lab.dir, "report.json"))
	if err != nil {
		return r, 0, err
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return r, 0, err
	}
	return r, (report.Tunnel.Sent + report.Tunnel.Returned) / float64(max(online.requests(), 1)), nil
}
