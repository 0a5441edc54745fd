package responder

import (
	"context"
	"errors"
	"testing"
)

// A lost device ends the responder with the reason; an ordinary end has none.
func TestUntilLost(t *testing.T) {
	failed := make(chan error, 1)
	ctx, lost := untilLost(t.Context(), failed)
	want := errors.New("gone")
	failed <- want
	<-ctx.Done()
	if err := lost(); !errors.Is(err, want) {
		t.Errorf("lost: %v", err)
	}
	parent, cancel := context.WithCancel(t.Context())
	ctx, lost = untilLost(parent, failed)
	cancel()
	<-ctx.Done()
	if err := lost(); err != nil {
		t.Errorf("an ordinary end: %v", err)
	}
}
