// Package linear decides whether the history of one register is linearizable:
// whether every operation can be given an instant between its call and its end
// so that each read returns what the write before it left.
//
// Threading: a Checker belongs to one goroutine. Memory: a Checker keeps its
// scratch space between histories.
package linear

import "math"

// Forever is the End of an operation that may still take effect at any time.
const Forever = math.MaxInt64

// Kind says what an operation does with the register.
type Kind uint8

// Kinds of operations.
const (
	Read    Kind = iota // returned Value
	Write               // wrote Value
	Swap                // found Old and wrote Value, at one instant
	Differs             // found something else than Value
	Or                  // merged Value into what was there
)

// Op is one operation, that took effect between Call and End.
type Op struct {
	Call, End  int64
	Value, Old uint64
	Kind       Kind
	Maybe      bool // it may not have taken effect at all
}

// maxOps is how many operations fit the set of those done.
const maxOps = 64

// Checker decides on histories.
type Checker struct {
	// Or is what merging b into a leaves.
	Or func(a, b uint64) uint64

	seen map[state]struct{}
	ops  []Op
	// Searches counts the histories that took more than a walk.
	Searches uint64
	// TooLong counts the histories with more operations than a search takes.
	TooLong uint64
}

type state struct {
	done  uint64
	value uint64
}

// Check tells whether a history that begins with the value initial is
// linearizable. ops is reordered.
func (c *Checker) Check(initial uint64, ops []Op) bool {
	sortByCall(ops)
	if ok, sure := c.walk(initial, ops); sure {
		return ok
	}
	c.ops = prune(c.ops[:0], ops)
	if len(c.ops) > maxOps {
		c.TooLong++
		return true
	}
	c.Searches++
	if c.seen == nil {
		c.seen = map[state]struct{}{}
	}
	clear(c.seen)
	return c.search(state{0, initial})
}

// walk replays a history whose operations do not overlap; not sure when they do.
func (c *Checker) walk(v uint64, ops []Op) (ok, sure bool) {
	last := int64(-1)
	ok = true
	for i := range ops {
		o := &ops[i]
		if o.Maybe || o.Call < last {
			return false, false
		}
		last = o.End
		next, fits := c.apply(o, v)
		v, ok = next, ok && fits
	}
	return ok, true
}

func (c *Checker) apply(o *Op, v uint64) (uint64, bool) {
	switch o.Kind {
	case Read:
		return v, v == o.Value
	case Write:
		return o.Value, true
	case Swap:
		return o.Value, v == o.Old
	case Or:
		return c.Or(v, o.Value), true
	default:
		return v, v != o.Value
	}
}

// prune leaves out writes that may not have happened and whose value nobody
// found: they cannot help, unless something was merged into it.
func prune(out, ops []Op) []Op {
	for i := range ops {
		o := &ops[i]
		if o.Maybe && o.Kind == Write && !found(ops, o.Value) {
			continue
		}
		out = append(out, *o)
	}
	return out
}

func found(ops []Op, v uint64) bool {
	for i := range ops {
		o := &ops[i]
		if o.Kind == Read && o.Value == v || o.Kind == Swap && o.Old == v || o.Kind == Differs || o.Kind == Or {
			return true
		}
	}
	return false
}

// search is Wing and Gong's, with Lowe's memory of the states it has been in.
func (c *Checker) search(s state) bool {
	if _, been := c.seen[s]; been {
		return false
	}
	c.seen[s] = struct{}{}
	// Whatever is next was called before the first of the others ended.
	first, left := int64(Forever), false
	for i := range c.ops {
		if s.done>>i&1 == 0 {
			left = left || !c.ops[i].Maybe
			if !c.ops[i].Maybe {
				first = min(first, c.ops[i].End)
			}
		}
	}
	if !left {
		return true
	}
	for i := range c.ops {
		o := &c.ops[i]
		if s.done>>i&1 != 0 {
			continue
		}
		if o.Call > first {
			break
		}
		if o.Maybe && o.End < c.lastCall(s) {
			continue // its time is over
		}
		if v, fits := c.apply(o, s.value); fits && c.search(state{s.done | 1<<i, v}) {
			return true
		}
	}
	return false
}

// lastCall is the latest call among the operations done: no later one can have
// taken effect before it.
func (c *Checker) lastCall(s state) int64 {
	last := int64(-1)
	for i := range c.ops {
		if s.done>>i&1 != 0 {
			last = max(last, c.ops[i].Call)
		}
	}
	return last
}

// sortByCall is an insertion sort: histories come nearly sorted.
func sortByCall(ops []Op) {
	for i := 1; i < len(ops); i++ {
		for j := i; j > 0 && ops[j].Call < ops[j-1].Call; j-- {
			ops[j], ops[j-1] = ops[j-1], ops[j]
		}
	}
}
