package crash

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
)

// Moment is a disk that a power failure may leave.
type Moment struct {
	Name string
	Disk []byte // until the next moment
	Done int    // the last step that is promised; -1 before there is any
}

// Moments replays the log on the disk as it was before, and calls look at up to
// count of the moments at which something became durable, spread evenly and the
// last among them. At every other one some of the writes that were still
// volatile are there too, by the toss of a coin.
func (l *Log) Moments(before []byte, count int, look func(Moment) error) error {
	var durable []int
	for i, e := range l.Entries {
		if !e.plain() {
			durable = append(durable, i)
		}
	}
	if count = min(count, len(durable)); count < 1 {
		return fmt.Errorf("nothing in the log is durable: %w", ErrLog)
	}
	disk, next, done := slices.Clone(before), 0, -1
	coin := rand.New(rand.NewPCG(uint64(count), 0))
	for k := 1; k <= count; k++ {
		last := durable[len(durable)*k/count-1]
		for ; next <= last; next++ {
			e := l.Entries[next]
			if n, err := strconv.Atoi(e.Mark); err == nil {
				done = n
			}
			if err := l.apply(e, disk); err != nil {
				return err
			}
		}
		m := Moment{fmt.Sprintf("entry %d of %d", next, len(l.Entries)), disk, done}
		if k%2 == 0 {
			more, err := l.volatile(&m, next, coin)
			if err != nil {
				return err
			}
			m.Name += fmt.Sprintf(" and %d volatile writes", more)
		}
		if err := look(m); err != nil {
			return fmt.Errorf("%s, step %d: %w", m.Name, m.Done, err)
		}
	}
	return nil
}

// volatile adds to a moment what comes before the next flush: all that was
// forced to the medium, as the rest may have been written after it, and each
// plain write or not.
func (l *Log) volatile(m *Moment, next int, coin *rand.Rand) (more int, err error) {
	m.Disk = slices.Clone(m.Disk)
	for _, e := range l.Entries[next:] {
		if e.Flags&Flush != 0 {
			break
		}
		if n, err := strconv.Atoi(e.Mark); err == nil {
			m.Done = n
		}
		if e.plain() {
			if coin.IntN(2) == 0 {
				continue
			}
			more++
		}
		if err := l.apply(e, m.Disk); err != nil {
			return more, err
		}
	}
	return more, nil
}
