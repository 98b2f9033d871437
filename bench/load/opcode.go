package load

import "slices"

// opcode is a command other than READ(16) and WRITE(16): what it costs a target
// is measured one opcode at a time.
type opcode struct {
	name  string
	code  byte
	flags byte // of the CDB's second byte
	form  form
	data  movement
}

// form is where in a CDB the address and the number of blocks are.
type form uint8

const (
	sixByte    form = iota // LBA 1-3, blocks 4
	tenByte                // LBA 2-5, blocks 7-8
	twelveByte             // LBA 2-5, blocks 6-9
	longByte               // LBA 2-9, blocks 10-13
	atomic16               // LBA 2-9, blocks 12-13 (SBC-4 §5.52)
	caw16                  // LBA 2-9, blocks 13 (SBC-4 §5.4)
	unmap10                // no LBA, parameter list length 7-8 (SBC-4 §5.35)
	bare                   // nothing
)

// movement is the data that goes with a command.
type movement uint8

const (
	none     movement = iota
	dataIn            // all blocks
	dataOut           // all blocks
	oneBlock          // out, whatever the number of blocks
	twice             // out: what to compare, and what to write
	list              // out: the parameter list of UNMAP
)

const (
	bytchk    = 1 << 1 // compare with data from the initiator (SBC-4 §5.40)
	unmapList = 24     // bytes: header and one descriptor
)

// opcodes are the data path of a disk (SBC-4 §5). UNMAP comes last: what
// compares would not find what was written.
var opcodes = []opcode{
	{"read6", 0x08, 0, sixByte, dataIn},
	{"read10", 0x28, 0, tenByte, dataIn},
	{"read12", 0xa8, 0, twelveByte, dataIn},
	{"read16", 0x88, 0, longByte, dataIn},
	{"write6", 0x0a, 0, sixByte, dataOut},
	{"write10", 0x2a, 0, tenByte, dataOut},
	{"write12", 0xaa, 0, twelveByte, dataOut},
	{"write16", 0x8a, 0, longByte, dataOut},
	{"write-atomic16", 0x9c, 0, atomic16, dataOut},
	{"write-verify10", 0x2e, 0, tenByte, dataOut},
	{"write-verify12", 0xae, 0, twelveByte, dataOut},
	{"write-verify16", 0x8e, 0, longByte, dataOut},
	{"write-same10", 0x41, 0, tenByte, oneBlock},
	{"write-same16", 0x93, 0, longByte, oneBlock},
	{"orwrite16", 0x8b, 0, longByte, dataOut},
	{"compare-and-write", 0x89, 0, caw16, twice},
	{"verify10", 0x2f, 0, tenByte, none},
	{"verify12", 0xaf, 0, twelveByte, none},
	{"verify16", 0x8f, 0, longByte, none},
	{"verify16-bytchk", 0x8f, bytchk, longByte, dataOut},
	{"pre-fetch10", 0x34, 0, tenByte, none},
	{"pre-fetch16", 0x90, 0, longByte, none},
	{"synchronize-cache10", 0x35, 0, tenByte, none},
	{"synchronize-cache16", 0x91, 0, longByte, none},
	{"test-unit-ready", 0x00, 0, bare, none},
	{"unmap", 0x42, 0, unmap10, list},
}

// Opcodes are the names that Options.Opcode takes, in an order in which each
// finds what it wants on a disk that was written through.
func Opcodes() (names []string) {
	for _, o := range opcodes {
		names = append(names, o.name)
	}
	return names
}

func findOpcode(name string) (*opcode, error) {
	i := slices.IndexFunc(opcodes, func(o opcode) bool { return o.name == name })
	if i < 0 {
		return nil, badOption("there is no opcode %q; there are %v", name, Opcodes())
	}
	return &opcodes[i], nil
}

// out tells that the command carries data to the target.
func (o *opcode) out() bool { return o.data > dataIn }

// transfer is the bytes that go with a command for size bytes of blocks.
func (o *opcode) transfer(size, block uint32) uint32 {
	switch o.data {
	case none:
		return 0
	case oneBlock:
		return block
	case twice:
		return 2 * size
	case list:
		return unmapList
	}
	return size
}

// put fills a CDB that is all zeroes.
//
//spindle:hot
func (o *opcode) put(cdb []byte, lba uint64, blocks uint32) {
	cdb[0], cdb[1] = o.code, o.flags
	switch o.form {
	case sixByte:
		be.PutUint32(cdb, uint32(o.code)<<24|uint32(lba)&0x1fffff)
		cdb[4] = byte(blocks)
	case tenByte:
		be.PutUint32(cdb[2:], uint32(lba))
		be.PutUint16(cdb[7:], uint16(blocks))
	case twelveByte:
		be.PutUint32(cdb[2:], uint32(lba))
		be.PutUint32(cdb[6:], blocks)
	case longByte:
		be.PutUint64(cdb[2:], lba)
		be.PutUint32(cdb[10:], blocks)
	case atomic16:
		be.PutUint64(cdb[2:], lba)
		be.PutUint16(cdb[12:], uint16(blocks))
	case caw16:
		be.PutUint64(cdb[2:], lba)
		cdb[13] = byte(blocks)
	case unmap10:
		be.PutUint16(cdb[7:], unmapList)
	}
}

// putUnmapList writes UNMAP's parameter list for the first blocks of the LUN.
func putUnmapList(b []byte, blocks uint32) {
	clear(b[:unmapList])
	be.PutUint16(b, unmapList-2)
	be.PutUint16(b[2:], unmapList-8)
	be.PutUint32(b[16:], blocks)
}
