package responder

import (
	"context"
	"sync"
)

// untilLost returns a context that also ends when failed gets an error, and a
// function that ends the wait and returns that error.
func untilLost(ctx context.Context, failed <-chan error) (context.Context, func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var lost error
	var wait sync.WaitGroup
	wait.Go(func() {
		select {
		case lost = <-failed:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() error {
		cancel()
		wait.Wait()
		return lost
	}
}
