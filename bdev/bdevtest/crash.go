package bdevtest

import (
	"encoding/binary"
	"math/rand/v2"

	"spindle/bdev"
	"spindle/reactor/mem"
)

// history is what one block may hold after a crash: the version that was
// durable last and all written since, among which pending ones.
type history struct{ versions []uint64 }

// testCrash runs random writes, FUA writes and flushes with crashes at random
// moments. After each, every block holds the last version known durable or one
// written later, never an older one and never a mixture.
func testCrash(b *bench) {
	if b.f.Crash == nil {
		b.T.Skip("cannot crash")
	}
	const span, rounds = 32, 300
	rng := rand.New(rand.NewPCG(7, 7))
	ch := b.Open(b.dev, 0)
	blocks := make([]history, span)
	for i := range blocks {
		blocks[i].versions = []uint64{0}
	}
	busy := make([]*Call, span) // the write in flight on each block
	version := uint64(0)
	for round := range rounds {
		b.settle(busy, blocks)
		lba := uint64(rng.IntN(span))
		switch {
		case rng.IntN(10) == 0:
			b.flushAll(ch, busy, blocks)
		case busy[lba] == nil:
			version++
			c := NewCall(bdev.Write, lba, 1, b.stamp(version), 0)
			if rng.IntN(5) == 0 {
				c.Flags = bdev.FUA
			}
			blocks[lba].versions = append(blocks[lba].versions, version)
			b.Until("submit", func() bool { return c.Start(ch) != bdev.NoMem })
			busy[lba] = c
		}
		if rng.IntN(3) == 0 {
			b.Turn()
		}
		b.settle(busy, blocks)
		if round%5 == 0 {
			b.checkCrash(uint64(round), blocks)
		}
	}
	for _, c := range busy {
		if c != nil {
			b.Until("write", c.Done)
		}
	}
}

// settle notes what ended: a FUA write leaves nothing older.
func (b *bench) settle(busy []*Call, blocks []history) {
	for lba, c := range busy {
		if c == nil || !c.Done() {
			continue
		}
		busy[lba] = nil
		if h := &blocks[lba]; c.Flags&bdev.FUA != 0 {
			h.versions = h.versions[len(h.versions)-1:]
		}
	}
}

// flushAll flushes: what had ended before cannot be undone any more.
func (b *bench) flushAll(ch bdev.Channel, busy []*Call, blocks []history) {
	pending := make([]bool, len(busy))
	for lba, c := range busy {
		pending[lba] = c != nil
	}
	b.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
	for lba := range blocks {
		h := &blocks[lba]
		keep := len(h.versions) - 1
		if pending[lba] {
			keep--
		}
		h.versions = h.versions[max(keep, 0):]
	}
}

// stamp is a block that says its version in every word.
func (b *bench) stamp(version uint64) mem.Ref {
	buf := b.Buffer(b.size)
	for p := buf.Bytes(); len(p) > 0; p = p[8:] {
		binary.LittleEndian.PutUint64(p, version)
	}
	return buf
}

func (b *bench) checkCrash(seed uint64, blocks []history) {
	ch, err := b.f.Crash(b.dev.Module(), seed).Open(b.Reactors[0])
	if err != nil {
		b.T.Fatal(err)
	}
	buf, ok := b.arena.Alloc(b.size)
	if !ok {
		b.T.Fatal("no buffer")
	}
	for lba, h := range blocks {
		b.MustDo(ch, bdev.Read, uint64(lba), 1, buf, 0)
		got := binary.LittleEndian.Uint64(buf.Bytes())
		for p := buf.Bytes(); len(p) > 0; p = p[8:] {
			if binary.LittleEndian.Uint64(p) != got {
				b.T.Fatalf("crash %d: block %d is torn", seed, lba)
			}
		}
		found := false
		for _, v := range h.versions {
			found = found || v == got
		}
		if !found {
			b.T.Fatalf("crash %d: block %d holds version %d, possible are %v", seed, lba, got, h.versions)
		}
	}
	b.arena.Free(buf)
	ch.Close()
}
