package tunnel

import (
	"context"
	"errors"
	"slices"
	"time"
)

// race calls try with 0 to n-1, the next one after raceDelay or as soon as one
// has failed, until one has won; the others are cancelled then. The order decides
// where several answer, and an address that does not costs little (RFC 8305).
func race(ctx context.Context, n int, try func(context.Context, int) (*link, error)) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		index int
		link  *link
		err   error
	}
	results := make(chan result)
	errs := make([]error, n)
	var winner *link
	timer := time.NewTimer(0)
	defer timer.Stop()
	next, running := 0, 0
	for running > 0 || next < n && ctx.Err() == nil {
		select {
		case <-timer.C:
			if next == n || ctx.Err() != nil {
				continue
			}
			i := next
			go func() {
				l, err := try(ctx, i)
				results <- result{i, l, err}
			}()
			next++
			running++
			timer.Reset(raceDelay)
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				errs[r.index] = r.err
				timer.Reset(0)
			case winner == nil:
				winner = r.link
				cancel()
			default:
				r.link.close(codeDone, "another address answered first")
			}
		}
	}
	if winner != nil {
		return winner, nil
	}
	if next == 0 {
		return nil, context.Cause(ctx)
	}
	return nil, failure(errs)
}

// An elsewhereError says that something else than the responder was met.
type elsewhereError struct{ error }

func (e *elsewhereError) Unwrap() error { return e.error }

// failure joins the errors of several addresses, some of which may be nil. What
// was met in the responder's place at one of them is an answer only when it was
// met at all of them: the responder may be at another one, and not up.
func failure(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	var elsewhere *elsewhereError
	if slices.ContainsFunc(errs, func(err error) bool { return !errors.As(err, &elsewhere) }) {
		for i, err := range errs {
			if errors.As(err, &elsewhere) {
				errs[i] = errors.New(err.Error()) // its text only
			}
		}
	}
	return errors.Join(errs...)
}
