package linear

import (
	"math/rand/v2"
	"testing"

	"github.com/anishathalye/porcupine"
)

// bits merges as the bits of numbers do.
func bits(a, b uint64) uint64 { return a | b }

var stepper = Checker{Or: bits}

// model is the register as porcupine sees it.
var model = porcupine.NondeterministicModel{
	Init: func() []any { return []any{uint64(0)} },
	Step: func(st, in, _ any) []any {
		o := in.(Op)
		var out []any
		if v, fits := stepper.apply(&o, st.(uint64)); fits {
			out = append(out, v)
		}
		if o.Maybe {
			out = append(out, st)
		}
		return out
	},
	Equal: func(a, b any) bool { return a == b },
}

func judge(ops []Op) bool {
	list := make([]porcupine.Operation, len(ops))
	for i, o := range ops {
		list[i] = porcupine.Operation{ClientId: i, Input: o, Call: o.Call, Return: o.End}
	}
	return porcupine.CheckOperations(model.ToModel(), list)
}

// random makes a history: mostly the run of a register with jittered calls and
// ends, sometimes with a value changed.
func random(rng *rand.Rand) []Op {
	n := 2 + rng.IntN(9)
	v, at := uint64(0), int64(10)
	var ops []Op
	for range n {
		at += 10
		o := Op{Call: at - rng.Int64N(25), End: at + rng.Int64N(25) + 1, Kind: Kind(rng.IntN(5))}
		switch o.Kind {
		case Read:
			o.Value = v
		case Write:
			o.Value = uint64(rng.IntN(5))
			if o.Maybe = rng.IntN(4) == 0; !o.Maybe || rng.IntN(2) == 0 {
				v = o.Value
			}
		case Swap:
			o.Old, o.Value = v, uint64(rng.IntN(5))
			v = o.Value
		case Differs:
			o.Value = v + 1
		case Or:
			o.Value = uint64(rng.IntN(5))
			if o.Maybe = rng.IntN(4) == 0; !o.Maybe || rng.IntN(2) == 0 {
				v |= o.Value
			}
		}
		ops = append(ops, o)
	}
	if rng.IntN(2) == 0 {
		ops[rng.IntN(n)].Value = uint64(rng.IntN(5))
	}
	// All ends and calls differ: what happens at one instant is undefined.
	for i := range ops {
		ops[i].Call = ops[i].Call*64 + int64(2*i)
		ops[i].End = ops[i].End*64 + int64(2*i) + 1
	}
	return ops
}

func TestCheckerAgreesWithPorcupine(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	c := Checker{Or: bits}
	good, bad := 0, 0
	for range 20000 {
		ops := random(rng)
		want := judge(ops)
		if got := c.Check(0, append([]Op(nil), ops...)); got != want {
			t.Fatalf("got %v, porcupine says %v: %+v", got, want, ops)
		}
		if want {
			good++
		} else {
			bad++
		}
	}
	if good < 1000 || bad < 1000 || c.Searches < 1000 {
		t.Fatalf("%d good, %d bad histories, %d searches: too few of a kind", good, bad, c.Searches)
	}
}

func TestHistories(t *testing.T) {
	for _, h := range []struct {
		name string
		ops  []Op
		want bool
	}{
		{"read of what was there", []Op{{Call: 1, End: 2, Value: 0}}, true},
		{"lost write", []Op{{Call: 1, End: 2, Kind: Write, Value: 7}, {Call: 3, End: 4, Value: 0}}, false},
		{"write in flight seen or not", []Op{{Call: 1, End: 9, Kind: Write, Value: 7}, {Call: 2, End: 3, Value: 0}, {Call: 4, End: 5, Value: 7}}, true},
		{"seen and gone", []Op{{Call: 1, End: 9, Kind: Write, Value: 7}, {Call: 2, End: 3, Value: 7}, {Call: 4, End: 5, Value: 0}}, false},
		{"failed write that happened", []Op{{Call: 1, End: 2, Kind: Write, Value: 7, Maybe: true}, {Call: 3, End: 4, Value: 7}}, true},
		{"failed write that happens later", []Op{{Call: 1, End: 2, Kind: Write, Value: 7, Maybe: true}, {Call: 3, End: 4, Value: 0}, {Call: 5, End: 6, Value: 7}}, false},
		{"swap of the wrong value", []Op{{Call: 1, End: 2, Kind: Swap, Old: 5, Value: 7}}, false},
		{"merged", []Op{{Call: 1, End: 2, Kind: Write, Value: 1}, {Call: 3, End: 4, Kind: Or, Value: 2}, {Call: 5, End: 6, Value: 3}}, true},
		{"merged into what had been replaced", []Op{{Call: 1, End: 2, Kind: Write, Value: 1}, {Call: 3, End: 4, Kind: Write, Value: 4}, {Call: 5, End: 6, Kind: Or, Value: 2}, {Call: 7, End: 8, Value: 3}}, false},
		{"differs and does not", []Op{{Call: 1, End: 2, Kind: Differs, Value: 0}}, false},
	} {
		t.Run(h.name, func(t *testing.T) {
			c := Checker{Or: bits}
			if got := c.Check(0, h.ops); got != h.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
