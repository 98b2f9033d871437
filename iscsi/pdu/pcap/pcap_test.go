package pcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"spindle/iscsi/pdu"
)

// nopOut is a NOP-Out and its ping data.
func nopOut(data string) []byte {
	b := make(pdu.BHS, pdu.HeaderLen)
	b.Clear(pdu.NopOut)
	b.SetFlags(pdu.FlagFinal)
	b.SetTTT(pdu.ReservedTag)
	b.SetITT(7)
	b.SetCmdSN(1)
	b.SetDataLen(uint32(len(data)))
	out := append([]byte(b), data...)
	return append(out, pdu.PadBytes(uint32(len(data)))...)
}

func TestFrames(t *testing.T) {
	for _, tc := range []struct {
		name         string
		from, to     string
		payload      int
		frames, last int // frames in all; length of the payload's last frame
	}{
		{name: "ipv4", from: "10.0.0.1:40000", to: "10.0.0.2:3260", payload: 48, frames: 7, last: 14 + 20 + 20 + 48},
		{name: "ipv6", from: "[fd00::1]:40000", to: "[fd00::2]:3260", payload: 48, frames: 7, last: 14 + 40 + 20 + 48},
		{name: "split", from: "10.0.0.1:40000", to: "10.0.0.2:3260", payload: segmentMax + 4, frames: 8, last: 14 + 20 + 20 + 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var buf bytes.Buffer
			w := NewWriter(&buf)
			s := w.Stream(netip.MustParseAddrPort(tc.from), netip.MustParseAddrPort(tc.to))
			s.FromInitiator(make([]byte, tc.payload))
			s.Close()
			s.Close()
			if w.Err() != nil {
				t.Fatal(w.Err())
			}
			b := buf.Bytes()[24:]
			var lens []int
			for len(b) > 0 {
				n := int(binary.LittleEndian.Uint32(b[8:]))
				lens = append(lens, n)
				b = b[16+n:]
			}
			if len(lens) != tc.frames || lens[len(lens)-4] != tc.last {
				t.Errorf("frames %v, want %d with payload ending in %d", lens, tc.frames, tc.last)
			}
		})
	}
}

type broken struct{}

var errBroken = errors.New("broken")

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestWriteErrorIsKept(t *testing.T) {
	w := NewWriter(broken{})
	w.Stream(netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:3260")).FromTarget(nopOut(""))
	if !errors.Is(w.Err(), errBroken) {
		t.Errorf("Err() = %v", w.Err())
	}
}

// TestDissector has the Wireshark dissector, when there is one, find the PDU.
func TestDissector(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("no tshark")
	}
	var buf bytes.Buffer
	w := NewWriter(&buf)
	s := w.Stream(netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.2:3260"))
	s.FromInitiator(nopOut("hello"))
	s.Close()
	file := filepath.Join(t.TempDir(), "nop.pcap")
	if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tshark, "-n", "-r", file, "-Y", "iscsi", "-T", "fields", "-e", "iscsi.opcode", "-e", "iscsi.initiatortasktag").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != "0x00\t0x00000007" {
		t.Errorf("dissected as %q", got)
	}
}
