package sim

import (
	"slices"
	"time"

	"spindle/bdev"
	"spindle/bdev/delay"
	"spindle/iscsi"
	"spindle/reactor"
	"spindle/reactor/clock"
)

// deedState is where the world's own doings stand.
type deedState struct {
	actions     int   // made so far
	due         bool  // something is to be done
	leaving     bool  // a LUN is being removed
	changing    int   // deeds at work that change who may log in
	steadySince int64 // the last one ended
	unmapped    int64 // instant since which the second portal group leads to no node; 0 when it does
	coldOpen    int   // cold resets sent and not answered
	coldOver    int64 // instant of the last answer to one
}

// acted counts an action of an initiator.
func (s *run) acted() {
	s.actions++
	if p := &s.plan; s.actions == p.doomAt || p.deedEvery > 0 && s.actions%p.deedEvery == 0 {
		s.due = true
	}
}

// stable tells whether the target is as configured: who may log in, may.
func (s *run) stable() bool { return s.changing == 0 && s.nodeUp }

// deeds does what is due: kills the target, or reconfigures it.
func (s *run) deeds() {
	if !s.due || s.failed() {
		return
	}
	s.due = false
	if s.actions == s.plan.doomAt {
		s.plan.doomAt = 0
		s.die(s.plan.power)
		return
	}
	if s.control == nil {
		s.reconfigure()
	}
}

// reconfigure begins a change of the configuration in the middle of I/O.
func (s *run) reconfigure() {
	r := s.rng
	s.count(Reconfigurations)
	if s.fab.w != nil && r.IntN(3) == 0 {
		s.fab.reconfigure()
		return
	}
	switch r.IntN(16) {
	case 14, 15:
		s.begin("poll usage", s.pollUsage)
		return
	case 0:
		s.begin("redirect logins", s.redirect)
		return
	case 1, 2:
		s.begin("send asynchronous messages", s.order)
		return
	}
	if s.auth.on() && r.IntN(3) == 0 {
		s.reauthenticate()
		return
	}
	for _, lu := range s.luns {
		if lu.file != nil && lu.file.Info().Failure != "" && r.IntN(2) == 0 {
			s.count(FailedDisks)
			s.begin("replace a failed LUN", func(c reactor.Caller) { s.replace(c, lu) })
			return
		}
	}
	lu := s.luns[r.IntN(len(s.luns))]
	switch r.IntN(10) {
	case 0:
		s.begin("list connections", func(c reactor.Caller) {
			for _, i := range s.engine.Connections(c) {
				if i.Reactor >= s.plan.reactors {
					s.fail("control", "connection on reactor %d", i.Reactor)
				}
				if int(i.ID&0xff) != i.Reactor { // it was accepted elsewhere
					s.count(Moves)
				}
			}
		})
	case 1:
		s.begin("set options", func(c reactor.Caller) {
			o := s.engine.Options()
			o.NopInInterval = s.plan.drawInterval(r)
			s.engine.SetOptions(o)
		})
	case 2, 3, 4:
		for _, o := range s.luns {
			if o.spare {
				lu = o
			}
		}
		if lu.spare || r.IntN(4) == 0 {
			s.begin("replace a LUN", func(c reactor.Caller) { s.replace(c, lu) })
		}
	case 5:
		s.begin("request logouts", func(c reactor.Caller) { s.must(s.engine.RequestLogout(c, nodeName)) })
	case 6:
		s.begin("close a portal group", s.cyclePortal)
	case 7:
		s.begin("change maps", s.cycleMaps)
	case 8:
		if lu.delay != nil {
			lu.delay.SetLatency(delay.Kind(r.IntN(int(delay.NumKinds))), time.Duration(r.IntN(3000))*time.Microsecond)
		}
		lu.bdev.SetLimits(bdev.Limits{RWIOsPerSec: pick(r, uint64(0), 0, 2000, 20000)})
	case 9:
		if r.IntN(3) == 0 {
			s.begin("remove the node", s.cycleNode)
		} else {
			if lu.file == nil {
				lu = s.luns[1]
			}
			s.begin("resize", func(c reactor.Caller) { s.resize(c, lu) })
		}
	}
}

// begin starts control code, which then goes on beside everything else.
func (s *run) begin(name string, fn func(c reactor.Caller)) {
	s.line("control: %s", name)
	s.control = s.spawn(name, fn)
}

// pause lets d pass, with everything else going on.
func (c *coroutine) pause(d time.Duration) {
	r := c.s.reactors[0]
	c.Await(r, func(done func()) {
		t := &reactor.Timer{}
		t.Fire = func(clock.Time) { done() }
		r.Arm(t, r.Now().Add(d))
	})
}

// replace takes a LUN away and brings it back, on a device made anew.
func (s *run) replace(c reactor.Caller, lu *lun) {
	s.lunChange(lu, true)
	s.relock(lu)
	s.leaving = true
	call := s.now()
	s.must(s.engine.RemoveLUN(c, nodeName, lu.id))
	s.leaving = false
	s.listChanged(lu, call)
	s.revived(lu, false)
	s.count(LUNsRemoved)
	lu.present, lu.changed = false, s.now()
	c.Block(func() { s.dismantle(lu) })
	c.(*coroutine).pause(time.Duration(s.rng.IntN(2000)) * time.Microsecond)
	if lu.kind == kindRAM {
		// A RAM disk is empty when it comes back.
		s.book.closeMedium(lu, false)
		lu.born = s.now() // what comes in meanwhile was read from the one that went
		s.build(c, lu)
		s.doubt(lu)
	} else {
		s.build(c, lu)
	}
	call = s.now()
	s.must(s.engine.AddLUN(c, nodeName, lu.config()))
	s.listChanged(lu, call)
	s.count(LUNsAdded)
	lu.present = true
	s.lunChange(lu, false)
}

