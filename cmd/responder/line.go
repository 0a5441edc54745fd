package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"flowtwin/responder"
)

// parseLine reads the flags for the network that is emulated; empty ones are not
// set.
func parseLine(rtt, bandwidth, loss string) (l responder.Line, err error) {
	if rtt == "client" {
		l.Leased = true
	} else if rtt != "" {
		if l.RTT, l.Jitter, err = parseRTT(rtt); err != nil {
			return l, err
		}
	}
	if bandwidth != "" {
		if l.Bandwidth, err = parseRate(bandwidth); err != nil {
			return l, err
		}
	}
	if loss != "" {
		number, percent := strings.CutSuffix(loss, "%")
		if l.Loss, err = strconv.ParseFloat(number, 64); err != nil || !percent {
			return l, fmt.Errorf("--loss: %q is not a percentage such as 1%%", loss)
		}
		l.Loss /= 100
	}
	if err := l.Check(); err != nil {
		return l, fmt.Errorf("--rtt, --bandwidth, --loss: %w", err)
	}
	return l, nil
}

// parseRTT reads 40ms, 40ms±10ms and 40ms+-10ms.
func parseRTT(s string) (rtt, jitter time.Duration, err error) {
	mean, about, found := strings.Cut(strings.Replace(s, "+-", "±", 1), "±")
	rtt, err = time.ParseDuration(mean)
	if err == nil && found {
		jitter, err = time.ParseDuration(about)
	}
	if err != nil || rtt <= 0 || found && jitter <= 0 {
		return 0, 0, fmt.Errorf("--rtt: %q is neither a time such as 40ms or 40ms±10ms, nor client", s)
	}
	return rtt, jitter, nil
}

// parseRate reads a number of bits per second with its unit, as tc does.
func parseRate(s string) (int64, error) {
	for _, unit := range []struct {
		name  string
		times float64
	}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"bit", 1}} {
		number, ok := strings.CutSuffix(strings.ToLower(s), unit.name)
		if !ok {
			continue
		}
		if n, err := strconv.ParseFloat(number, 64); err == nil && n > 0 && n*unit.times <= 1e15 {
			return int64(n * unit.times), nil
		}
		break
	}
	return 0, fmt.Errorf("--bandwidth: %q is not a rate such as 10mbit or 500kbit", s)
}
