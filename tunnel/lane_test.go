package tunnel

import (
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"flowtwin/tunnel/frame"
)

// A responder that does not read must cost the copier a bounded queue and
// nothing else: frames are refused, flows can still be ended, and when it reads
// again everything that was taken arrives, in order.
func TestQueueFull(t *testing.T) {
	c, p := pair(t, ClientConfig{QueueBytes: minQueue})
	l, payload := c.Lane(0), make([]byte, 1000)
	taken := 0
	for full := 0; full < 1000; { // the network takes some more for a while
		if l.Data(1, uint64(taken), 0, payload) {
			taken, full = taken+1, 0
			continue
		}
		full++
		runtime.Gosched()
	}
	if got := l.Room(); got >= 1000+frame.DataOverhead || l.Size() != minQueue {
		t.Errorf("room = %d of %d when a frame was refused", got, l.Size())
	}
	if l.Open(2, &frame.Open{}) && l.Room() > frame.OpenSize {
		t.Error("Open is taken though Data is not")
	}
	ends := 0
	for l.Fin(uint32(ends), 0, false) {
		ends++
	}
	if ends < 20_000 {
		t.Errorf("only %d flows could be ended in a full queue", ends)
	}
	l.mu.Lock()
	chunks := len(l.out.queue) + len(l.out.free) + 2
	l.mu.Unlock()
	if chunks*chunkLen > 2*(minQueue+endReserve)+4*chunkLen {
		t.Errorf("%d chunks of %d bytes for a queue of %d", chunks, chunkLen, minQueue)
	}
	l.Flush()
	var next uint64
	for fins := 0; fins < ends; {
		b, err := p.Lane(0).Read()
		if err != nil {
			t.Fatal(err)
		}
		for len(b) > 0 {
			typ, _, body, rest, err := frame.Next(b)
			if err != nil {
				t.Fatal(err)
			}
			switch typ {
			case frame.TypeData:
				d, _ := frame.ParseData(body)
				if d.Seen != next {
					t.Fatalf("frame %d arrived where %d belongs", d.Seen, next)
				}
				next++
			case frame.TypeFin:
				fins++
			default:
			}
			b = rest
		}
	}
	if next != uint64(taken) {
		t.Errorf("%d of %d frames arrived", next, taken)
	}
	eventually(t, "the queue is empty", func() bool { return l.Room() == l.Size() })
	if !l.Data(1, 0, 0, payload) {
		t.Error("the lane has not recovered")
	}
}

