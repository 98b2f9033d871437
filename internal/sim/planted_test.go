//go:build simbugs

package sim

import (
	"testing"

	"spindle/internal/plant"
)

// Each planted bug is found within this many seeds.
const plantedSeeds = 1000

func TestPlantedBugsAreFound(t *testing.T) {
	defer plant.Set(plant.None)
	for b := plant.None + 1; b < plant.NumBugs; b++ {
		t.Run(b.String(), func(t *testing.T) {
			plant.Set(b)
			m, err := NewMachine()
			if err != nil {
				t.Fatal(err)
			}
			for seed := uint64(1); seed <= plantedSeeds; seed++ {
				if f := Run(m, Config{Seed: seed}).Failure; f != nil {
					t.Logf("seed %d: %v", seed, f)
					return
				}
			}
			t.Errorf("not found within %d seeds", plantedSeeds)
		})
	}
}
