package pdu

import (
	"bytes"
	"testing"
)

func TestISERHeader(t *testing.T) {
	h := ISER(bytes.Repeat([]byte{0xff}, ISERLen))
	h.Clear()
	if want := append([]byte{0x10}, make([]byte, 27)...); !bytes.Equal(h, want) {
		t.Errorf("% x, want % x", []byte(h), want)
	}
	// An STag that is not called valid is none.
	h[7], h[19] = 1, 2
	if w, _ := h.Write(); w != 0 {
		t.Errorf("Write STag %x", w)
	}
	if r, _ := h.Read(); r != 0 {
		t.Errorf("Read STag %x", r)
	}
	h.SetWrite(0x01020304, 0x1112131415161718)
	h.SetRead(0x21222324, 0x3132333435363738)
	want := []byte{
		0x1c, 0, 0, 0, 0x01, 0x02, 0x03, 0x04, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
		0x21, 0x22, 0x23, 0x24, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38,
	}
	if !bytes.Equal(h, want) {
		t.Errorf("% x, want % x", []byte(h), want)
	}
	if stag, base := h.Write(); stag != 0x01020304 || base != 0x1112131415161718 {
		t.Errorf("Write STag %x, base %x", stag, base)
	}
	if stag, base := h.Read(); stag != 0x21222324 || base != 0x3132333435363738 {
		t.Errorf("Read STag %x, base %x", stag, base)
	}
	if !h.Control() || ISER([]byte{0x20}).Control() || ISER([]byte{0x30}).Control() {
		t.Error("Hello and HelloReply are no control messages")
	}
}
