package sim

import (
	"fmt"
	"runtime/debug"
	"time"

	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/ring/simring"
)

// Bounds of one turn of a reactor: the loop's own budgets, and what a turn's
// PDUs may cause in the block layer.
const (
	maxTurnWork    = 2 * (reactor.MaxMessagesPerTurn + reactor.MaxCompletionsPerTurn + reactor.MaxTimersPerTurn)
	maxTurnSubmits = 2048
	maxSteps       = 400_000
	slowSteps      = 10 * maxSteps // of a run whose disks are slow, or whose initiators wait for memory: sleepers wake all the while
)

// core is a reactor on its thread.
type core struct {
	s      *run
	r      *reactor.Reactor
	thread *simring.Thread
	work   int  // of the last turn
	ended  bool // the turn came to its end: it did not sleep
	stop   bool
}

func (s *run) newCore(r *reactor.Reactor, q *simring.Ring) *core {
	c := &core{s: s, r: r, work: 1}
	c.thread = simring.NewThread(q, c.turn)
	return c
}

// turn is a turn of the reactor's loop as Run has it.
func (c *core) turn() {
	defer func() {
		if c.stop || c.ended {
			return
		}
		if p := recover(); p != nil {
			if c.s.rep.Failure == nil {
				c.s.fail("panic", "%v", p)
				c.s.rep.Failure.Stack = string(debug.Stack())
			}
		}
	}()
	c.ended = false
	c.work = c.r.Turn(c.r.Until(c.work))
	c.ended = true
}

// run gives the reactor a turn.
func (c *core) run(i int) {
	s := c.s
	s.submits = 0
	c.thread.Run()
	_, asleep := s.rings[i].Asleep()
	if asleep {
		s.count(Sleeps)
		return
	}
	if c.work > maxTurnWork || s.submits > maxTurnSubmits {
		s.fail("bounded turn", "reactor %d did %d things and submitted %d I/Os in one turn", i, c.work, s.submits)
	}
	s.clk.T += clock.Time(1 + s.rng.IntN(int(s.plan.turnCost)))
}

// step makes one step, or lets time pass until one can be made, but not beyond
// limit. False: there is none.
func (s *run) step(limit clock.Time) bool {
	most := uint64(maxSteps)
	if s.plan.slow || s.plan.hog > 0 {
		most = slowSteps
	}
	if s.rep.Steps++; s.rep.Steps > most {
		s.stuck(fmt.Sprintf("no end after %d steps", most))
		return true
	}
	list := s.ready[:0]
	spins := false
	for i, c := range s.cores {
		if c.thread.Runnable() {
			if c.work == 0 && !s.asleep(i) {
				spins = true // it polls and found nothing
				if s.chance(4) {
					list = append(list, i)
				}
				continue
			}
			list = append(list, i)
		}
	}
	for i, in := range s.inits {
		if in.ready() {
			list = append(list, MaxReactors+i)
		}
	}
	const world, control, work, fabric = 100, 101, 102, 103
	if s.w.Next() <= s.clk.T {
		list = append(list, world, world)
	}
	if s.control != nil && s.control.runnable() {
		list = append(list, control)
	}
	if len(s.jobs) != 0 {
		list = append(list, work)
	}
	if f := s.fab.w; f != nil && f.Next() <= s.clk.T {
		list = append(list, fabric, fabric)
	}
	s.ready = list
	if len(list) == 0 {
		return s.pass(limit, spins)
	}
	k := list[s.rng.IntN(len(list))]
	s.mix(uint64(k))
	switch {
	case k == world:
		s.w.Step()
	case k == control:
		s.stepControl()
	case k == work:
		s.stepJob()
	case k == fabric:
		s.fab.stepWorld()
	case k < MaxReactors:
		s.cores[k].run(k)
	default:
		s.inits[k-MaxReactors].step()
	}
	s.deeds()
	return true
}

func (s *run) asleep(i int) bool {
	_, asleep := s.rings[i].Asleep()
	return asleep
}

func (s *run) stepControl() {
	c := s.control
	c.step()
	if c.over && s.control == c {
		s.control = nil
		s.line("control: %s is done", c.name)
	}
}

// pass lets time pass until something can happen.
func (s *run) pass(limit clock.Time, spins bool) bool {
	next := min(s.w.Next(), s.fab.next())
	for i := range s.cores {
		if until, asleep := s.rings[i].Asleep(); asleep {
			next = min(next, until)
		}
	}
	for _, in := range s.inits {
		next = min(next, in.due())
	}
	if spins {
		next = min(next, s.clk.T.Add(time.Millisecond))
		if next > s.clk.T.Add(50*time.Microsecond) && s.chance(2) {
			next = s.clk.T.Add(50 * time.Microsecond)
		}
	}
	if next > limit || next == clock.Never {
		return false
	}
	if next > s.clk.T {
		s.clk.T = next
	}
	if spins {
		for i, c := range s.cores {
			if c.thread.Runnable() && c.work == 0 {
				c.run(i)
			}
		}
	}
	return true
}
