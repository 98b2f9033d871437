package iser

import (
	"testing"

	"spindle/verbs"
)

type numbered struct {
	verbs.Device
	info verbs.DeviceInfo
}

func (d *numbered) Info() *verbs.DeviceInfo { return &d.info }

// TestSame: devices without a number, as old libraries describe them, are told
// apart all the same.
func TestSame(t *testing.T) {
	device := func(index uint32) *numbered { return &numbered{info: verbs.DeviceInfo{Index: index}} }
	one, none := device(1), device(0)
	for _, tc := range []struct {
		name string
		a, b verbs.Device
		want bool
	}{
		{"one number, two values", one, device(1), true},
		{"two numbers", one, device(2), false},
		{"no number, one value", none, none, true},
		{"no number, two values", none, device(0), false},
		{"one has a number", one, none, false},
		{"the other has", none, one, false},
	} {
		if got := same(tc.a, tc.b); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
