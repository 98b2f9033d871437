package iser

import (
	"time"

	"spindle/reactor/clock"
)

const (
	// period lies between polls of software devices that bring several messages.
	period = time.Millisecond
	// maxSkip polls that bring one message go by between tries of a period.
	maxSkip = 256
)

// pace is when to poll the completion queues of software devices.
//
// Such a device works on the CPUs of its users, and announces each message to
// the peer by an interrupt of its own. Whoever polls it without a pause answers
// commands one by one, and both ends then pay for each of them what they could
// pay for several: a system call here, an interrupt, a wake-up and a system call
// there. With polls a period apart commands gather where there are several; a
// turn that works for longer than that is followed by the next at once, so what
// is served in all does not suffer. Where one waits for the answer of the other a
// pause is time lost: so after one that brought nothing together the next is
// further away.
type pace struct {
	next clock.Time // time of the next poll
	skip int        // polls to go by before a period is tried for a single message
	lone int        // the same, after another try that brought nothing together
}

// had notes that the poll of the turn that started now brought so many messages.
//
//spindle:hot
func (p *pace) had(now clock.Time, messages int) {
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
	p.next = now.Add(period)
}

// due tells whether it is time to poll.
//
//spindle:hot
func (p *pace) due(now clock.Time) bool { return now >= p.next }
