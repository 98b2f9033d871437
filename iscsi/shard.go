package iscsi

import (
	"time"

	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
)

// shard is the engine's part on one reactor. Owner: its reactor.
type shard struct {
	e       *Engine
	r       *reactor.Reactor
	conns   []*Connection // all of this reactor's, in no order
	pending []*Connection // not yet in full feature phase, oldest first
	nextID  uint64
	stray   tally
	tasks   *Task    // in no session's use; the last given back first
	made    uint32   // tasks there are
	held    bool     // connections wait for Engine.Open
	early   []func() // those that wait

	// Commands without a data buffer, by connection, served in turn.
	waitConns []*Connection
	waiters   int
	retry     reactor.FlushNode
	again     reactor.Timer // memory comes back by other ways than free, too
}

func newShard(e *Engine, r *reactor.Reactor) *shard {
	s := &shard{e: e, r: r}
	s.retry.To = s
	s.again.Fire = s.lookAgain
	return s
}

// enlarge sees to it that there are n tasks at least. It is apart from takeTask
// because it allocates.
//
//go:noinline
func (s *shard) enlarge(n uint32) {
	if s.made >= n {
		return
	}
	tasks := make([]Task, n-s.made)
	s.made = n
	for i := range tasks {
		t := &tasks[i]
		t.SCSI.Owner, t.SCSI.Arg = t, t
		t.reply.Out.Done = t
		s.keepTask(t)
	}
}

// moreTasks is how many are made when all are in use.
const moreTasks = 32

// takeTask returns a free task. Sessions share what is far fewer than they may
// use together, so more are made as more are in use at once.
//
//spindle:hot
func (s *shard) takeTask() *Task {
	if s.tasks == nil {
		s.enlarge(s.made + moreTasks)
	}
	t := s.tasks
	s.tasks = t.freeNext
	t.freeNext = nil
	return t
}

// keepTask takes back a task that has ended. It remembers its session, whose next
// command it may be, and its place there.
//
//spindle:hot
func (s *shard) keepTask(t *Task) {
	t.conn = nil
	t.freeNext, s.tasks = s.tasks, t
}

// alloc returns a data buffer of n bytes.
//
//spindle:hot
func (s *shard) alloc(n uint32) (mem.Ref, bool) {
	if s.waiters > 0 {
		return mem.Ref{}, false // first come, first served
	}
	b, ok := s.r.Arena.Alloc(n)
	if !ok {
		return s.allocHard(n)
	}
	return b, true
}

// allocHard returns a buffer at the cost of what is only kept to be sent again.
func (s *shard) allocHard(n uint32) (mem.Ref, bool) {
	for s.reclaim() {
		if b, ok := s.r.Arena.Alloc(n); ok {
			return b, true
		}
	}
	return mem.Ref{}, false
}

// free takes a data buffer back and serves those who wait for one.
//
//spindle:hot
func (s *shard) free(b mem.Ref) {
	s.r.Arena.Free(b)
	if s.waiters > 0 {
		s.r.NeedFlush(&s.retry)
	}
}

// bufferPatience is how long a command waits for a buffer. Longer, and what it
// waits for does not come: memory kept for long, by sessions say, may leave no
// block of its size.
const bufferPatience = 5 * time.Second

// lookAgain serves those who wait, and ends those who have waited too long.
func (s *shard) lookAgain(now clock.Time) {
	s.Flush()
	for i := 0; i < len(s.waitConns); {
		t := s.waitConns[i].waitHead
		if now.Sub(t.waitSince) < bufferPatience {
			i++
			continue
		}
		s.unwait(t) // may take its connection off the list
		t.full()
		t.respond()
	}
	if s.waiters > 0 {
		s.r.Arm(&s.again, now.Add(retryBuffers))
	}
}

// retryBuffers is how often commands that wait for a buffer look again.
const retryBuffers = 10 * time.Millisecond

// wait queues t until a buffer is free. False: too many wait already.
func (s *shard) wait(t *Task) bool {
	if s.waiters >= int(s.e.inventory.Load().opt.MaxBufferWaiters) {
		return false
	}
	c := t.conn
	if c.waitHead == nil {
		c.waitHead = t
		s.waitConns = append(s.waitConns, c)
	} else {
		c.waitTail.waitNext = t
	}
	c.waitTail, t.waitNext = t, nil
	t.waitSince = s.r.Now()
	s.waiters++
	if !s.again.Armed() {
		s.r.Arm(&s.again, s.r.Now().Add(retryBuffers))
	}
	s.e.Stats.BufferWaits.Add(1)
	return true
}

// unwait takes an aborted task out of the queue.
func (s *shard) unwait(t *Task) {
	c := t.conn
	var prev *Task
	for q := c.waitHead; q != nil; prev, q = q, q.waitNext {
		if q != t {
			continue
		}
		if prev == nil {
			c.waitHead = t.waitNext
		} else {
			prev.waitNext = t.waitNext
		}
		if c.waitTail == t {
			c.waitTail = prev
		}
		t.waitNext = nil
		s.waiters--
		break
	}
	if c.waitHead == nil {
		s.dropWaitConn(c)
	}
	if s.waiters > 0 {
		s.r.NeedFlush(&s.retry) // it may have been the one too big to serve
	}
}

func (s *shard) dropWaitConn(c *Connection) {
	for i, q := range s.waitConns {
		if q == c {
			s.waitConns = append(s.waitConns[:i], s.waitConns[i+1:]...)
			return
		}
	}
}

// Flush serves commands that wait for a buffer, one a connection in turn, until
// one cannot be served; implements reactor.Flusher.
func (s *shard) Flush() {
	for len(s.waitConns) > 0 {
		c := s.waitConns[0]
		t := c.waitHead
		b, ok := s.r.Arena.Alloc(t.bufferSize())
		if !ok {
			if b, ok = s.allocHard(t.bufferSize()); !ok {
				return
			}
		}
		c.waitHead, t.waitNext = t.waitNext, nil
		s.waiters--
		copy(s.waitConns, s.waitConns[1:])
		if c.waitHead == nil {
			c.waitTail = nil
			s.waitConns = s.waitConns[:len(s.waitConns)-1]
		} else {
			s.waitConns[len(s.waitConns)-1] = c
		}
		t.SCSI.Data = b
		t.buffered()
	}
}

// add puts c on the shard's list.
func (s *shard) add(c *Connection) {
	s.nextID++
	c.sh = s
	c.index = len(s.conns)
	s.conns = append(s.conns, c)
}

// remove takes c off it.
func (s *shard) remove(c *Connection) {
	last := len(s.conns) - 1
	s.conns[c.index] = s.conns[last]
	s.conns[c.index].index = c.index
	s.conns[last] = nil
	s.conns = s.conns[:last]
}

// unpend takes c off the list of logins in progress.
func (s *shard) unpend(c *Connection) {
	for i, q := range s.pending {
		if q == c {
			s.pending = append(s.pending[:i], s.pending[i+1:]...)
			return
		}
	}
}
