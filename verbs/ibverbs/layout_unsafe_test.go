//go:build cgo && linux

package ibverbs

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"unsafe"

	"spindle/verbs"
)

// TestLayoutsMatch reads the shim's structures and lays them out by the rules
// of C, which for these have no padding: Go hands its own to C as they are.
func TestLayoutsMatch(t *testing.T) {
	src, err := os.ReadFile("shim.h")
	if err != nil {
		t.Skipf("left out: not in the source folder: %v", err)
	}
	var (
		s verbs.SendWR
		r verbs.RecvWR
		g verbs.SGE
		w verbs.WC
	)
	for _, tc := range []struct {
		name    string
		size    uintptr
		offsets map[string]uintptr
	}{
		{"sp_send", unsafe.Sizeof(s), map[string]uintptr{
			"id": unsafe.Offsetof(s.ID), "remote_addr": unsafe.Offsetof(s.RemoteAddr), "rkey": unsafe.Offsetof(s.RKey), "qp": unsafe.Offsetof(s.QP),
			"first": unsafe.Offsetof(s.First), "num_sge": unsafe.Offsetof(s.NumSGE), "op": unsafe.Offsetof(s.Op), "flags": unsafe.Offsetof(s.Flags), "err": unsafe.Offsetof(s.Err),
		}},
		{"sp_recv", unsafe.Sizeof(r), map[string]uintptr{
			"id": unsafe.Offsetof(r.ID), "qp": unsafe.Offsetof(r.QP), "first": unsafe.Offsetof(r.First), "num_sge": unsafe.Offsetof(r.NumSGE), "err": unsafe.Offsetof(r.Err),
		}},
		{"sp_sge", unsafe.Sizeof(g), map[string]uintptr{"addr": unsafe.Offsetof(g.Addr), "len": unsafe.Offsetof(g.Len), "lkey": unsafe.Offsetof(g.LKey)}},
		{"sp_wc", unsafe.Sizeof(w), map[string]uintptr{
			"id": unsafe.Offsetof(w.ID), "byte_len": unsafe.Offsetof(w.ByteLen), "qp_num": unsafe.Offsetof(w.QPNum), "inv_key": unsafe.Offsetof(w.InvKey),
			"vendor_err": unsafe.Offsetof(w.VendorErr), "status": unsafe.Offsetof(w.Status), "op": unsafe.Offsetof(w.Op), "flags": unsafe.Offsetof(w.Flags),
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, body, _ := strings.Cut(string(src), "struct "+tc.name+" {\n")
			body, _, _ = strings.Cut(body, "};")
			var at uintptr
			for _, m := range regexp.MustCompile(`(?m)^\tu?int(\d+)_t (\w+)(?:\[(\d)\])?;`).FindAllStringSubmatch(body, -1) {
				size := map[string]uintptr{"8": 1, "16": 2, "32": 4, "64": 8}[m[1]]
				if at%size != 0 {
					t.Fatalf("%s is not aligned", m[2])
				}
				if want, ok := tc.offsets[m[2]]; ok && want != at {
					t.Errorf("%s is at %d in C, at %d in Go", m[2], at, want)
				}
				delete(tc.offsets, m[2])
				if m[3] != "" {
					size *= uintptr(m[3][0] - '0')
				}
				at += size
			}
			if at != tc.size || len(tc.offsets) > 0 {
				t.Errorf("%d bytes in C, %d in Go; not found: %v", at, tc.size, tc.offsets)
			}
		})
	}
}
