package metamorphic

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"spindle/iscsi/pdu"
)

var be = binary.BigEndian

// blocks is the size of every LUN, in blocks of 512 bytes: small, so that
// operations meet each other's blocks.
const (
	blockSize = 512
	blocks    = 4096
	hot       = 96 // most operations start below
)

// op is one command.
type op struct {
	name string
	cdb  []byte
	dir  byte // pdu.FlagRead, pdu.FlagWrite or 0
	edtl uint32
	out  []byte
	// stored: what it reads is the content of the medium.
	stored bool
	// identity are the bytes that name the device and differ by nature.
	identity [2]int
}

// generator makes operations from a seed.
type generator struct{ *rand.Rand }

// list makes n operations.
func list(seed uint64, n int) []op {
	g := generator{rand.New(rand.NewPCG(seed, 7))}
	ops := make([]op, n)
	for i := range ops {
		ops[i] = g.op()
		g.misfit(&ops[i])
	}
	return ops
}

// extent is a range that is mostly small, near the start and inside.
func (g generator) extent(most int) (lba uint64, n uint32) {
	lba, n = uint64(g.IntN(hot)), uint32(1+g.IntN(most))
	switch g.IntN(40) {
	case 0:
		lba = blocks - uint64(g.IntN(4))
	case 1:
		lba = g.Uint64()
	case 2:
		n = 0
	case 3:
		n = uint32(g.IntN(600)) // long enough for every burst
	}
	return lba, n
}

func (g generator) data(n uint32) []byte {
	b := make([]byte, n)
	x := g.Uint64()
	for i := range b {
		b[i] = byte(x >> (i & 7 * 8))
		if i&511 == 511 {
			x = x*6364136223846793005 + 1
		}
	}
	return b
}

func cdb10(opcode byte, lba uint64, n uint32) []byte {
	c := make([]byte, 10)
	c[0] = opcode
	be.PutUint32(c[2:], uint32(min(lba, 1<<32-1)))
	be.PutUint16(c[7:], uint16(n))
	return c
}

func cdb16(opcode byte, lba uint64, n uint32) []byte {
	c := make([]byte, 16)
	c[0] = opcode
	be.PutUint64(c[2:], lba)
	be.PutUint32(c[10:], n)
	return c
}

// op makes one operation that is right in itself. Those that depend on what a
// device can do (WRITE ATOMIC, GET LBA STATUS) are left to the dialogues.
func (g generator) op() op {
	lba, n := g.extent(24)
	size := n * blockSize
	switch g.IntN(21) {
	case 0, 1, 2, 3:
		return op{name: "WRITE (10)", cdb: cdb10(0x2a, lba, n), dir: pdu.FlagWrite, edtl: size, out: g.data(size)}
	case 4:
		return op{name: "WRITE (16)", cdb: cdb16(0x8a, lba, n), dir: pdu.FlagWrite, edtl: size, out: g.data(size)}
	case 5, 6, 7:
		return op{name: "READ (10)", cdb: cdb10(0x28, lba, n), dir: pdu.FlagRead, edtl: size, stored: true}
	case 8, 9:
		return op{name: "READ (16)", cdb: cdb16(0x88, lba, n), dir: pdu.FlagRead, edtl: size, stored: true}
	case 10:
		return g.unmap()
	case 11:
		c := cdb16(0x93, lba, n)
		c[1] = []byte{0, 8, 1, 9}[g.IntN(4)] // UNMAP, NDOB
		if n == 0 {
			c[13] = 1 // 0 would be up to the end, which is not the same everywhere
		}
		if c[1]&1 != 0 {
			return op{name: "WRITE SAME (16) NDOB", cdb: c}
		}
		out := make([]byte, blockSize) // of zeroes: with UNMAP what is read afterwards is defined
		if c[1] == 0 {
			out = g.data(blockSize)
		}
		return op{name: "WRITE SAME (16)", cdb: c, dir: pdu.FlagWrite, edtl: blockSize, out: out}
	case 12:
		return op{name: "WRITE SAME (10)", cdb: cdb10(0x41, lba, max(n, 1)), dir: pdu.FlagWrite, edtl: blockSize, out: g.data(blockSize)}
	case 13:
		return g.compareAndWrite(lba)
	case 14:
		return g.verify(lba, n)
	case 15:
		return op{name: "ORWRITE (16)", cdb: cdb16(0x8b, lba, n), dir: pdu.FlagWrite, edtl: size, out: g.data(size)}
	case 17:
		return op{name: "SYNCHRONIZE CACHE (10)", cdb: cdb10(0x35, lba, n)}
	case 16:
		out := g.data(size)
		return op{name: "WRITE AND VERIFY (10)", cdb: cdb10(0x2e, lba, n), dir: pdu.FlagWrite, edtl: size, out: out}
	default:
		return g.inform()
	}
}

