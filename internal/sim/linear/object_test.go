package linear

import "testing"

// counter is an object that tests use: a number and an operation that adds one
// and tells what it was.
func increment(n int) (int, uint8) { return n + 1, uint8(n) }

func TestObjectFindsAnOrder(t *testing.T) {
	cases := []struct {
		name string
		play func(o *Object[int]) bool
		want bool
	}{
		{"one after the other", func(o *Object[int]) bool {
			a := o.Call(1, increment)
			_, ok := o.Return(2, a, 0)
			b := o.Call(3, increment)
			_, ok2 := o.Return(4, b, 1)
			return ok && ok2
		}, true},
		{"overlapping, in either order", func(o *Object[int]) bool {
			a, b := o.Call(1, increment), o.Call(2, increment)
			_, ok := o.Return(3, a, 1)
			_, ok2 := o.Return(4, b, 0)
			return ok && ok2
		}, true},
		{"both say they were first", func(o *Object[int]) bool {
			a, b := o.Call(1, increment), o.Call(2, increment)
			_, ok := o.Return(3, a, 0)
			_, ok2 := o.Return(4, b, 0)
			return ok && ok2
		}, false},
		{"a later call comes before one that has returned", func(o *Object[int]) bool {
			a := o.Call(1, increment)
			_, ok := o.Return(2, a, 1)
			return ok
		}, false},
		{"a cancelled one has no effect", func(o *Object[int]) bool {
			a := o.Call(1, increment)
			o.Cancel(2, a)
			b := o.Call(3, increment)
			_, ok := o.Return(4, b, 1)
			return ok
		}, false},
		{"a forgotten one may have", func(o *Object[int]) bool {
			a := o.Call(1, increment)
			o.Forget(2, a)
			b := o.Call(3, increment)
			_, ok := o.Return(4, b, 1)
			return ok
		}, true},
		{"what is not known any more counts for nothing", func(o *Object[int]) bool {
			a := o.Call(1, increment)
			o.Reset(2, 7)
			_, ok := o.Return(3, a, 99)
			b := o.Call(4, increment)
			_, ok2 := o.Return(5, b, 7)
			return ok && ok2
		}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var o Object[int]
			o.Reset(0, 0)
			if got := c.play(&o); got != c.want {
				t.Errorf("explained: %v, want %v", got, c.want)
			}
		})
	}
}

func TestObjectRemembersWhatWasPossible(t *testing.T) {
	var o Object[int]
	o.Reset(0, 0)
	is := func(n int) func(*int) bool { return func(s *int) bool { return *s == n } }
	a := o.Call(10, increment)
	if !o.Any(5, is(0)) || !o.Any(11, is(0)) || !o.Any(11, is(1)) || o.All(is(1)) {
		t.Error("while it is under way, both are possible")
	}
	before, _ := o.Return(20, a, 0)
	if len(before) != 1 || before[0] != 0 {
		t.Errorf("met %v, want 0 alone", before)
	}
	if o.Any(21, is(0)) || !o.Any(15, is(0)) || !o.All(is(1)) || o.Unchanged(15) || !o.Unchanged(20) {
		t.Error("after it, 0 is the past")
	}
}

// An operation that may have had its effect or not leaves what is possible as it
// was under way: who looked meanwhile has not seen the end of it.
func TestObjectForgets(t *testing.T) {
	var o Object[int]
	o.Reset(0, 0)
	a := o.Call(10, increment)
	o.Forget(20, a)
	if !o.Quiet() || o.Open() != 0 || o.Unchanged(15) || !o.Unchanged(20) {
		t.Error("what was seen at 15 says nothing of what came after")
	}
}

func TestObjectDrifts(t *testing.T) {
	gone := false
	o := Object[int]{Drift: func(s int, add func(int)) {
		if gone && s == 1 {
			add(0)
		}
	}}
	o.Reset(0, 1)
	if !o.All(func(s *int) bool { return *s == 1 }) {
		t.Error("nothing has happened yet")
	}
	gone = true
	o.Refresh(1)
	if !o.Any(1, func(s *int) bool { return *s == 0 }) {
		t.Error("it may be gone")
	}
	if o.Keep(2, func(s int) bool { return s == 5 }) {
		t.Error("5 was never possible")
	}
}

func TestObjectGivesUp(t *testing.T) {
	var o Object[int]
	o.Reset(0, 0)
	for range maxOpen + 1 {
		o.Call(1, increment)
	}
	if !o.Lost || !o.Any(0, func(*int) bool { return false }) || o.All(func(*int) bool { return true }) {
		t.Error("too many operations are not told apart")
	}
	if _, ok := o.Return(2, 1, 200); !ok {
		t.Error("who knows nothing accuses nobody")
	}
}
