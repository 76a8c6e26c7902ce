package sockwatch

import (
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// offsets are where the kernel keeps what the program reads, from the beginning
// of a struct sock unless it says otherwise.
type offsets struct {
	net, cookie             int32 // cookie: from the beginning of a struct net
	protocol, family, flags int32
	err, shutdown           int32 // shutdown is -1 where it is no byte of its own
	sport, dport            int32
	local4, remote4         int32
	local6, remote6         int32
	leader, comm            int32 // from the beginning of a struct task_struct
}

// kernelOffsets are the same as long as the machine runs.
var kernelOffsets = sync.OnceValues(readOffsets)

// readOffsets reads them from the kernel's description of itself.
func readOffsets() (o offsets, err error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return o, fmt.Errorf("the kernel does not describe itself (BTF): %w", err)
	}
	find := layouts{spec: spec}
	common := find.at("sock", "__sk_common")
	o = offsets{
		net:      common + find.at("sock_common", "skc_net"),
		cookie:   find.at("net", "net_cookie"),
		protocol: find.at("sock", "sk_protocol"),
		family:   common + find.at("sock_common", "skc_family"),
		flags:    common + find.at("sock_common", "skc_flags"),
		err:      find.at("sock", "sk_err"),
		sport:    find.at("inet_sock", "inet_sport"),
		dport:    common + find.at("sock_common", "skc_dport"),
		local4:   common + find.at("sock_common", "skc_rcv_saddr"),
		remote4:  common + find.at("sock_common", "skc_daddr"),
		local6:   common + find.at("sock_common", "skc_v6_rcv_saddr"),
		remote6:  common + find.at("sock_common", "skc_v6_daddr"),
		leader:   find.at("task_struct", "group_leader"),
		comm:     find.at("task_struct", "comm"),
	}
	if find.err != nil {
		return o, find.err
	}
	if o.shutdown = find.at("sock", "sk_shutdown"); find.err != nil {
		o.shutdown = -1
	}
	return o, nil
}

// layouts finds members of the kernel's structures, and keeps the first error.
type layouts struct {
	spec *btf.Spec
	err  error
}

// at is the offset of a member in bytes.
func (l *layouts) at(structure, member string) int32 {
	if l.err != nil {
		return 0
	}
	var s *btf.Struct
	if err := l.spec.TypeByName(structure, &s); err != nil {
		l.err = fmt.Errorf("struct %s of the kernel: %w", structure, err)
		return 0
	}
	bits, ok := memberAt(s.Members, member)
	if !ok {
		l.err = fmt.Errorf("struct %s of the kernel has no member %s", structure, member)
	}
	return int32(bits / 8)
}

