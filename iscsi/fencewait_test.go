package iscsi

import "testing"

// TestFenceWaitsEnd: a connection that acknowledges nothing does not keep what no
// longer waits for it.
func TestFenceWaitsEnd(t *testing.T) {
	c := &Connection{fences: []*fenceWait{{f: &fence{}}, {f: &fence{waits: 1}}, {f: &fence{}, left: true, sn: 7}}}
	waiting := c.fences[1]
	c.passFences()
	if len(c.fences) != 1 || c.fences[0] != waiting {
		t.Fatalf("%d waits are left", len(c.fences))
	}
}
