package scsi

// reply builds parameter data in a task's buffer. What does not fit is counted
// and dropped: the allocation length truncates, it never changes the lengths
// inside the data (SPC-5 §4.2.5.6).
type reply struct {
	b []byte
	n int // bytes made, kept or not
}

func (p *reply) u8(v byte) {
	if p.n < len(p.b) {
		p.b[p.n] = v
	}
	p.n++
}

func (p *reply) u16(v uint16) { p.u8(byte(v >> 8)); p.u8(byte(v)) }
func (p *reply) u32(v uint32) { p.u16(uint16(v >> 16)); p.u16(uint16(v)) }
func (p *reply) u64(v uint64) { p.u32(uint32(v >> 32)); p.u32(uint32(v)) }

func (p *reply) bytes(v []byte) {
	if p.n < len(p.b) {
		copy(p.b[p.n:], v)
	}
	p.n += len(v)
}

func (p *reply) str(s string) {
	if p.n < len(p.b) {
		copy(p.b[p.n:], s)
	}
	p.n += len(s)
}

// pad writes s left-aligned in n bytes, filled with spaces (SPC-5 §4.3.1).
func (p *reply) pad(s string, n int) {
	if len(s) > n {
		s = s[:n]
	}
	p.str(s)
	for i := len(s); i < n; i++ {
		p.u8(' ')
	}
}

func (p *reply) zero(n int) {
	for ; n > 0; n-- {
		p.u8(0)
	}
}

// set overwrites the byte at offset at, if it was kept.
func (p *reply) set(at int, v byte) {
	if at < len(p.b) {
		p.b[at] = v
	}
}

// length16 stores in the two bytes at offset at how many bytes follow them.
func (p *reply) length16(at int) {
	n := p.n - at - 2
	p.set(at, byte(n>>8))
	p.set(at+1, byte(n))
}

// length32 is length16 for a four-byte field.
func (p *reply) length32(at int) {
	n := p.n - at - 4
	p.set(at, byte(n>>24))
	p.set(at+1, byte(n>>16))
	p.set(at+2, byte(n>>8))
	p.set(at+3, byte(n))
}

// wantReply sets a task up to return at most alloc bytes of parameter data.
func (t *Task) wantReply(alloc uint32) Result {
	t.Dir = DataIn
	t.Want = min(alloc, maxReply)
	return Ready
}

// maxReply bounds parameter data, in bytes: the REPORT LUNS list of the largest
// inventory.
const maxReply = 8 + 8*MaxLUNs

// reply starts the parameter data of t.
func (t *Task) reply() reply { return reply{b: t.Data.Bytes()[:t.Want]} }

// send ends t with the parameter data p.
func (t *Task) send(p *reply) action {
	t.DataLen = min(uint32(p.n), t.Want)
	return actDone
}
