package iscsi_test

import (
	"runtime"
	"testing"

	"spindle/bdev"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// steady is an initiator that allocates nothing: it keeps a number of 4 KiB
// commands outstanding, reads and writes in turn.
type steady struct {
	g     *iscsitest.Target
	c     *iscsitest.Conn
	frame [2][]byte // READ, WRITE with immediate data
	buf   []byte
	have  int
	sn    uint32
	n     uint32 // commands sent
	done  int
	bad   int
}

func newSteady(g *iscsitest.Target, c *iscsitest.Conn) *steady {
	s := &steady{g: g, c: c, sn: c.CmdSN, buf: make([]byte, 1<<20)}
	s.frame[0] = c.Frame(c.Command(1, pdu.FlagRead, 4096, iscsitest.Read10(64, 8)...), nil, nil)
	w := c.Command(1, pdu.FlagWrite, 4096, iscsitest.Write10(128, 8)...)
	w.SetDataLen(4096)
	s.frame[1] = c.Frame(w, nil, pattern(4096, 1))
	return s
}

// run does n commands at this depth.
func (s *steady) run(n, depth int) {
	for end, out := s.done+n, 0; s.done < end; {
		for ; out < depth && s.done+out < end; out++ {
			f := s.frame[s.n&1]
			b := pdu.BHS(f)
			b.SetITT(s.n)
			b.SetCmdSN(s.sn)
			for len(f) > 0 {
				k := s.c.Peer.Write(f)
				f = f[k:]
				if k == 0 {
					s.g.Turn()
				}
			}
			s.n++
			s.sn++
		}
		s.g.Turn()
		out -= s.reap()
	}
}

// reap counts the answers that have come.
func (s *steady) reap() (n int) {
	s.have += s.c.Peer.Read(s.buf[s.have:])
	at := 0
	for s.have-at >= pdu.HeaderLen {
		b := pdu.BHS(s.buf[at:])
		size := pdu.HeaderLen + int(b.PaddedDataLen())
		if s.have-at < size {
			break
		}
		if o := b.Opcode(); o == pdu.SCSIResponse || o == pdu.DataIn && b.Flags()&pdu.FlagStatus != 0 {
			n++
			if b.Status() != 0 {
				s.bad++
			}
		}
		at += size
	}
	copy(s.buf, s.buf[at:s.have])
	s.have -= at
	s.done += n
	return n
}

// TestSteadyState: 10,000 reads and writes through the whole stack allocate
// nothing, and at queue depth 32 a command costs at most 0.2 system calls.
func TestSteadyState(t *testing.T) {
	g := iscsitest.New(t, iscsitest.Options{})
	must(t, g.Engine.EnableHistograms(g, iscsitest.Node, true, bdev.HistogramOptions{Op: bdev.AllOps}))
	c := g.Dial().Login("InitialR2T=No", "ImmediateData=Yes")
	ready(t, c, 1)
	s := newSteady(g, c)
	s.run(2000, 32)
	calls := g.Reactors[0].Ring.Syscalls()
	// The count is the process's. What the runtime allocates now and then for itself
	// is not in each of three rounds; what a command allocates would be.
	least := ^uint64(0)
	rounds := 0
	for ; rounds < 3 && least != 0; rounds++ {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s.run(10000, 32)
		runtime.ReadMemStats(&after)
		least = min(least, after.Mallocs-before.Mallocs)
	}
	calls = g.Reactors[0].Ring.Syscalls() - calls
	if s.bad != 0 {
		t.Fatalf("%d commands failed", s.bad)
	}
	if least != 0 && !raceEnabled {
		t.Errorf("%d allocations over 10,000 commands", least)
	}
	if per := float64(calls) / float64(10000*rounds); per > 0.2 {
		t.Errorf("%.3f system calls a command", per)
	}
	c.CmdSN = s.sn
}
