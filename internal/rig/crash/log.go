package crash

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Flags of an entry.
type Flags uint64

// The flags.
const (
	Flush Flags = 1 << iota
	FUA
	Discard
	Mark
	metadata
)

const (
	logMagic   = 0x6a736677736872
	logVersion = 1
	headLen    = 32
	maxSector  = 4096
)

// ErrLog is a log that cannot be read.
var ErrLog = errors.New("not a log of dm-log-writes")

// Entry is one write, flush, discard or mark.
type Entry struct {
	Sector, Sectors uint64 // of the log's sector size
	Flags           Flags
	Mark            string
	data            int64 // where the log has what was written
}

// plain tells whether power may take the entry away until the next flush.
func (e Entry) plain() bool { return e.Flags&(Flush|FUA|Mark) == 0 }

// step is the step that a mark promises; the kernel has marks of its own.
func (e Entry) step() (n int, ok bool) {
	n, err := strconv.Atoi(e.Mark)
	return n, err == nil
}

// Log is what a device was told.
type Log struct {
	Entries []Entry
	r       io.ReaderAt
	sector  int64
}

// ReadLog reads the heads of all entries.
func ReadLog(r io.ReaderAt) (*Log, error) {
	var super [28]byte
	if _, err := r.ReadAt(super[:], 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	n, sector := le.Uint64(super[16:]), int64(le.Uint32(super[24:]))
	if le.Uint64(super[0:]) != logMagic || le.Uint64(super[8:]) != logVersion || sector < 512 || sector > maxSector {
		return nil, ErrLog
	}
	l := &Log{r: r, sector: sector}
	head := make([]byte, sector)
	for at := sector; uint64(len(l.Entries)) < n; {
		if _, err := r.ReadAt(head, at); err != nil {
			return nil, fmt.Errorf("entry %d of %d: %w", len(l.Entries), n, err)
		}
		e := Entry{Sector: le.Uint64(head[0:]), Sectors: le.Uint64(head[8:]), Flags: Flags(le.Uint64(head[16:])), data: at + sector}
		mark := le.Uint64(head[24:])
		if mark > uint64(sector-headLen) || e.Flags >= metadata<<1 || e.Sectors > 1<<32 {
			return nil, fmt.Errorf("entry %d of %d: %w", len(l.Entries), n, ErrLog)
		}
		e.Mark = string(head[headLen : headLen+mark])
		l.Entries = append(l.Entries, e)
		at = e.data
		if e.Flags&Discard == 0 {
			at += int64(e.Sectors) * sector
		}
	}
	return l, nil
}

// apply does to the disk what the entry did to the device. What was discarded
// reads as zeroes.
func (l *Log) apply(e Entry, disk []byte) error {
	from, n := e.Sector*uint64(l.sector), e.Sectors*uint64(l.sector)
	if n == 0 {
		return nil
	}
	if from+n > uint64(len(disk)) {
		return fmt.Errorf("%d bytes at %d of a disk of %d: %w", n, from, len(disk), ErrLog)
	}
	to := disk[from : from+n]
	if e.Flags&Discard != 0 {
		clear(to)
		return nil
	}
	_, err := l.r.ReadAt(to, e.data)
	return err
}
