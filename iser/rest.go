package iser

import (
	"time"

	"spindle/reactor/clock"
)

// Bounds of a rest: so many times as long as the work before it, and no longer
// than the other. After rests that brought one message or none, up to maxSkip
// turns go by without one.
const (
	restFactor = 2
	maxRest    = time.Millisecond
	maxSkip    = 64
)

// rest is the time for which completion queues of software devices are not
// polled after a turn that had work from them.
//
// Such a device works on the CPUs of its users, and announces each message to
// the peer by an interrupt of its own. Whoever polls it without a pause answers
// commands one by one, and both ends then pay for each of them what they could
// pay for several: a system call here, an interrupt, a wake-up and a system call
// there. With a rest twice as long as the work, commands gather where there are
// several. Where one waits for the answer of the other a rest is time lost: so
// after one that brought nothing together the next is further away.
type rest struct {
	from  clock.Time // start of the turn that had work, until its end is known
	until clock.Time
	skip  int // turns that go by before the next rest for a single message
	lone  int // the same, after another rest that brought nothing together
}

// worked notes that the turn that started now has so many messages.
//
//spindle:hot
func (p *rest) worked(now clock.Time, messages int) {
	switch {
	case messages == 0:
		return
	case messages > 1:
		p.skip, p.lone = 0, 0
	case p.skip > 0:
		p.skip--
		return
	default:
		p.lone = min(2*p.lone+1, maxSkip)
		p.skip = p.lone
	}
	p.from = now
}

// over tells whether it is time to poll.
//
//spindle:hot
func (p *rest) over(now clock.Time) bool {
	if p.from != 0 {
		p.until = now.Add(min(restFactor*now.Sub(p.from), maxRest))
		p.from = 0
	}
	return now >= p.until
}
