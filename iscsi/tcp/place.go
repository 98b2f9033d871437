package tcp

import "spindle/reactor"

// Incoming tells which CPU and which device queue a socket's packets come by; 0
// is no queue.
type Incoming func(fd int) (cpu, queue int, err error)

// Place implements iscsi.Placer: connections of one device queue share a
// reactor, that on the CPU which serves the queue if there is one, so that a
// reactor that polls its queues polls those of its own connections only. nil:
// any reactor will do.
// Preconditions: runs on the registry's reactor; the connection waits for it.
func (c *Conn) Place(least *reactor.Reactor) *reactor.Reactor {
	t := c.t
	if t.opt.Incoming == nil {
		return nil
	}
	cpu, queue, err := t.opt.Incoming(c.fd)
	if err != nil || queue == 0 {
		return nil
	}
	r := t.queues[queue]
	if r == nil {
		r = least
		for _, s := range t.shards {
			if s.r.Core == cpu {
				r = s.r
			}
		}
		t.queues[queue] = r // at most one a queue of a device
	}
	t.Stats.Placed.Add(1)
	return r
}
