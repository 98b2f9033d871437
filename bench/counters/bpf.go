package counters

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// The map's value on each CPU, 8 bytes a field.
const (
	atVoluntary = 8 * iota
	atInvoluntary
	atRun
	atWakeups
	atSyscalls
	atSwitched // when this CPU switched last
	valueSize
)

const (
	commLen   = 16 // TASK_COMM_LEN
	prefixLen = 8

	naps = 5 // of the self-test
	nap  = time.Millisecond
)

// programs are the eBPF programs of a meter, with their target's number
// assembled in: what is not the target's costs a comparison.
type programs struct {
	counts *ebpf.Map
	progs  []*ebpf.Program
	links  []link.Link
	note   string
	wakes  bool
	calls  bool
}

// attach loads the programs and hooks them to raw tracepoints, which need
// neither tracefs nor a compiler.
func attach(t Target, syscalls bool) (p *programs, err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	p = &programs{calls: syscalls}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	p.counts, err = ebpf.NewMap(&ebpf.MapSpec{Name: "bench_counts", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: valueSize, MaxEntries: 1})
	if err != nil {
		return p, err
	}
	if err := p.hook("sched_switch", p.onSwitch(t)); err != nil {
		return p, err
	}
	if syscalls {
		if err := p.hook("sys_enter", p.onSyscall(t)); err != nil {
			return p, err
		}
	}
	wake, err := p.onWakeup(t)
	if err != nil {
		p.note = "wake-ups are not counted: " + err.Error()
		return p, nil
	}
	p.wakes = true
	return p, p.hook("sched_wakeup", wake)
}

func (p *programs) hook(tracepoint string, code asm.Instructions) error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "bench_" + tracepoint, Type: ebpf.RawTracepoint, Instructions: code, License: "Dual MIT/GPL"})
	if err != nil {
		return fmt.Errorf("%s: %w", tracepoint, err)
	}
	p.progs = append(p.progs, prog)
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: tracepoint, Program: prog})
	if err != nil {
		return fmt.Errorf("%s: %w", tracepoint, err)
	}
	p.links = append(p.links, l)
	return nil
}

func (p *programs) close() {
	for _, l := range p.links {
		l.Close()
	}
	for _, prog := range p.progs {
		prog.Close()
	}
	if p.counts != nil {
		p.counts.Close()
	}
}

func (p *programs) read() (Counts, error) {
	var perCPU [][]byte
	if err := p.counts.Lookup(uint32(0), &perCPU); err != nil {
		return Counts{}, err
	}
	sum := func(at int) (n int64) {
		for _, v := range perCPU {
			n += int64(binary.NativeEndian.Uint64(v[at:]))
		}
		return n
	}
	c := Counts{Voluntary: sum(atVoluntary), Involuntary: sum(atInvoluntary), Run: sum(atRun), Wakeups: Unknown, Syscalls: Unknown}
	if p.wakes {
		c.Wakeups = sum(atWakeups)
	}
	if p.calls {
		c.Syscalls = sum(atSyscalls)
	}
	return c, nil
}

// Registers that hold through a program: helpers leave R6 to R9 alone.
const (
	rCtx   = asm.R6
	rValue = asm.R7
	rDelta = asm.R8
)

// value makes rValue point to this CPU's counts, or leaves.
func (p *programs) value() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(rCtx, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, p.counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Reg(rValue, asm.R0),
	}
}

// matches goes to "match" when the thread whose tgid is in R0 and the first
// bytes of whose name are at the frame's -16 is the target's, and else out.
func matches(t Target) (code asm.Instructions) {
	if t.PID != 0 {
		code = append(code, asm.JEq.Imm(asm.R0, int32(t.PID), "match"))
	}
	for _, prefix := range t.Prefixes {
		var want, mask [prefixLen]byte
		for i := range copy(want[:], prefix) {
			mask[i] = 0xff
		}
		code = append(code,
			asm.LoadMem(asm.R1, asm.RFP, -commLen, asm.DWord),
			asm.LoadImm(asm.R2, int64(binary.NativeEndian.Uint64(mask[:])), asm.DWord),
			asm.And.Reg(asm.R1, asm.R2),
			asm.LoadImm(asm.R2, int64(binary.NativeEndian.Uint64(want[:])), asm.DWord),
			asm.JEq.Reg(asm.R1, asm.R2, "match"),
		)
	}
	return append(code, asm.Ja.Label("out"))
}

