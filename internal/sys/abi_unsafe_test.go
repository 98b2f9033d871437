package sys

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes and offsets of the kernel's structures, from <linux/io_uring.h> and
// <linux/socket.h>.
func TestABI(t *testing.T) {
	for _, tc := range []struct {
		name      string
		got, want uintptr
	}{
		{"io_uring_sqe", unsafe.Sizeof(SQE{}), 64},
		{"io_uring_sqe.user_data", unsafe.Offsetof(SQE{}.UserData), 32},
		{"io_uring_sqe.buf_index", unsafe.Offsetof(SQE{}.Buf), 40},
		{"io_uring_cqe", unsafe.Sizeof(CQE{}), 16},
		{"io_uring_params", unsafe.Sizeof(uringParams{}), 120},
		{"io_uring_params.sq_off", unsafe.Offsetof(uringParams{}.sq), 40},
		{"io_uring_params.cq_off", unsafe.Offsetof(uringParams{}.cq), 80},
		{"io_uring_napi", unsafe.Sizeof(uringNAPI{}), 16},
		{"io_uring_probe", unsafe.Sizeof(uringProbe{}), 16 + 256*8},
		{"io_uring_buf", unsafe.Sizeof(pbuf{}), 16},
		{"io_uring_buf.bid", unsafe.Offsetof(pbuf{}.bidTail), 12},
		{"io_uring_buf_reg", unsafe.Sizeof(pbufReg{}), 40},
		{"io_uring_rsrc_register", unsafe.Sizeof(rsrcRegister{}), 32},
		{"io_uring_rsrc_update", unsafe.Sizeof(rsrcUpdate{}), 16},
		{"io_uring_getevents_arg", unsafe.Offsetof(uringWait{}.sec), 24},
		{"msghdr", unsafe.Sizeof(msghdr{}), unsafe.Sizeof(unix.Msghdr{})},
		{"msghdr.msg_iov", unsafe.Offsetof(msghdr{}.iov), unsafe.Offsetof(unix.Msghdr{}.Iov)},
		{"msghdr.msg_flags", unsafe.Offsetof(msghdr{}.flags), unsafe.Offsetof(unix.Msghdr{}.Flags)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.got != tc.want {
				t.Errorf("%d, the kernel's is %d", tc.got, tc.want)
			}
		})
	}
}

// The tail shares a word with entry 0's buffer number: adding and publishing
// must not disturb each other, at any position and past the 16-bit wrap.
func TestPbufRingPublishes(t *testing.T) {
	const n = 4
	mem := make([]byte, PbufRingSize(n))
	p := &PbufRing{ring: unsafe.Pointer(&mem[0]), mask: n - 1}
	tail := func() uint16 { return uint16(p.entry(0).bidTail >> 16) }
	for i := range uint32(1<<16 + 9) {
		id := uint16(i * 7)
		p.Add(id, uintptr(i)<<12, 100+i)
		if tail() != uint16(i) {
			t.Fatalf("adding buffer %d moved the tail to %d", i, tail())
		}
		p.Publish()
		e := p.entry(i)
		if tail() != uint16(i+1) || uint16(e.bidTail) != id || e.addr != uint64(i)<<12 || e.len != 100+i {
			t.Fatalf("entry %d: %+v, tail %d", i, *e, tail())
		}
	}
}
