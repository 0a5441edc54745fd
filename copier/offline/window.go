package offline

import (
	"fmt"
	"strings"
	"time"
)

// A Window is the part of a recording that is wanted. The zero value is all of it.
type Window struct{ Start, Stop Moment }

// A Moment is a time, or a time after the recording's first packet. The zero value
// is none.
type Moment struct {
	at    time.Time
	after time.Duration
	rel   bool
}

// ParseMoment reads "2026-11-23 16:04:05" in local time, with T and a zone too
// ("2026-11-23T16:04:05Z"), or "90s" after the first packet.
func ParseMoment(text string) (Moment, error) {
	if d, err := time.ParseDuration(strings.TrimPrefix(text, "+")); err == nil {
		if d < 0 {
			return Moment{}, fmt.Errorf("%q is before the first packet", text)
		}
		return Moment{after: d, rel: true}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return Moment{at: t}, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return Moment{at: t}, nil
		}
	}
	return Moment{}, fmt.Errorf(`%q is neither a time, such as "2026-11-23 16:04:05", nor one after the first packet, such as 90s`, text)
}

// nanos returns the moment in a recording that begins at origin; false: none.
func (m Moment) nanos(origin int64) (int64, bool) {
	switch {
	case m.rel:
		return origin + int64(m.after), true
	case m.at.IsZero():
		return 0, false
	}
	return m.at.UnixNano(), true
}

// Empty reports whether no time at all can be within the window.
func (w Window) Empty() bool {
	if w.Start.rel != w.Stop.rel { // which is the later one, the recording tells
		return false
	}
	start, some := w.Start.nanos(0)
	stop, bounded := w.Stop.nanos(0)
	return some && bounded && stop <= start
}

// holds reports whether a time is within the window.
func (w Window) holds(t, origin int64) bool {
	if start, ok := w.Start.nanos(origin); ok && t < start {
		return false
	}
	stop, ok := w.Stop.nanos(origin)
	return !ok || t < stop
}