// memberAt looks for a member, also in members without a name.
func memberAt(members []btf.Member, name string) (bits btf.Bits, ok bool) {
	for _, m := range members {
		if m.Name == name {
			return m.Offset, m.BitfieldSize == 0
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if bits, ok := memberAt(inner, name); ok {
			return m.Offset + bits, true
		}
	}
	return 0, false
}

// The kernel does not run a program where it has interrupted the same one: an
// interrupt that comes while an event is written brings segments, and what they
// change would not be told. So there are two, which run one after the other for each
// event. The main one notes, for its processor, which event it has; the relief tells
// every event that is not the one noted. An interrupt between the two, or in the
// relief, overwrites the note, and then an event is told twice: the reader passes
// over that (see trace.repeated).
type role bool

const (
	mainProgram   role = false
	reliefProgram role = true
)

// instructions are a program: for each change of state of a TCP socket in the
// namespace whose cookie is in facts it writes an event to the ring, or counts it
// there as lost. underway has for each processor the event that the main program
// took last, and the relief has not seen yet: socket, from and to.
func instructions(o offsets, ring, facts, underway *ebpf.Map, r role) asm.Instructions {
	const (
		ctx, sk, from, to, rec = asm.R6, asm.R6, asm.R7, asm.R8, asm.R9
		scratch                = -8 // and the eight bytes below
	)
	// read copies n bytes from a place in the kernel.
	read := func(dst asm.Register, at int32, n int32, src asm.Register, offset int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, dst), asm.Add.Imm(asm.R1, at),
			asm.Mov.Imm(asm.R2, n),
			asm.Mov.Reg(asm.R3, src), asm.Add.Imm(asm.R3, offset),
			asm.FnProbeReadKernel.Call(),
		}
	}
	p := asm.Instructions{
		asm.Mov.Reg(ctx, asm.R1),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, scratch, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, scratch),
		asm.LoadMapPtr(asm.R1, underway.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
	}
	p = append(p,
		asm.LoadMem(from, ctx, 8, asm.DWord),
		asm.LoadMem(to, ctx, 16, asm.DWord),
		asm.LoadMem(sk, ctx, 0, asm.DWord),
	)
	if r == reliefProgram {
		p = append(p,
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.JNE.Reg(asm.R1, sk, "tell"),
			asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord), asm.JNE.Reg(asm.R1, from, "tell"),
			asm.LoadMem(asm.R1, asm.R0, 16, asm.DWord), asm.JNE.Reg(asm.R1, to, "tell"),
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
			asm.Ja.Label("end"),
		)
	} else {
		p = append(p,
			asm.StoreMem(asm.R0, 8, from, asm.DWord),
			asm.StoreMem(asm.R0, 16, to, asm.DWord),
			asm.StoreMem(asm.R0, 0, sk, asm.DWord),
		)
	}
	p = append(p, asm.JEq.Reg(from, to, "end").WithSymbol("tell"))
	p = append(p, read(asm.RFP, scratch, 2, sk, o.protocol)...)
	p = append(p,
		asm.LoadMem(asm.R1, asm.RFP, scratch, asm.Half),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "end"))
	p = append(p, read(asm.RFP, scratch, 8, sk, o.net)...)
	p = append(p, asm.LoadMem(rec, asm.RFP, scratch, asm.DWord))
	p = append(p, read(asm.RFP, scratch, 8, rec, o.cookie)...)
	p = append(p,
		asm.Mov.Imm(asm.R1, factCookie),
		asm.StoreMem(asm.RFP, scratch-8, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, scratch-8),
		asm.LoadMapPtr(asm.R1, facts.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.LoadMem(asm.R2, asm.R0, 0, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, scratch, asm.DWord),
		asm.JNE.Reg(asm.R1, asm.R2, "end"),

		asm.LoadMapPtr(asm.R1, ring.FD()),
		asm.Mov.Imm(asm.R2, eventLen),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "lost"),
		asm.Mov.Reg(rec, asm.R0),
	)
	p = append(p, asm.Mov.Imm(asm.R1, 0))
	for at := int16(atErr); at < eventLen; at += 8 {
		p = append(p, asm.StoreMem(rec, at, asm.R1, asm.DWord))
	}
	p = append(p,
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(rec, atTime, asm.R0, asm.DWord),
		asm.StoreMem(rec, atSock, sk, asm.DWord),
		asm.StoreMem(rec, atFrom, from, asm.Word),
		asm.StoreMem(rec, atTo, to, asm.Word),
	)
	p = append(p, read(rec, atErr, 4, sk, o.err)...)
	p = append(p, read(rec, atFamily, 2, sk, o.family)...)
	p = append(p, read(rec, atLport, 2, sk, o.sport)...)
	p = append(p, read(rec, atRport, 2, sk, o.dport)...)
	p = append(p, read(rec, atFlags, 4, sk, o.flags)...)
	if o.shutdown >= 0 {
		p = append(p, read(rec, atShutdown, 1, sk, o.shutdown)...)
	}
	p = append(p,
		asm.LoadMem(asm.R1, rec, atFamily, asm.Half),
		asm.JEq.Imm(asm.R1, unix.AF_INET6, "six"))
	p = append(p, read(rec, atLocal, 4, sk, o.local4)...)
	p = append(p, read(rec, atRemote, 4, sk, o.remote4)...)
	p = append(p, asm.Ja.Label("process"))
	six := read(rec, atLocal, 16, sk, o.local6)
	six[0] = six[0].WithSymbol("six")
	p = append(p, six...)
	p = append(p, read(rec, atRemote, 16, sk, o.remote6)...)
	p = append(p,
		asm.FnGetCurrentPidTgid.Call().WithSymbol("process"),
		asm.RSh.Imm(asm.R0, 32),
		asm.StoreMem(rec, atPid, asm.R0, asm.Word),
		asm.FnGetCurrentTask.Call(),
		asm.Mov.Reg(sk, asm.R0), // which is not needed any more
	)
	p = append(p, read(asm.RFP, scratch, 8, sk, o.leader)...)
	p = append(p, asm.LoadMem(sk, asm.RFP, scratch, asm.DWord))
	p = append(p, read(rec, atComm, 16, sk, o.comm)...)
	p = append(p,
		asm.Mov.Reg(asm.R1, rec),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufSubmit.Call(),
		asm.Ja.Label("end"),

		asm.Mov.Imm(asm.R1, factLost).WithSymbol("lost"),
		asm.StoreMem(asm.RFP, scratch, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, scratch),
		asm.LoadMapPtr(asm.R1, facts.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
	)
	return append(p, asm.Mov.Imm(asm.R0, 0).WithSymbol("end"), asm.Return())
}
