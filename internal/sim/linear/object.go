package linear

// Bounds of an Object: operations under way at once, and how many cases are
// told apart before it gives up.
const (
	maxOpen  = 16
	maxCases = 600
)

// Object follows an object that several use at once, as they see it: it knows
// every state that the operations under way and the results seen so far allow.
// An operation takes effect at one instant between its call and its return.
// S is what the object holds.
type Object[S comparable] struct {
	// Drift, when set, adds the states that may follow from s with no operation.
	Drift func(s S, add func(S))
	// Lost: there were more cases than are told apart. Anything goes until Reset.
	Lost bool

	cases  []kase[S]
	open   uint16 // slots in use
	slots  [maxOpen]slot[S]
	next   int
	ended  int64 // when an operation last ended
	epochs []epoch
	states []S // of the epochs, one after the other
}

// kase is a way things may have gone: the state, and which of the operations
// under way have taken effect, with which result.
type kase[S comparable] struct {
	state  S
	done   uint16
	result [maxOpen]uint8
}

type slot[S comparable] struct {
	id     int
	apply  func(S) (S, uint8)
	alone  bool // no other operation overlaps it
	before []S  // the states it may have met, when alone
}

// epoch is a time in which the possible states do not change.
type epoch struct {
	at       int64
	from, to int // in states
}

// Reset begins anew, at an instant: the object is in one of the states given,
// and nothing is under way.
func (o *Object[S]) Reset(at int64, states ...S) {
	o.Lost, o.open, o.ended = false, 0, at
	o.cases = o.cases[:0]
	for _, s := range states {
		o.add(kase[S]{state: s})
	}
	o.epochs, o.states = o.epochs[:0], o.states[:0]
	o.close(at)
}

// Call begins an operation and returns its number, which is never 0.
func (o *Object[S]) Call(at int64, apply func(S) (S, uint8)) int {
	o.next++
	k := 0
	for o.open>>k&1 != 0 {
		k++
	}
	if k == maxOpen {
		o.Lost = true
	}
	if o.Lost {
		return o.next
	}
	alone := o.open == 0
	for i := range o.slots {
		o.slots[i].alone = false
	}
	sl := &o.slots[k]
	*sl = slot[S]{id: o.next, apply: apply, alone: alone, before: sl.before[:0]}
	if alone {
		e := o.epochs[len(o.epochs)-1]
		sl.before = append(sl.before, o.states[e.from:e.to]...)
	}
	o.open |= 1 << k
	o.close(at)
	return o.next
}

func (o *Object[S]) slot(id int) int {
	if o.Lost {
		return -1
	}
	for k := range o.slots {
		if o.open>>k&1 != 0 && o.slots[k].id == id {
			return k
		}
	}
	return -1
}

// Return ends operation id with its result. ok is false when no order of the
// operations explains that. before are the states that the operation may have
// met, nil when others overlap it.
func (o *Object[S]) Return(at int64, id int, result uint8) (before []S, ok bool) {
	k := o.slot(id)
	if k < 0 {
		return nil, true
	}
	sl := &o.slots[k]
	if sl.alone {
		before = sl.before
	}
	list := o.cases
	o.cases = o.cases[:0]
	o.open &^= 1 << k
	o.ended = at
	for _, c := range list {
		if c.done>>k&1 != 0 && c.result[k] == result {
			o.add(c.without(k))
		}
	}
	o.note(at)
	return before, len(o.cases) != 0
}

// Cancel ends operation id, which has had no effect. False: what others have
// seen shows that it had.
func (o *Object[S]) Cancel(at int64, id int) bool {
	return o.end(at, id, func(c *kase[S], k int) bool { return c.done>>k&1 == 0 })
}

// Forget ends operation id, which may have had its effect or not.
func (o *Object[S]) Forget(at int64, id int) {
	o.end(at, id, func(*kase[S], int) bool { return true })
}

func (o *Object[S]) end(at int64, id int, keep func(c *kase[S], k int) bool) bool {
	k := o.slot(id)
	if k < 0 {
		return true
	}
	list := o.cases
	o.cases = o.cases[:0]
	o.open &^= 1 << k
	o.ended = at
	for i := range list {
		if c := list[i]; keep(&c, k) {
			o.add(c.without(k))
		}
	}
	o.note(at)
	return len(o.cases) != 0
}

