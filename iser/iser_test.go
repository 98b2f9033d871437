package iser_test

import (
	"bytes"
	"fmt"
	"testing"

	"spindle/iscsi/iscsitest"
	"spindle/iser/isertest"
)

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return b
}

// ready takes the unit attention of a fresh nexus.
func ready(t testing.TB, c *isertest.Conn, lun uint16) {
	t.Helper()
	for _, want := range []uint8{2, 0} {
		b := c.Command(lun, 0, 0, 0)
		c.Send(b, nil, nil)
		if r := c.Finish(b.ITT()); r.Status != want {
			t.Fatalf("TEST UNIT READY: status %02x, want %02x", r.Status, want)
		}
	}
}

func TestReadWrite(t *testing.T) {
	for _, tc := range []struct {
		name      string
		opt       isertest.Options
		keys      []string
		immediate int
	}{
		{name: "solicited"},
		{name: "immediate", immediate: 8192},
		{name: "part immediate", immediate: 512},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := isertest.New(t, tc.opt)
			c := g.Dial().Login(tc.keys...)
			ready(t, c, 1)
			for _, n := range []int{512, 4096, 8192, 65536, 1 << 20} {
				data := pattern(n, byte(n>>9))
				c.Write(1, 100, data, min(tc.immediate, n))
				if got := c.Read(1, 100, uint16(n/512)); !bytes.Equal(got, data) {
					t.Fatalf("%d bytes: read differs from what was written", n)
				}
			}
			if n := g.Fabric.Counts.NoReceive; n != 0 {
				t.Errorf("%d sends found no receive", n)
			}
			_ = fmt.Sprint(iscsitest.Node)
		})
	}
}