// current puts the running thread where matches looks.
func current(t Target) (code asm.Instructions) {
	if len(t.Prefixes) > 0 {
		code = append(code,
			asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, -commLen),
			asm.Mov.Imm(asm.R2, commLen), asm.FnGetCurrentComm.Call())
	}
	return append(code, asm.FnGetCurrentPidTgid.Call(), asm.RSh.Imm(asm.R0, 32))
}

// count adds one to a field and leaves.
func count(label string, at int16) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, rValue, at, asm.DWord).WithSymbol(label),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(rValue, at, asm.R1, asm.DWord),
		asm.Ja.Label("out"),
	}
}

func out() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return()}
}

func join(parts ...asm.Instructions) (code asm.Instructions) {
	for _, p := range parts {
		code = append(code, p...)
	}
	return code
}

// onSwitch runs at sched_switch(preempt, prev, next, prev_state) while prev is
// still current. What prev ran is the time since this CPU's switch before. A
// switch is involuntary by the kernel's own rule: preempted, or still runnable.
func (p *programs) onSwitch(t Target) asm.Instructions {
	return join(p.value(), asm.Instructions{
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(rDelta, rValue, atSwitched, asm.DWord),
		asm.StoreMem(rValue, atSwitched, asm.R0, asm.DWord),
		asm.JEq.Imm(rDelta, 0, "out"), // the first switch seen here
		asm.Sub.Reg(asm.R0, rDelta),
		asm.Mov.Reg(rDelta, asm.R0),
	}, current(t), matches(t), asm.Instructions{
		asm.LoadMem(asm.R1, rValue, atRun, asm.DWord).WithSymbol("match"),
		asm.Add.Reg(asm.R1, rDelta),
		asm.StoreMem(rValue, atRun, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, rCtx, 0, asm.DWord), // preempt, a bool
		asm.And.Imm(asm.R1, 0xff),
		asm.JNE.Imm(asm.R1, 0, "involuntary"),
		asm.LoadMem(asm.R1, rCtx, 24, asm.DWord), // prev_state, an unsigned int, since Linux 5.18
		asm.LSh.Imm(asm.R1, 32),
		asm.JEq.Imm(asm.R1, 0, "involuntary"),
	}, count("voluntary", atVoluntary), count("involuntary", atInvoluntary), out())
}

func (p *programs) onSyscall(t Target) asm.Instructions {
	return join(p.value(), current(t), matches(t), count("match", atSyscalls), out())
}

// onWakeup runs at sched_wakeup(p). The woken thread is not the current one:
// what it is called is read from its task_struct, whose layout the kernel's own
// type information gives.
func (p *programs) onWakeup(t Target) (asm.Instructions, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, err
	}
	tgid, err := offset(spec, "tgid")
	if err != nil {
		return nil, err
	}
	comm, err := offset(spec, "comm")
	if err != nil {
		return nil, err
	}
	read := func(to int32, size int32, from int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, to),
			asm.Mov.Imm(asm.R2, size),
			asm.Mov.Reg(asm.R3, rCtx), asm.Add.Imm(asm.R3, from),
			asm.FnProbeReadKernel.Call(),
		}
	}
	return join(p.value(),
		asm.Instructions{
			asm.LoadMem(rCtx, rCtx, 0, asm.DWord),
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
			asm.StoreMem(asm.RFP, -commLen, asm.R1, asm.DWord),
		},
		read(-commLen, prefixLen, comm), read(-8, 4, tgid),
		asm.Instructions{asm.LoadMem(asm.R0, asm.RFP, -8, asm.Word)},
		matches(t), count("match", atWakeups), out()), nil
}

// offset of a member of task_struct, in bytes.
func offset(spec *btf.Spec, member string) (int32, error) {
	var task *btf.Struct
	if err := spec.TypeByName("task_struct", &task); err != nil {
		return 0, err
	}
	for _, m := range task.Members {
		if m.Name == member {
			return int32(m.Offset.Bytes()), nil
		}
	}
	return 0, fmt.Errorf("task_struct has no %s", member)
}

// trusted tells, from a look at ourselves, whether what the programs count is
// what happens: in a PID namespace, say, they would see other numbers.
var trusted = sync.OnceValue(func() error {
	p, err := attach(Target{PID: os.Getpid()}, true)
	if err != nil {
		return err
	}
	defer p.close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := p.read()
	if err != nil {
		return err
	}
	for range naps {
		time.Sleep(nap)
	}
	after, err := p.read()
	if err != nil {
		return err
	}
	if d := after.Sub(before); d.Voluntary == 0 || d.Syscalls == 0 {
		return errors.New("the programs do not see this process; is this a PID namespace?")
	}
	return nil
})