func (g generator) unmap() op {
	count := g.IntN(4)
	out := make([]byte, 8+16*count)
	be.PutUint16(out, uint16(len(out)-2))
	be.PutUint16(out[2:], uint16(16*count))
	for i := range count {
		lba, n := g.extent(24)
		be.PutUint64(out[8+16*i:], lba)
		be.PutUint32(out[16+16*i:], n)
	}
	c := cdb10(0x42, 0, uint32(len(out)))
	return op{name: "UNMAP", cdb: c, dir: pdu.FlagWrite, edtl: uint32(len(out)), out: out}
}

// compareAndWrite compares with zeroes, which match now and then.
func (g generator) compareAndWrite(lba uint64) op {
	n := uint32(1 + g.IntN(3))
	c := cdb16(0x89, lba, n)
	out := make([]byte, 2*n*blockSize)
	copy(out[n*blockSize:], g.data(n*blockSize))
	return op{name: "COMPARE AND WRITE", cdb: c, dir: pdu.FlagWrite, edtl: uint32(len(out)), out: out}
}

func (g generator) verify(lba uint64, n uint32) op {
	c := cdb10(0x2f, lba, n)
	switch g.IntN(3) {
	case 0:
		return op{name: "VERIFY (10)", cdb: c}
	case 1:
		c[1] = 2
		return op{name: "VERIFY (10) BYTCHK 1", cdb: c, dir: pdu.FlagWrite, edtl: n * blockSize, out: make([]byte, n*blockSize)}
	default:
		c[1] = 6
		return op{name: "VERIFY (10) BYTCHK 3", cdb: c, dir: pdu.FlagWrite, edtl: blockSize, out: make([]byte, blockSize)}
	}
}

// inform makes a command that tells about the unit, or an invalid one.
func (g generator) inform() op {
	in := func(name string, n uint32, cdb ...byte) op {
		return op{name: name, cdb: cdb, dir: pdu.FlagRead, edtl: n}
	}
	switch g.IntN(13) {
	case 0:
		o := in("INQUIRY", 96, 0x12, 0, 0, 0, 96, 0)
		o.identity = [2]int{16, 32} // product
		return o
	case 1:
		return in("INQUIRY VPD 00", 64, 0x12, 1, 0, 0, 64, 0)
	case 2:
		return in("READ CAPACITY (10)", 8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	case 3:
		return in("MODE SENSE (6) control", 64, 0x1a, 8, 0x0a, 0, 64, 0)
	case 4:
		return in("MODE SENSE (10) control changeable", 64, 0x5a, 8, 0x4a, 0, 0, 0, 0, 0, 64, 0)
	case 5:
		return in("MODE SENSE of no page", 64, 0x1a, 0, 0x33, 0, 64, 0)
	case 6:
		return in("REQUEST SENSE", 18, 0x03, byte(g.IntN(2)), 0, 0, 18, 0)
	case 7:
		return op{name: "TEST UNIT READY", cdb: make([]byte, 6)}
	case 8:
		return in("REPORT SUPPORTED OPERATION CODES of READ (10)", 64, 0xa3, 0x0c, 1, 0x28, 0, 0, 0, 0, 0, 64, 0, 0)
	case 9:
		return in("PERSISTENT RESERVE IN", 64, 0x5e, byte(g.IntN(4)), 0, 0, 0, 0, 0, 0, 64, 0)
	case 10:
		return in("INQUIRY of no page", 64, 0x12, 1, 0xee, 0, 64, 0)
	case 11:
		c := make([]byte, 16)
		c[0], c[1] = byte(0xc0+g.IntN(64)), byte(g.Uint32()) // vendor specific: there are none
		return op{name: "unknown", cdb: c}
	default:
		return op{name: "MODE SELECT of nonsense", cdb: []byte{0x15, 0x10, 0, 0, 12, 0}, dir: pdu.FlagWrite, edtl: 12, out: g.data(12)}
	}
}

// misfit now and then has the initiator expect another length, no data or the
// other direction, or spoils a byte of the CDB.
func (g generator) misfit(o *op) {
	switch g.IntN(24) {
	case 0:
		o.edtl = uint32(g.IntN(4096))
	case 1:
		o.edtl += 512
	case 2:
		o.edtl, o.dir = 0, 0
	case 3:
		if i := 1 + g.IntN(len(o.cdb)-1); o.cdb[0] < 0xc0 && i == 1 || i == len(o.cdb)-1 {
			o.cdb[i] ^= 1 << g.IntN(8)
			o.identity = [2]int{}
			o.name += " spoilt"
			o.stored = o.stored || o.cdb[0] == 0x12 // which page it is now about is not known: VPD pages name the device
		}
	}
	if o.dir == pdu.FlagWrite {
		o.out = append(o.out, make([]byte, 4096)...)[:max(o.edtl, 1)]
	} else {
		o.out = nil
	}
	if o.dir == 0 {
		o.edtl = 0
	}
}

func (o op) String() string {
	return fmt.Sprintf("%s cdb % x, direction %02x, expects %d bytes", o.name, o.cdb, o.dir, o.edtl)
}
