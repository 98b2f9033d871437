package limit

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"spindle/iscsi/pdu"
)

// serve starts a responder and returns its address.
func serve(t *testing.T, connections int) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() {
		ended <- Serve(ctx, Options{
			Addr: "127.0.0.1:0", CPU: -1, Size: 8 << 20, RAM: true, Connections: connections, Congestion: "cubic",
			Ready: func(a netip.AddrPort) { ready <- a },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return (<-ready).String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange sends a header with data and returns the answer's.
func exchange(t *testing.T, c net.Conn, h pdu.BHS, data string) (pdu.BHS, []byte) {
	t.Helper()
	h.SetDataLen(uint32(len(data)))
	out := append(append([]byte{}, h...), data...)
	if _, err := c.Write(append(out, pdu.PadBytes(uint32(len(data)))...)); err != nil {
		t.Fatal(err)
	}
	r := make(pdu.BHS, pdu.HeaderLen)
	if _, err := io.ReadFull(c, r); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, r.PaddedDataLen())
	if _, err := io.ReadFull(c, body); err != nil {
		t.Fatal(err)
	}
	return r, body[:r.DataLen()]
}

func header(op pdu.Opcode, flags byte) pdu.BHS {
	h := make(pdu.BHS, pdu.HeaderLen)
	h.Clear(op)
	h.SetFlags(flags)
	h.SetITT(7)
	h.SetCmdSN(1)
	return h
}

func TestDialogue(t *testing.T) {
	c := dial(t, serve(t, 4))
	login := header(pdu.LoginRequest, pdu.FlagTransit|pdu.StageOperational<<2|pdu.StageFullFeature)
	login.SetImmediate()
	r, text := exchange(t, c, login, "InitiatorName=iqn.a\x00MaxRecvDataSegmentLength=1024\x00")
	if r.Opcode() != pdu.LoginResponse || r.LoginStatus() != pdu.LoginSuccess || !strings.Contains(string(text), "HeaderDigest=None") {
		t.Fatalf("login: % x %q", r, text)
	}
	ping := header(pdu.NopOut, pdu.FlagFinal)
	if r, data := exchange(t, c, ping, "hello"); r.Opcode() != pdu.NopIn || string(data) != "hello" || r.ITT() != 7 {
		t.Errorf("ping: % x %q", r, data)
	}
	read := header(pdu.SCSICommand, pdu.FlagFinal|pdu.FlagRead)
	read.SetEDTL(2048)
	read.SetCmdSN(2)
	copy(read.CDB(), []byte{0x28, 0, 0, 0, 0, 0, 0, 0, 4})
	r, data := exchange(t, c, read, "")
	if r.Opcode() != pdu.DataIn || len(data) != 1024 || r.Flags()&pdu.FlagStatus != 0 {
		t.Errorf("the first segment: % x", r)
	}
	second := make(pdu.BHS, pdu.HeaderLen+1024)
	if _, err := io.ReadFull(c, second); err != nil {
		t.Fatal(err)
	}
	if second.Offset() != 1024 || second.DataSN() != 1 || second.Flags()&pdu.FlagStatus == 0 || second.ExpCmdSN() != 3 {
		t.Errorf("the second segment: % x", second[:pdu.HeaderLen])
	}
	strange := header(pdu.SCSICommand, pdu.FlagFinal)
	strange.SetCmdSN(3)
	strange.CDB()[0] = 0x42
	if r, sense := exchange(t, c, strange, ""); r.Opcode() != pdu.SCSIResponse || r.Status() != 2 || len(sense) != 20 {
		t.Errorf("an opcode it does not know: % x % x", r, sense)
	}
	bye := header(pdu.LogoutReq, pdu.FlagFinal)
	bye.SetCmdSN(4)
	if r, _ := exchange(t, c, bye, ""); r.Opcode() != pdu.LogoutResp {
		t.Errorf("logout: % x", r)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the logout: %v", err)
	}
}

// TestNoise: whatever is sent, the responder closes that connection at most.
func TestNoise(t *testing.T) {
	addr := serve(t, 4)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		c := dial(t, addr)
		noise := make([]byte, 48+rng.IntN(4096))
		for j := range noise {
			noise[j] = byte(rng.Uint32())
		}
		noise[0] = []byte{1, 3, 5, 0x43, 0, 6, 2}[i%7] // opcodes it knows
		noise[4], noise[5] = 0, 0
		if _, err := c.Write(noise); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	stillAnswers(t, addr)
}

// stillAnswers sees that the responder still answers.
func stillAnswers(t *testing.T, addr string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		c := dial(t, addr)
		login := header(pdu.LoginRequest, pdu.FlagTransit|pdu.StageOperational<<2|pdu.StageFullFeature)
		login.SetDataLen(0)
		r := make(pdu.BHS, pdu.HeaderLen)
		_, err := c.Write(login)
		if err == nil {
			_, err = io.ReadFull(c, r)
		}
		if err == nil && r.Opcode() == pdu.LoginResponse {
			return
		}
		if time.Now().After(deadline) { // the places of former connections were not given back
			t.Fatalf("it does not answer any more: %v", err)
		}
		c.Close()
		time.Sleep(10 * time.Millisecond)
	}
}

func TestPlacesAreGivenBack(t *testing.T) {
	addr := serve(t, 2)
	for i := range 20 {
		c := dial(t, addr)
		if i%2 == 0 {
			_ = c.(*net.TCPConn).SetLinger(0) // a reset
		}
		c.Close()
	}
	stillAnswers(t, addr)
}

// TestLibiscsi: other initiators measure it too.
func TestLibiscsi(t *testing.T) {
	addr := serve(t, 4)
	url := fmt.Sprintf("iscsi://%s/iqn.2026-11.io.spindle:limit/0", addr)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"iscsi-inq", url}, "SPINDLE"},
		{[]string{"iscsi-readcapacity16", url}, "8388608"},
		{[]string{"iscsi-perf", "-m", "8", "-b", "8", "-t", "1", url}, "iops"},
	} {
		t.Run(c.args[0], func(t *testing.T) {
			path, err := exec.LookPath(c.args[0])
			if err != nil {
				t.Skip("no libiscsi-bin:", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, path, c.args[1:]...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