// Small flushes while the writer is stuck must not take a chunk each.
func TestSmallFlushesShareChunks(t *testing.T) {
	c, _ := pair(t, ClientConfig{QueueBytes: minQueue})
	l, payload := c.Lane(0), make([]byte, 100)
	for full := 0; full < 1000; {
		if l.Data(1, 0, 0, payload) {
			full = 0
			l.Flush()
			continue
		}
		full++
		runtime.Gosched()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if got, most := len(l.out.queue), 2*minQueue/chunkLen+1; got > most {
		t.Errorf("%d chunks are queued, want at most %d", got, most)
	}
}

func TestLaneDoesNotAllocate(t *testing.T) {
	c, p := pair(t, ClientConfig{})
	go drain(p.Lane(0), make(chan int, 1))
	l, payload := c.Lane(0), make([]byte, 300)
	open := &frame.Open{MSS: 1460}
	step := func() {
		// What a shard does for a packet. The flushes in between, here one in 40
		// frames, are QUIC's and may allocate.
		for !l.Open(1, open) || !l.Data(1, 2, 3, payload) || !l.Fin(1, 2, false) || !l.Reset(1, 2) || !l.Abort(1, frame.AbortIdle) {
			runtime.Gosched()
		}
		l.Returns()
		l.Epoch()
		l.Room()
	}
	l.Flush()
	if n := testing.AllocsPerRun(30, step); n != 0 { // less than one chunk: no flush
		t.Errorf("a packet allocates %v times, want 0", n)
	}
}

// When the shard does not take returns, the responder is held back at a bound,
// and nothing is lost.
func TestReturnsBackPressure(t *testing.T) {
	c, p := pair(t, ClientConfig{})
	var woken atomic.Bool
	c.Lane(0).SetWake(func() { woken.Store(true) })
	out, headers := p.Lane(0), make([]byte, 1000)
	sent := 0
	box := &c.Lane(0).inbox
	eventually(t, "the inbox is full, and everything behind it", func() bool {
		for out.Return(frame.AppendTargetHeader(nil, 1, &frame.TargetHeader{Time: int64(sent), Headers: headers}), false, false) {
			sent++
		}
		box.mu.Lock()
		defer box.mu.Unlock()
		return len(box.fill) > returnsMost-returnsRead
	})
	if !woken.Load() {
		t.Error("the shard was not woken")
	}
	// What must not be dropped is taken all the same, and comes last.
	if !out.Return(frame.AppendClosed(nil, 1, &frame.Closed{}), true, true) {
		t.Fatal("an account was refused")
	}
	var next int64
	for closed := false; !closed; runtime.Gosched() {
		b, epoch := c.Lane(0).Returns()
		if b != nil && epoch != 1 {
			t.Fatalf("epoch = %d, want 1", epoch)
		}
		for len(b) > 0 {
			typ, _, body, rest, err := frame.Next(b)
			if err != nil {
				t.Fatal(err)
			}
			if closed = typ == frame.TypeClosed; !closed {
				h, _ := frame.ParseTargetHeader(body)
				if h.Time != next {
					t.Fatalf("header %d where %d belongs", h.Time, next)
				}
				next++
			}
			b = rest
		}
	}
	if next != int64(sent) {
		t.Errorf("%d of %d headers came back", next, sent)
	}
	if st := c.Stats(); st.BytesReturned < uint64(sent)*1000 {
		t.Errorf("stats: %d bytes returned", st.BytesReturned)
	}
}

// A few returns go out after 10 ms without being asked for, many at once.
func TestReturnsAreFlushed(t *testing.T) {
	c, p := pair(t, ClientConfig{})
	h := frame.AppendTargetHeader(nil, 1, &frame.TargetHeader{Headers: make([]byte, 40)})
	for range 3 {
		if !p.Lane(0).Return(h, false, false) {
			t.Fatal("refused")
		}
		got := 0
		eventually(t, "the header comes back", func() bool {
			b, _ := c.Lane(0).Returns()
			got += len(b)
			return got == len(h)
		})
	}
}

// What the other side must not send ends the connection with a reason.
func TestBadFrames(t *testing.T) {
	tests := []struct {
		name  string
		bytes []byte
		says  string
	}{
		{"a return on a lane", frame.AppendProgress(nil, &frame.Progress{}), "type 68: unknown frame type"},
		{"nonsense", []byte{0xee, 1, 2, 3, 4, 5, 6, 7}, "type 238: unknown frame type"},
		{"too long", []byte{2, 0xff, 0xff, 0xff, 0, 0, 0, 0}, "length does not fit"},
		{"frames after Bye", frame.AppendEmpty(frame.AppendEmpty(nil, frame.TypeBye, 0), frame.TypeBye, 0), "frames after Bye"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, p := pair(t, ClientConfig{})
			c.Lane(0).cur = append(c.Lane(0).cur, tt.bytes...)
			c.Lane(0).Flush()
			if b, err := p.Lane(0).Read(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("read %d bytes, err = %v; want a protocol error saying %q", len(b), err, tt.says)
			}
			s := c.current()
			<-s.done
			if !errors.Is(s.err, ErrProtocol) || !strings.Contains(s.err.Error(), tt.says) {
				t.Errorf("copier: %v, want a protocol error saying %q", s.err, tt.says)
			}
		})
	}
}

func TestBadReturns(t *testing.T) {
	c, p := pair(t, ClientConfig{})
	p.Lane(0).Return(frame.AppendEnd(nil, frame.TypeFin, 1, &frame.End{}), true, true)
	s := c.current()
	<-s.done
	if !errors.Is(s.err, ErrProtocol) {
		t.Errorf("copier: %v, want a protocol error", s.err)
	}
	<-p.Context().Done()
}
