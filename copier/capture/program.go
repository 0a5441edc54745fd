package capture

import (
	"fmt"

	"golang.org/x/net/bpf"
)

// maxProgram is the kernel's limit of a classic BPF program (BPF_MAXINSNS).
const maxProgram = 4096

// A label is a place in a program that is jumped to, known or not yet.
type label int

// A program is BPF under construction. Conditional jumps of BPF reach 255
// instructions only, so every jump to a label goes through an unconditional one,
// which reaches everywhere; the kernel's compiler makes the detour free.
type program struct {
	ins    []bpf.Instruction
	places []int         // of each label, -1 until placed
	jumps  map[int]label // instructions to patch
}

func newProgram() *program { return &program{jumps: map[int]label{}} }

func (p *program) emit(ins ...bpf.Instruction) { p.ins = append(p.ins, ins...) }

func (p *program) label() label {
	p.places = append(p.places, -1)
	return label(len(p.places) - 1)
}

// place says that l is where the next instruction goes.
func (p *program) place(l label) { p.places[l] = len(p.ins) }

// jump goes to l.
func (p *program) jump(l label) {
	p.jumps[len(p.ins)] = l
	p.emit(bpf.Jump{})
}

// jumpIf goes to l when register A compares so with val.
func (p *program) jumpIf(cond bpf.JumpTest, val uint32, l label) {
	p.emit(bpf.JumpIf{Cond: cond, Val: val, SkipFalse: 1})
	p.jump(l)
}

// jumpUnless goes to l when register A is not val.
func (p *program) jumpUnless(val uint32, l label) {
	p.emit(bpf.JumpIf{Cond: bpf.JumpEqual, Val: val, SkipTrue: 1})
	p.jump(l)
}

// finish fills in the jumps.
func (p *program) finish() ([]bpf.Instruction, error) {
	if len(p.ins) > maxProgram {
		return nil, fmt.Errorf("capture: filter of %d instructions, the kernel takes %d: fewer maps or interfaces are needed",
			len(p.ins), maxProgram)
	}
	for at, l := range p.jumps {
		p.ins[at] = bpf.Jump{Skip: uint32(p.places[l] - at - 1)}
	}
	return p.ins, nil
}
