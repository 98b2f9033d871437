package sim

import (
	"time"

	"spindle/internal/sim/linear"
	"spindle/reactor"
)

// A thin unit on a file tells how much of its file system it uses, and has a
// threshold that every nexus hears of when it is reached (SBC-4 §4.7.3.7). What the
// file system says is set by the run; a unit knows of it when it has looked.

const (
	setBytes = 1 << 20 // of a threshold set
	allSets  = 9       // of the file system
	maxSets  = 4       // that are ever in use
)

// threshold is what the logical block provisioning mode page says (SBC-4 §6.5.9).
type threshold struct {
	armed bool
	sets  uint8 // in use
}

// page is the mode page, with its PS bit.
func (h threshold) page(ps byte) []byte {
	b := make([]byte, provisioningLen)
	b[0], b[1], b[3] = ps|0x40|pageProvisioning, 0x02, provisioningLen-4
	b[16], b[17], b[23] = byte(b2i(h.armed))<<7|0x01, 0x02, h.sets
	return b
}

func (h threshold) append(b []byte) []byte { return append(b, h.page(0)...) }

// resources is what is known of the use of a metered unit.
type resources struct {
	usages []usage // the newest last
	failed bool    // its file has, which makes it look once more
}

// usage is what a unit may tell of its resources from one instant on, and nothing
// older from another.
type usage struct {
	from, sure int64
	used, left uint8 // in sets; none in use: it does not know yet
}

// look is how a unit looks at its use, on its way.
type look struct {
	lu   *lun
	used uint8
	id   int
	call int64
}

// look is how the unit finds its threshold reached: it tells so when it was not.
func (s *shared) look(tell func(notice)) {
	was := s.reached
	s.reached = s.modes.armed && s.used != 0 && s.used >= s.modes.sets
	if s.reached && !was && tell != nil {
		tell(notice{everyone, causeThreshold})
	}
}

// forgetUsage is a unit made anew: it has not looked yet.
func (lu *lun) forgetUsage() { lu.usages = append(lu.usages[:0], usage{}) }

// failedForGood is the failure of an I/O: a file that serves no more tells so, and
// its unit looks.
func (s *run) failedForGood(lu *lun) {
	if !lu.metered || lu.failed || lu.file.Info().Failure == "" {
		return
	}
	lu.failed = true
	s.cause(lu, causeThreshold)
	lu.object.Refresh(s.now())
}

// use has the file system say that another number of sets is in use.
func (s *run) use(lu *lun) uint8 {
	r := s.rng
	u := usage{from: s.now(), sure: linear.Forever, used: uint8(1 + r.IntN(maxSets))}
	u.left = allSets - u.used
	lu.usages = append(lu.usages, u)
	lu.disk.SetUsage(uint64(u.used)*setBytes-r.Uint64N(setBytes), uint64(u.left)*setBytes+r.Uint64N(setBytes))
	return u.used
}

// beginLook is a unit about to look, at another use unless that is 0.
func (s *run) beginLook(lu *lun, used uint8) (q look) {
	if q.lu, q.used = lu, used; !lu.metered {
		return q
	}
	s.cause(lu, causeThreshold)
	q.call = s.now()
	q.id = lu.object.Call(q.call, func(st shared) (shared, uint8) {
		return q.made(st, nil), resGood
	})
	return q
}

// made is the unit's state once it has looked.
func (q *look) made(st shared, tell func(notice)) shared {
	if q.used != 0 {
		st.used = q.used
	}
	st.look(tell)
	return st
}

// endLooks waits until the units have looked, behind what they are at.
func (s *run) endLooks(c reactor.Caller, list ...look) {
	for _, q := range list {
		if q.id == 0 {
			continue
		}
		for n := 0; ; n++ {
			c.(*coroutine).pause(2 * time.Millisecond)
			if behind := q.lu.object.Open() == 1 && q.lu.resetting == 0 && s.clk.T >= q.lu.stray && len(s.jobs) == 0; behind || n == 20 {
				s.looked(q, behind)
				break
			}
		}
	}
}

// looked is the end of a look; behind tells that the unit has made it for certain.
func (s *run) looked(q look, behind bool) {
	lu := q.lu
	if !behind || lu.doubtful(q.call) {
		lu.object.Forget(s.now(), q.id)
		lu.over[causeThreshold]++
		return
	}
	before, _ := lu.object.Return(s.now(), q.id, resGood)
	told := 0
	for _, st := range before {
		q.made(st, func(notice) { told++ })
	}
	if len(before) != 0 && told == 0 {
		lu.begun[causeThreshold]--
		s.untold(lu, causeThreshold)
		return
	}
	if lu.over[causeThreshold]++; len(before) != 0 && told == len(before) {
		s.owe(lu, notice{everyone, causeThreshold}, nil, q.call)
	}
}

// untold fails when somebody has heard of a cause that has turned out to be none.
func (s *run) untold(lu *lun, k cause) {
	for _, in := range s.inits {
		if u := &in.units[s.placeOf(lu)]; u.used && u.seen[k] > lu.begun[k]-u.base[k] {
			in.bad("unit attention", "LUN %d: cause %d was told, and has not come to pass", lu.id, k)
		}
	}
}

// pollUsage has other numbers of sets in use, and the target ask for them.
func (s *run) pollUsage(c reactor.Caller) {
	for range 2 + s.rng.IntN(4) {
		var list []look
		for _, lu := range s.luns {
			if lu.metered {
				list = append(list, s.beginLook(lu, s.use(lu)))
			}
		}
		s.engine.PollUsage(c)
		for _, q := range list {
			q.lu.usages[len(q.lu.usages)-1].sure = s.now()
		}
		s.endLooks(c, list...)
	}
}

// askResources is LOG SENSE of the logical block provisioning page (SBC-4 §6.4.5),
// or is about the threshold.
func (in *initiator) askResources(t *task, lu *lun) (c cdb) {
	switch r := in.rng; r.IntN(4) {
	case 0:
		return in.selectModes(t, lu)
	case 1:
		return in.senseModes(t, lu)
	}
	t.class, t.read, t.access, t.needs = classResources, true, accessUnit, needPath
	t.want, t.edtl, t.service = 64, 64, uint8(in.rng.IntN(3))
	c.b[0], c.b[2], c.b[6], c.b[8] = 0x4d, pick(in.rng, byte(0), 0x40, 0xc0)|0x0c, t.service, byte(t.want)
	return c
}

// log is the log page of a use, from a parameter on.
func (u usage) log(from uint8) []byte {
	b := []byte{0x0c, 0, 0, 0}
	for k, n := range [...]uint8{u.left, u.used} {
		if code := uint8(k + 1); code >= from && u.used != 0 {
			b = append(b, 0, code, 0x03, 8, 0, 0, 0, n, 0x01, 0, 0, 0)
		}
	}
	b[3] = byte(len(b) - 4)
	return b
}

// resourcesShown takes the data of LOG SENSE.
func (in *initiator) resourcesShown(t *task, lu *lun) {
	in.s.count(ResourcesRead)
	if lu.doubtful(t.call) {
		return
	}
	for k := len(lu.usages) - 1; k >= 0; k-- {
		u := lu.usages[k]
		if string(t.got) == string(u.log(t.service)) {
			return
		}
		if u.sure < t.call {
			break
		}
	}
	in.bad("resources", "LUN %d: task %#x shows % x, in use were %+v", lu.id, t.itt, t.got, lu.usages)
}
