package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// lag is the time from the online server's read of a request to the target's.
func (b *bench) lag(ctx context.Context) error {
	var p50, p99 []float64
	for range b.runs {
		lags, err := b.runLag(ctx)
		if err != nil {
			return err
		}
		slices.Sort(lags)
		p50 = append(p50, lags[len(lags)/2]/1e6)
		p99 = append(p99, lags[len(lags)*99/100]/1e6)
	}
	b.add("lag at 5k/s, p50", "ms", "2", "0.5", p50)
	b.add("lag at 5k/s, p99", "ms", "10", "2", p99)
	return nil
}

func (b *bench) runLag(ctx context.Context) (lags []float64, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	onlineLog, targetLog := filepath.Join(b.lab.dir, "lag.online"), filepath.Join(b.lab.dir, "lag.target")
	online, err := b.lab.start(b.lab.online, onlineCPU, "serve.online.log", self, "serve", "-log", onlineLog)
	if err != nil {
		return nil, err
	}
	target, err := b.lab.start(b.lab.target, otherCPU, "serve.target.log", self, "serve", "-log", targetLog)
	if err != nil {
		return nil, errors.Join(err, online.stop())
	}
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		return errors.Join(online.stop(), target.stop())
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := until(ctx, "servers listening", 10*time.Second, func() bool { return listening(b.lab.online) && listening(b.lab.target) }); err != nil {
		return nil, err
	}
	responder, copier, err := b.programs(ctx)
	if err != nil {
		return nil, err
	}
	_, err = b.lab.load(ctx, b.lab.clients, load{addr: onlineAddr + ":80", conns: 50, rate: 5000, path: "/", duration: b.seconds})
	if err = errors.Join(err, copier.stop(), responder.stop(), stop()); err != nil {
		return nil, err
	}
	return joinTimes(onlineLog, targetLog)
}

func joinTimes(onlineLog, targetLog string) ([]float64, error) {
	online, err := readTimes(onlineLog)
	if err != nil {
		return nil, err
	}
	target, err := readTimes(targetLog)
	if err != nil {
		return nil, err
	}
	var lags []float64
	for name, at := range online {
		if copied, ok := target[name]; ok {
			lags = append(lags, float64(copied-at))
		}
	}
	if len(lags)*100 < len(online)*99 || len(lags) == 0 {
		return nil, fmt.Errorf("only %d of %d requests reached the target", len(lags), len(online))
	}
	return lags, nil
}

func readTimes(file string) (map[string]int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	times := map[string]int64{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		name, at, _ := strings.Cut(sc.Text(), " ")
		if ns, err := strconv.ParseInt(at, 10, 64); err == nil {
			times[name] = ns
		}
	}
	return times, nil
}
