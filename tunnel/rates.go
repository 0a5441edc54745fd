package tunnel

import (
	"fmt"
	"strconv"
	"strings"
)

// maxRate bounds what may be asked for, so that no sum overflows.
const maxRate = 1e15

// Rates bound what a copier's flows take of a target in a second; 0 is no limit.
// What is over them is refused as whole flows.
type Rates struct {
	Connections float64 `json:"connections,omitempty"` // copies included
	Bytes       float64 `json:"bytes,omitempty"`       // of clients, for all copies
}

// check reports what no rate can be.
func (r Rates) check() error {
	for _, per := range []float64{r.Connections, r.Bytes} {
		if !(per >= 0 && per <= maxRate) {
			return fmt.Errorf("rate of %v a second", per)
		}
	}
	return nil
}

// Change sets one of the rates as a user says it, "connections" or "bytes" to a
// number or "off", and returns what holds now in words.
func (r *Rates) Change(what, per string) (string, error) {
	var to *float64
	switch what {
	case "connections":
		to = &r.Connections
	case "bytes":
		to = &r.Bytes
	default:
		return "", fmt.Errorf("%q is neither connections nor bytes", what)
	}
	n := 0.0
	if per != "off" {
		var err error
		if n, err = ParseRate(per); err != nil {
			return "", fmt.Errorf("%w, or off", err)
		}
	}
	*to = n
	return what + ": " + FormatRate(n), nil
}

// FormatRate says what a rate allows.
func FormatRate(per float64) string {
	if per == 0 {
		return "no limit"
	}
	return strconv.FormatFloat(per, 'f', -1, 64) + " a second"
}

// ParseRate reads a number by the second, such as 500, 0.5/s, 10M or 64KiB/s.
func ParseRate(text string) (float64, error) {
	number := strings.TrimSuffix(text, "/s")
	number = strings.TrimSuffix(number, "B")
	factor := 1.0
	for _, u := range []struct {
		suffix string
		factor float64
	}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"k", 1e3}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}} {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, factor = n, u.factor
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n > 0 && n*factor <= maxRate) {
		return 0, fmt.Errorf("%q is not a positive number by the second, such as 500, 10M or 64KiB/s", text)
	}
	return n * factor, nil
}
