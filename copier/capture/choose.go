package capture

import (
	"golang.org/x/net/bpf"

	"flowtwin/internal/flow"
)

// hashBits is the width of the hash that a [flow.Share] chooses by.
const hashBits = 32

// choose keeps packets of the list whose client is chosen, and drops the others:
// what is not sampled costs the reader nothing. It is [flow.Share.Takes] again, of
// the words in scratch memory.
func (f *filter) choose() {
	if len(f.spec.choice) == 0 {
		return
	}
	f.place(f.found4)
	for _, s := range f.spec.choice {
		f.share(s, 1)
	}
	f.jump(f.keep)
	f.place(f.found6)
	for _, s := range f.spec.choice {
		f.share(s, 4)
	}
	f.jump(f.keep)
}

// share goes on behind itself for what s takes.
func (f *filter) share(s flow.Share, words int) {
	f.emit(bpf.LoadConstant{Dst: bpf.RegA, Val: s.Key})
	for i := range words {
		f.hashWord(slotClient + i)
	}
	if s.ByPort {
		f.hashWord(slotClientPort)
	}
	f.fold(16)
	f.emit(bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: flow.HashMixA})
	f.fold(13)
	f.emit(bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: flow.HashMixB})
	f.fold(16)
	if s.From >= 1<<hashBits || s.From >= s.To {
		f.jump(f.drop)
		return
	}
	if s.From > 0 {
		f.jumpIf(bpf.JumpLessThan, uint32(s.From), f.drop)
	}
	if s.To < 1<<hashBits {
		f.jumpIf(bpf.JumpGreaterOrEqual, uint32(s.To), f.drop)
	}
}

// hashWord mixes a word of scratch memory into the hash in register A.
func (f *filter) hashWord(slot int) {
	f.emit(
		bpf.LoadScratch{Dst: bpf.RegX, N: slot},
		bpf.ALUOpX{Op: bpf.ALUOpXor},
		bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: flow.HashWord},
	)
	f.fold(flow.HashShift)
}

// fold does A ^= A >> n.
func (f *filter) fold(n uint32) {
	f.emit(bpf.TAX{}, bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: n}, bpf.ALUOpX{Op: bpf.ALUOpXor})
}
