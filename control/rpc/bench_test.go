package rpc_test

import (
	"testing"

	"spindle/control/rpc"
)

// BenchmarkCall is a small call and its answer over the socket, both ends.
func BenchmarkCall(b *testing.B) {
	path, _, _ := serve(b, true)
	c, err := rpc.Dial(path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Call("log_get_level", nil); err != nil {
			b.Fatal(err)
		}
	}
}
