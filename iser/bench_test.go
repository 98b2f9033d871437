package iser_test

import (
	"testing"

	"spindle/iser/isertest"
)

// BenchmarkRead is one READ at a time over a fabric within the process: the
// datamover, the engine, the device server, and the model of an initiator.
func BenchmarkRead(b *testing.B) {
	g := isertest.New(b, isertest.Options{})
	defer g.Close()
	c := g.Dial().Login()
	itt, buf := c.StartRead(1, 0, 8) // takes the unit attention of a new nexus
	c.Finish(itt)
	c.Release(buf)
	b.ReportAllocs()
	b.SetBytes(4096)
	for b.Loop() {
		itt, buf := c.StartRead(1, 0, 8)
		if r := c.Finish(itt); r.Status != 0 {
			b.Fatalf("%+v", r)
		}
		c.Release(buf)
	}
}
