package sim

import (
	"slices"
	"testing"

	"spindle/internal/invariants"
	"spindle/internal/plant"
)

func machine(t *testing.T) *Machine {
	t.Helper()
	m, err := NewMachine()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// seeds is how many runs fit a few seconds.
func seeds(t *testing.T) uint64 {
	switch {
	case testing.Short():
		return 50
	case invariants.Enabled: // under the race detector, ten times slower
		return 100
	}
	return 500
}

func TestSeeds(t *testing.T) {
	m := machine(t)
	n := seeds(t)
	var commands, faults, iser uint64
	for seed := uint64(1); seed <= n; seed++ {
		rep := Run(m, Config{Seed: seed})
		if rep.Failure != nil {
			t.Errorf("seed %d: %v\n%s\ngo run ./internal/sim/cmd -seed %d -trace", seed, rep.Failure, rep.Failure.Stack, seed)
			if t.Failed() && seed > n/2 {
				break
			}
		}
		commands += rep.Commands
		faults += rep.Injected()
		iser += rep.States[ReadsRDMA] + rep.States[WritesRDMA]
	}
	if iser < 10*n {
		t.Errorf("%d seeds moved the data of %d commands over iSER: fewer than 10 each", n, iser)
	}
	if commands < 200*n || faults < 3*n {
		t.Errorf("%d seeds had %d commands and %d faults: fewer than 200 and 3 each", n, commands, faults)
	}
}

func TestRunsRepeat(t *testing.T) {
	a, b := machine(t), machine(t)
	last := uint64(0)
	for seed := uint64(1000); seed < 1030; seed++ {
		iser := seed%2 == 1
		x := Run(a, Config{Seed: seed, ISER: iser})
		if seed%2 == 0 { // b has another history
			Run(b, Config{Seed: seed + 500})
		}
		y := Run(b, Config{Seed: seed, ISER: iser, Trace: seed%3 == 0})
		if x.Hash != y.Hash || x.Commands != y.Commands || x.Steps != y.Steps {
			t.Fatalf("seed %d: traces %016x and %016x, %d and %d steps", seed, x.Hash, y.Hash, x.Steps, y.Steps)
		}
		if x.Hash == last {
			t.Fatalf("seeds %d and %d have one trace", seed-1, seed)
		}
		last = x.Hash
	}
}

func TestFixedShapes(t *testing.T) {
	m := machine(t)
	for _, c := range []Config{
		{Reactors: 1, Initiators: 1, Calm: true},
		{Reactors: 3, Initiators: 4},
		{Reactors: 3, Initiators: 1},
		{Reactors: 2, Initiators: 2, Actions: 1000},
	} {
		for seed := uint64(1); seed <= 5; seed++ {
			c.Seed = seed
			rep := Run(m, c)
			if rep.Failure != nil {
				t.Errorf("%+v: %v", c, rep.Failure)
			}
			if c.Calm && rep.Faults.Total() != 0 {
				t.Errorf("%+v: %d faults in calm", c, rep.Faults.Total())
			}
		}
	}
}

func TestActionsCanBeLeftOut(t *testing.T) {
	m := machine(t)
	all := Run(m, Config{Seed: 7})
	if all.Failure != nil {
		t.Fatal(all.Failure)
	}
	drop := map[ActionID]bool{}
	for i, a := range all.Actions {
		if i%2 == 0 {
			drop[a] = true
		}
	}
	half := Run(m, Config{Seed: 7, Drop: drop})
	for _, a := range half.Actions {
		if drop[a] {
			t.Fatalf("action %v was made", a)
		}
	}
	kept := Run(m, Keep(Config{Seed: 7}, half.Actions))
	if !slices.Equal(kept.Actions, half.Actions) {
		t.Errorf("kept %d actions, made %d", len(half.Actions), len(kept.Actions))
	}
}

func TestMinimiseWithoutFailure(t *testing.T) {
	if _, rep := Minimise(machine(t), Config{Seed: 3}, 10); rep.Failure != nil {
		t.Fatal(rep.Failure)
	}
	if plant.On(plant.LostWrite) {
		t.Error("a bug is planted that nobody asked for")
	}
}

func TestValues(t *testing.T) {
	b := make([]byte, 512)
	for _, v := range []value{0, valueOf(1), valueOf(77), valueOf(77) | valueSame} {
		v.fill(b, 9)
		if got, ok := readValue(b, 9); got != v || !ok {
			t.Errorf("%#x reads as %#x, %v", v, got, ok)
		}
		b[300] ^= 1
		if _, ok := readValue(b, 9); ok {
			t.Errorf("%#x: a changed byte is not seen", v)
		}
	}
	valueOf(5).fill(b, 1)
	if _, ok := readValue(b, 2); ok {
		t.Error("a block of another place is not seen")
	}
}

func TestMadeValues(t *testing.T) {
	s := &run{blobOf: map[string]int{}}
	a, b, got, want := valueOf(1), value(orMark<<48|2), make([]byte, 512), make([]byte, 512)
	v := s.or(a, b)
	if s.or(b, a) != v || s.or(v, b) != v || s.or(0, b) != b || s.or(a, 0) != a || s.or(rawMark, b) != rawMark {
		t.Error("merging depends on the order, or counts twice")
	}
	a.fill(got, 9)
	b.fill(want, 9)
	for i := range want {
		want[i] |= got[i]
	}
	if s.fill(v, got, 9); !slices.Equal(got, want) {
		t.Error("a merged block is not that of its parts")
	}
	w := s.blob(want)
	if clear(got); w == v || s.blob(got) != 0 || s.blob(want) != w {
		t.Errorf("a copied block has the value %#x, or another", w)
	}
	if s.fill(w, got, 3); !slices.Equal(got, want) {
		t.Error("a copied block depends on its place")
	}
	a.fill(got, 9)
	part := s.blob(got)
	valueOf(3).fill(got, 9)
	other := s.blob(got)
	c := value(orMark<<48 | 4)
	if s.merge([]value{part, w, c}) != s.or(w, c) || s.or(part, c) == s.or(w, c) || s.merge([]value{w, other, c}) == s.or(w, c) {
		t.Error("a copied block is told from one that hides it, or hides another")
	}
}

// The check value of the CRC of SBC-4 §4.21.4.
func TestGuards(t *testing.T) {
	if g := guardOf([]byte("123456789")); g != 0xd0db {
		t.Errorf("guard %04x, want d0db", g)
	}
}
