package scsi

import "spindle/internal/plant"

// The 32-byte commands come as variable-length CDBs (SPC-5 §4.2.3): CONTROL is
// byte 1, the service action is in bytes 8 and 9, and byte 10 has the flags that
// the shorter forms have in byte 1.
const (
	longControl = 1
	longAction  = 8
	longFlags   = 10
	longLength  = 32
)

func prepRead32(t *Task) Result        { return t.prepLong(prepRead16) }
func prepWrite32(t *Task) Result       { return t.prepLong(prepWrite16) }
func prepVerify32(t *Task) Result      { return t.prepLong(prepVerify16) }
func prepWriteVerify32(t *Task) Result { return t.prepLong(prepWriteVerify16) }
func prepWriteSame32(t *Task) Result   { return t.prepLong(prepWriteSame16) }

// prepLong brings the fields of a 32-byte CDB to where the 16-byte form has
// them, once what they cover has been looked at, and lets that form decode.
// Without protection information the reference and application tags mean nothing.
func (t *Task) prepLong(short func(*Task) Result) Result {
	c := &t.CDB
	if c[7] != longLength-8 {
		return t.badByte(7, wholeByte)
	}
	if c[1] = c[longFlags]; plant.On(plant.FlagsLost) {
		c[1] = 0
	}
	copy(c[2:10], c[12:20])
	copy(c[10:14], c[28:32])
	return short(t)
}

// longField is where a 32-byte CDB has a field of the 16-byte form.
func longField(at uint16) uint16 {
	switch {
	case at == 1:
		return longFlags
	case at >= 2 && at < 10:
		return at + 10
	case at >= 10 && at < 14:
		return at + 18
	}
	return at
}
