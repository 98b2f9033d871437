package invariants

import "testing"

func TestMangleFillsAll(t *testing.T) {
	if !Enabled {
		t.Skip("invariants are not compiled in")
	}
	for _, n := range []int{0, 1, 2, 3, 64, 4097} {
		b := make([]byte, n+1)
		Mangle(b[:n])
		for i := range n {
			if b[i] != 0xCC {
				t.Errorf("byte %d of %d is %#x", i, n, b[i])
			}
		}
		if b[n] != 0 {
			t.Errorf("byte beyond %d was written", n)
		}
	}
}

func TestCheck(t *testing.T) {
	Check(true, "holds")
	defer func() {
		if panicked := recover() != nil; panicked != Enabled {
			t.Errorf("broken invariant panicked: %v, compiled in: %v", panicked, Enabled)
		}
	}()
	Check(false, "broken")
}
