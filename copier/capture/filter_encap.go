package capture

import (
	"golang.org/x/net/bpf"

	"flowtwin/internal/packet"
)

// mirrored keeps encapsulated packets that are directed to this host. What is inside
// is for the reader to select: it stands behind headers of no fixed length.
func (f *filter) mirrored() {
	v4, v6, port := f.label(), f.label(), f.label()
	f.emit(bpf.LoadConstant{Dst: bpf.RegA, Val: keepWhole}, bpf.StoreScratch{Src: bpf.RegA, N: slotKeep})
	f.emit(bpf.LoadScratch{Dst: bpf.RegA, N: slotType})
	f.jumpUnless(typeHost, f.drop)
	f.emit(bpf.LoadExtension{Num: bpf.ExtProto})
	f.jumpIf(bpf.JumpEqual, etherIPv4, v4)
	f.jumpIf(bpf.JumpEqual, etherIPv6, v6)
	f.jump(f.drop)

	f.place(v6)
	f.emit(bpf.LoadAbsolute{Off: 6, Size: 1})
	f.gre()
	f.jumpIf(bpf.JumpEqual, 60, f.keep) // Linux's tunnels put an option in front
	f.jumpUnless(packet.ProtoUDP, f.drop)
	f.emit(bpf.LoadAbsolute{Off: 40 + 2, Size: 2})
	f.jump(port)

	f.place(v4)
	f.emit(bpf.LoadAbsolute{Off: 9, Size: 1})
	f.gre()
	f.jumpUnless(packet.ProtoUDP, f.drop)
	f.emit(bpf.LoadAbsolute{Off: 6, Size: 2})
	f.jumpIf(bpf.JumpBitsSet, 0x1fff, f.drop) // the first fragment is enough to count it
	f.emit(bpf.LoadMemShift{Off: 0}, bpf.LoadIndirect{Off: 2, Size: 2})

	f.place(port)
	if f.spec.decap&packet.VXLAN != 0 {
		f.jumpIf(bpf.JumpEqual, packet.PortVXLAN, f.keep)
	}
	if f.spec.decap&packet.GENEVE != 0 {
		f.jumpIf(bpf.JumpEqual, packet.PortGENEVE, f.keep)
	}
}

// gre keeps what is GRE by the protocol in register A.
func (f *filter) gre() {
	if f.spec.decap&packet.GRE != 0 {
		f.jumpIf(bpf.JumpEqual, packet.ProtoGRE, f.keep)
	}
}
