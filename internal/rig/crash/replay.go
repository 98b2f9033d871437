package crash

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// Moment is a disk that a power failure may leave.
type Moment struct {
	Name string
	Disk []byte // until the next moment
	Done int    // the last step that is promised
}

// Moments replays the log on the disk as it was before, and calls look at up to
// count of the moments at which something became durable, from the first mark
// on, spread evenly and the last among them. At every other one some of the writes that were still
// volatile are there too, by the toss of a coin.
func (l *Log) Moments(before []byte, count int, look func(Moment) error) error {
	var durable []int
	for i, e := range l.Entries {
		if _, ok := e.step(); ok || len(durable) > 0 && !e.plain() {
			durable = append(durable, i)
		}
	}
	if count = min(count, len(durable)); count < 1 {
		return fmt.Errorf("no step is marked: %w", ErrLog)
	}
	disk, next, done := slices.Clone(before), 0, 0
	coin := rand.New(rand.NewPCG(uint64(count), 0))
	for k := 1; k <= count; k++ {
		last := durable[len(durable)*k/count-1]
		for ; next <= last; next++ {
			e := l.Entries[next]
			if n, ok := e.step(); ok {
				done = n
			}
			if err := l.apply(e, disk); err != nil {
				return err
			}
		}
		m := Moment{fmt.Sprintf("entry %d of %d", next, len(l.Entries)), disk, done}
		if k%2 == 1 {
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
		if n, ok := e.step(); ok {
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
