package flow

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"flowtwin/internal/packet"
)

// Half of the sampled connections must get the third copy, not all of them or none.
func TestFractionIsIndependentOfTheSample(t *testing.T) {
	sample, half := Sampled(25), Fraction(2.5)
	if Fraction(3).Takes(&packet.Addr{}, 1) || half.Percent() != 50 {
		t.Errorf("3 copies have a fraction, or 2.5 one of %v %%", half.Percent())
	}
	sampled, more := 0, 0
	for i := range uint32(40_000) {
		a, port := clientNumber(i), uint16(i)
		if sample.Takes(&a, port) {
			sampled++
			if half.Takes(&a, port) {
				more++
			}
		}
	}
	if d := more - sampled/2; d < -sampled/20 || d > sampled/20 {
		t.Errorf("%d of %d sampled connections get one more", more, sampled)
	}
}

// Copies that begin at the same time are what the jitter is against.
func TestLateIsSpreadAndStable(t *testing.T) {
	const copies, tenths = 10_000, 10
	var count [tenths]int
	a := clientNumber(7)
	for n := range copies {
		d := Late(&a, 4711, n, time.Second)
		if d != Late(&a, 4711, n, time.Second) || d < 0 || d >= time.Second {
			t.Fatalf("copy %d is late by %v", n, d)
		}
		count[d*tenths/time.Second]++
	}
	for i, n := range count {
		if n < copies/tenths*8/10 || n > copies/tenths*12/10 {
			t.Errorf("%d of %d copies are late by %d to %d tenths", n, copies, i, i+1)
		}
	}
	if Late(&a, 4711, 5, 0) != 0 {
		t.Error("late without a jitter")
	}
}

func clientNumber(i uint32) packet.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24|i)
	return packet.AddrFrom(netip.AddrFrom4(b))
}