// listChanged is the end of a change of the list of units, begun at call, by which
// every nexus waits to be told of it by the other units (SPC-5 §6.33).
func (s *run) listChanged(but *lun, call int64) {
	for _, lu := range s.luns {
		if lu != but {
			s.owe(lu, notice{everyone, causeLUNs}, nil, call)
		}
	}
}

// lunChange begins or ends the time in which a LUN is not there for certain.
func (s *run) lunChange(lu *lun, begins bool) {
	s.relisted = true
	lu.unsteady = begins
	lu.changed = s.now()
	for _, o := range s.luns {
		if begins { // once when it goes, once when it comes
			s.cause(o, causeLUNs)
			s.cause(o, causeLUNs)
		} else {
			o.over[causeLUNs] += 2
		}
	}
	if begins {
		s.cause(lu, causeAttach)
	}
	s.blur(lu)
	s.excuseTasks(lu, 0, nil)
}

// blur says that no initiator knows which attentions lu has for it.
func (s *run) blur(lu *lun) {
	place := s.placeOf(lu)
	for _, in := range s.inits {
		in.units[place].blurred = true
	}
}

// doubt carries the writes that are open on a RAM disk over to the one that
// takes its place: nobody can tell on which of the two they ended.
func (s *run) doubt(lu *lun) {
	lu.born = s.now()
	for i := range s.book.ops {
		o := &s.book.ops[i]
		if o.lu != lu || o.state != pending {
			continue
		}
		o.vague = true
		for k := range uint64(o.blocks) {
			c := &lu.cells[o.lba+k]
			v := o.val
			if o.copied != nil {
				v = o.copied.vals[k]
			}
			c.log = append(c.log, entry{op: int32(i), val: v, kind: o.kind()})
		}
	}
}

// cyclePortal closes a portal group and opens it again.
func (s *run) cyclePortal(c reactor.Caller) {
	s.changing++
	p := &s.portals[1]
	for _, in := range s.inits {
		if in.portal == 1 {
			in.excuse("its portal closes")
		}
	}
	p.up = false
	s.must(s.engine.RemovePortalGroup(c, p.tag))
	c.(*coroutine).pause(time.Duration(s.rng.IntN(3000)) * time.Microsecond)
	s.must(s.engine.AddPortalGroup(c, p.group()))
	p.up = true
	s.changed()
}

// changed ends a deed that let logins fail and sessions end.
func (s *run) changed() {
	s.changing--
	s.steadySince = s.now()
}

// cycleMaps takes the node from one portal group for a while.
func (s *run) cycleMaps(c reactor.Caller) {
	s.changing++
	for _, lu := range s.luns {
		lu.object.Lost = lu.object.Lost || s.widening(lu)
		lu.unsteady = true
		s.blur(lu)
		s.excuseTasks(lu, 0, nil)
	}
	// A port group that is gone for a unit comes back as optimized.
	var ids []int
	for _, lu := range s.luns {
		ids = append(ids, lu.object.Call(s.now(), func(st shared) (shared, uint8) {
			st.ports[1] = optimized
			st.look(nil)
			return st, resGood
		}))
		s.cause(lu, causeThreshold) // when the port goes, and when it comes
		s.cause(lu, causeThreshold)
	}
	m := []iscsi.Map{{PortalTag: 2, InitiatorTag: 1}}
	s.must(s.engine.RemoveMaps(nodeName, m))
	s.unmapped = s.now()
	c.(*coroutine).pause(time.Duration(s.rng.IntN(3000)) * time.Microsecond)
	s.unmapped = 0
	s.must(s.engine.AddMaps(nodeName, m))
	busy := func(lu *lun) bool { return lu.resetting > 0 || !lu.object.Quiet() }
	for n := range 2000 { // units follow, behind what they are at
		if n > 0 && !slices.ContainsFunc(s.luns, busy) {
			break
		}
		c.(*coroutine).pause(2 * time.Millisecond)
	}
	for i, lu := range s.luns {
		lu.object.Forget(s.now(), ids[i])
		lu.over[causeThreshold] += 2
		lu.unsteady, lu.changed = false, s.now()
		s.blur(lu)
		s.excuseTasks(lu, 0, nil)
	}
	s.changed()
}

// cycleNode removes the node and adds it again.
func (s *run) cycleNode(c reactor.Caller) {
	s.changing++
	for _, in := range s.inits {
		in.excuse("the node is removed")
	}
	for _, lu := range s.luns {
		s.lunChange(lu, true)
	}
	s.nodeUp = false
	s.must(s.engine.RemoveNode(c, nodeName))
	for _, lu := range s.luns {
		s.revived(lu, false)
	}
	c.(*coroutine).pause(time.Duration(s.rng.IntN(2000)) * time.Microsecond)
	s.addNode(c)
	for _, lu := range s.luns {
		s.lunChange(lu, false)
	}
	s.changed()
}

// resize makes a file longer.
func (s *run) resize(c reactor.Caller, lu *lun) {
	s.count(Resizes)
	s.cause(lu, causeResize)
	s.resized(lu, lu.blocks+8)
	lu.disk.Resize(int64(lu.blocks) * int64(lu.blockSize))
	look := s.beginLook(lu, 0)
	c.Block(func() { s.must(lu.file.Rescan()) })
	s.endLooks(c, look)
}