// Keep leaves out the cases whose state is not possible. False: none is left.
func (o *Object[S]) Keep(at int64, possible func(S) bool) bool {
	if o.Lost {
		return true
	}
	list := o.cases
	o.cases = o.cases[:0]
	for _, c := range list {
		if possible(c.state) {
			o.cases = append(o.cases, c)
		}
	}
	if len(o.cases) != len(list) {
		o.note(at)
	}
	return len(o.cases) != 0
}

// Map replaces each state, as something outside the operations does.
func (o *Object[S]) Map(at int64, f func(S) S) {
	list := o.cases
	o.cases = o.cases[:0]
	for _, c := range list {
		c.state = f(c.state)
		o.add(c)
	}
	o.close(at)
}

// Refresh follows a change of what Drift says.
func (o *Object[S]) Refresh(at int64) { o.close(at) }

// Open is how many operations are under way.
func (o *Object[S]) Open() (n int) {
	for k := range maxOpen {
		n += int(o.open >> k & 1)
	}
	return n
}

// Quiet tells whether no operation is under way.
func (o *Object[S]) Quiet() bool { return o.open == 0 }

// Any tells whether f holds of a state that the object may have had at the
// instant from or later. It holds of every object that is lost.
func (o *Object[S]) Any(from int64, f func(*S) bool) bool {
	if o.Lost {
		return true
	}
	for i := len(o.epochs) - 1; i >= 0; i-- {
		e := o.epochs[i]
		for k := e.from; k < e.to; k++ {
			if f(&o.states[k]) {
				return true
			}
		}
		if e.at <= from {
			break
		}
	}
	return false
}

// All tells whether f holds of every state that the object may have now. It
// does not hold of one that is lost.
func (o *Object[S]) All(f func(*S) bool) bool {
	if o.Lost {
		return false
	}
	e := o.epochs[len(o.epochs)-1]
	for k := e.from; k < e.to; k++ {
		if !f(&o.states[k]) {
			return false
		}
	}
	return true
}

// Unchanged tells whether what is possible is the same since the instant from,
// with no operation that ended after it: one that may have had its effect or not
// leaves both possible, and yet who looked before its end may have seen neither
// for good.
func (o *Object[S]) Unchanged(from int64) bool {
	return o.ended <= from && o.epochs[len(o.epochs)-1].at <= from
}

func (c kase[S]) without(k int) kase[S] {
	c.done &^= 1 << k
	c.result[k] = 0
	return c
}

// add adds a case that is not there yet.
func (o *Object[S]) add(c kase[S]) {
	for i := range o.cases {
		if o.cases[i] == c {
			return
		}
	}
	if len(o.cases) >= maxCases {
		o.Lost = true
		return
	}
	o.cases = append(o.cases, c)
}

// close adds the cases in which operations under way have taken effect.
func (o *Object[S]) close(at int64) {
	for i := 0; i < len(o.cases) && !o.Lost; i++ {
		c := o.cases[i]
		for k := range o.slots {
			if o.open>>k&1 == 0 || c.done>>k&1 != 0 {
				continue
			}
			n := c
			n.state, n.result[k] = o.slots[k].apply(c.state)
			n.done |= 1 << k
			o.add(n)
		}
		if o.Drift != nil {
			o.Drift(c.state, func(s S) {
				n := c
				n.state = s
				o.add(n)
			})
		}
	}
	o.note(at)
}

// note begins an epoch, unless the states are those of the one before it.
func (o *Object[S]) note(at int64) {
	from := len(o.states)
	for i := range o.cases {
		s := &o.cases[i].state
		if !contains(o.states[from:], s) {
			o.states = append(o.states, *s)
		}
	}
	if n := len(o.epochs); n != 0 {
		if e := o.epochs[n-1]; same(o.states[e.from:e.to], o.states[from:]) {
			o.states = o.states[:from]
			return
		}
	}
	o.epochs = append(o.epochs, epoch{at, from, len(o.states)})
}

func same[S comparable](a, b []S) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && !contains(b, &a[i]) {
			return false
		}
	}
	return true
}

func contains[S comparable](list []S, s *S) bool {
	for i := range list {
		if list[i] == *s {
			return true
		}
	}
	return false
}
