package main

import (
	"context"
	"errors"
	"path/filepath"
	"time"
)

// sample is what the copier costs when only a tenth of the connections is copied: the
// kernel's filter refuses the others.
func (b *bench) sample(ctx context.Context) error {
	for _, l := range []struct {
		name string
		load
	}{
		{"1k keep-alive requests/s", load{conns: 500, rate: 1000, path: "/index.html"}},
		{"keep-alive at full speed", load{conns: 500, path: "/index.html"}},
		{"300 POSTs/s of 64 KiB", load{conns: 100, rate: 300, body: 64 << 10, path: "/post"}},
	} {
		name := "-r 10, " + l.name
		var ratios, all, tenth, copied []float64
		for range b.runs {
			whole, err := b.runSeconds(ctx, l.load, "-r 100")
			if err != nil {
				return err
			}
			part, err := b.runSeconds(ctx, l.load, "-r 10")
			if err != nil {
				return err
			}
			ratios = append(ratios, 100*part.copierCPU/whole.copierCPU)
			all, tenth = append(all, 1000*whole.copierCPU), append(tenth, 1000*part.copierCPU)
			copied = append(copied, 100*float64(part.exact.Copied)/float64(max(part.exact.Requests, 1)))
		}
		b.add(name+": copier CPU, -r 100 = 100", "%", "25", "25", ratios)
		b.add("  with -r 100", "ms/s", "", "", all)
		b.add("  with -r 10", "ms/s", "", "", tenth)
		b.add("  requests copied", "%", "", "10", copied)
	}
	return nil
}

// fanout is what a second target costs the copier.
func (b *bench) fanout(ctx context.Context) error {
	l := load{conns: 50, rate: 1000, path: "/index.html"}
	second := "-x 80-127.0.0.1:80 --invite-file " + filepath.Join(b.lab.dir, "invite")
	with := *b
	with.responderArgs += " --allow 127.0.0.1:80"
	var ratios, split []float64
	for range b.runs {
		one, err := with.runSeconds(ctx, l, "")
		if err != nil {
			return err
		}
		two, err := with.runSeconds(ctx, l, second)
		if err != nil {
			return err
		}
		parts, err := with.runSeconds(ctx, l, second+" --split")
		if err != nil {
			return err
		}
		ratios, split = append(ratios, two.copierCPU/one.copierCPU), append(split, parts.copierCPU/one.copierCPU)
	}
	b.add("two targets at 1k/s: copier CPU ÷ one target's", "ratio", "", "2", ratios)
	b.add("  with --split", "ratio", "", "1", split)
	return nil
}

// runSeconds runs a load; copierCPU is a second's.
func (b *bench) runSeconds(ctx context.Context, l load, args string) (r run, err error) {
	with := *b
	with.copierArgs += " " + args
	online, target, err := with.servers(ctx)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, online.stop(), target.stop()) }()
	responder, copier, err := with.programs(ctx)
	if err != nil {
		return r, err
	}
	l.addr, l.duration = onlineAddr+":80", b.seconds
	before, began := processCPU(copier.pid()), time.Now()
	r.load, err = b.lab.load(ctx, b.lab.clients, l)
	r.copierCPU = (processCPU(copier.pid()) - before) / time.Since(began).Seconds()
	<-time.After(rest) // for the servers' logs
	if err = errors.Join(err, copier.stop(), responder.stop()); err != nil {
		return r, err
	}
	r.exact.Requests = lines(filepath.Join(b.lab.dir, "online", "access.log"))
	r.exact.Copied = lines(filepath.Join(b.lab.dir, "target", "access.log"))
	return r, nil
}
