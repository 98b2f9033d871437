package load_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spindle/bench/load"
	"spindle/iscsi/pdu"
)

// fake is a target whose answers to READs a test writes.
type fake struct {
	t       *testing.T
	conn    net.Conn
	digests bool
	stat    uint32
	cmd     uint32
	pongs   atomic.Int32
	piece   int // bytes of an answer that are written at a time; 0 is all
	// read answers the n-th READ; false closes the connection.
	read func(f *fake, n int, cmd pdu.BHS) bool
}

// serve accepts one session and returns its URL.
func (f *fake) serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.t = t
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		if f.conn, err = l.Accept(); err == nil {
			defer f.conn.Close()
			f.run()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return "iscsi://" + l.Addr().String() + "/iqn.2026-11.io.spindle:fake/0"
}

func (f *fake) run() {
	reads, full := 0, false
	for {
		h := make(pdu.BHS, pdu.HeaderLen)
		if _, err := io.ReadFull(f.conn, h); err != nil {
			return
		}
		extra := uint32(0)
		if full && f.digests {
			extra = pdu.DigestLen
			if h.DataLen() > 0 {
				extra += pdu.DigestLen
			}
		}
		body := make([]byte, h.PaddedDataLen()+extra)
		if _, err := io.ReadFull(f.conn, body); err != nil {
			return
		}
		if h.Opcode() != pdu.LoginRequest && !h.Immediate() {
			f.cmd = h.CmdSN() + 1
		}
		switch h.Opcode() {
		case pdu.LoginRequest:
			f.cmd = h.CmdSN()
			f.login(h)
			full = true
		case pdu.NopOut:
			f.pongs.Add(1)
		case pdu.LogoutReq:
			f.send(f.header(pdu.LogoutResp, h, true), nil)
		case pdu.SCSICommand:
			switch h.CDB()[0] {
			case 0x00:
				f.status(h, 0, nil)
			case 0x9e:
				data := make([]byte, 32)
				binary.BigEndian.PutUint64(data, 1<<20-1)
				binary.BigEndian.PutUint32(data[8:], 512)
				f.data(h, 0, data, true)
			default:
				if !f.read(f, reads, h) {
					return
				}
				reads++
			}
		}
	}
}

func (f *fake) login(q pdu.BHS) {
	digest := pdu.ValueNone
	if f.digests {
		digest = pdu.ValueCRC32C
	}
	w := pdu.NewTextWriter(nil, 1024)
	w.Add(pdu.KeyHeaderDigest, digest)
	w.Add(pdu.KeyDataDigest, digest)
	r := make(pdu.BHS, pdu.HeaderLen)
	r.Clear(pdu.LoginResponse)
	r.SetFlags(q.Flags())
	r.SetITT(q.ITT())
	r.SetStatSN(f.stat)
	f.stat++
	r.SetExpCmdSN(f.cmd)
	r.SetMaxCmdSN(f.cmd + 63)
	r.SetDataLen(uint32(len(w.Bytes())))
	f.write(append(append(append([]byte{}, r...), w.Bytes()...), pdu.PadBytes(uint32(len(w.Bytes())))...))
}

func (f *fake) header(op pdu.Opcode, cmd pdu.BHS, status bool) pdu.BHS {
	h := make(pdu.BHS, pdu.HeaderLen)
	h.Clear(op)
	h.SetFlags(pdu.FlagFinal)
	h.SetITT(cmd.ITT())
	h.SetStatSN(f.stat)
	if status {
		f.stat++
	}
	h.SetExpCmdSN(f.cmd)
	h.SetMaxCmdSN(f.cmd + 63)
	return h
}

func (f *fake) status(cmd pdu.BHS, status uint8, sense []byte) {
	h := f.header(pdu.SCSIResponse, cmd, true)
	h.SetStatus(status)
	f.send(h, sense)
}

func (f *fake) data(cmd pdu.BHS, off uint32, data []byte, last bool) {
	h := f.header(pdu.DataIn, cmd, last)
	h.SetFlags(0)
	if last {
		h.SetFlags(pdu.FlagFinal | pdu.FlagStatus)
	}
	h.SetOffset(off)
	f.send(h, data)
}

func (f *fake) send(h pdu.BHS, data []byte) {
	h.SetDataLen(uint32(len(data)))
	out := append([]byte{}, h...)
	if f.digests {
		out = binary.LittleEndian.AppendUint32(out, pdu.Digest(h))
	}
	padded := append(append([]byte{}, data...), pdu.PadBytes(uint32(len(data)))...)
	out = append(out, padded...)
	if f.digests && len(data) > 0 {
		out = binary.LittleEndian.AppendUint32(out, pdu.Digest(padded))
	}
	f.write(out)
}

func (f *fake) write(b []byte) {
	for len(b) > 0 {
		n := len(b)
		if f.piece > 0 {
			n = min(n, f.piece) // sent at once, and mostly received apart
		}
		if _, err := f.conn.Write(b[:n]); err != nil {
			return
		}
		b = b[n:]
	}
}

// good answers a READ as it should be.
func good(f *fake, _ int, cmd pdu.BHS) bool {
	f.data(cmd, 0, make([]byte, cmd.EDTL()), true)
	return true
}

func TestAnswers(t *testing.T) {
	sense := append([]byte{0, 18, 0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 0}, make([]byte, 4)...)
	for _, c := range []struct {
		name    string
		digests bool
		piece   int
		read    func(f *fake, n int, cmd pdu.BHS) bool
		want    string // of the error; "" is none
		check   func(t *testing.T, f *fake, r *load.Result)
	}{
		{name: "good", read: good},
		{name: "in pieces", piece: 7, read: good},
		{name: "in pieces, with digests", piece: 19, digests: true, read: good},
		{name: "with digests", digests: true, read: good},
		{name: "data and status apart", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			half := cmd.EDTL() / 2
			f.data(cmd, 0, make([]byte, half), false)
			f.data(cmd, half, make([]byte, half), false)
			f.status(cmd, 0, nil)
			return true
		}},
		{name: "busy now and then", read: func(f *fake, n int, cmd pdu.BHS) bool {
			if n%3 == 0 {
				f.status(cmd, 0x08, nil)
				return true
			}
			return good(f, n, cmd)
		}, check: func(t *testing.T, _ *fake, r *load.Result) {
			if r.Retries == 0 {
				t.Error("no retry was counted")
			}
		}},
		{name: "pings", read: func(f *fake, n int, cmd pdu.BHS) bool {
			if n == 0 {
				h := f.header(pdu.NopIn, cmd, false)
				h.SetITT(pdu.ReservedTag)
				h.SetTTT(42)
				f.send(h, nil)
			}
			return good(f, n, cmd)
		}, check: func(t *testing.T, f *fake, _ *load.Result) {
			if n := f.pongs.Load(); n != 1 {
				t.Errorf("a ping was answered %d times", n)
			}
		}},
		{name: "medium error", want: "sense 3/11/00", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			f.status(cmd, 2, sense)
			return true
		}},
		{name: "medium error in pieces", piece: 5, want: "sense 3/11/00", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			f.status(cmd, 2, sense)
			return true
		}},
		{name: "too little data", want: "bytes instead of", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			f.data(cmd, 0, make([]byte, cmd.EDTL()/2), true)
			return true
		}},
		{name: "data beyond the end", want: "Data-In", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			f.data(cmd, 512, make([]byte, cmd.EDTL()), true)
			return true
		}},
		{name: "an answer to nobody", want: "Data-In", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			cmd.SetITT(cmd.ITT() ^ 1<<20)
			return good(f, 0, cmd)
		}},
		{name: "an answer twice", want: "Data-In", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			good(f, 0, cmd)
			return good(f, 0, cmd)
		}},
		{name: "asks a read for data", want: "R2T", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			h := f.header(pdu.R2T, cmd, false)
			h.SetDesired(512)
			f.send(h, nil)
			return true
		}},
		{name: "rejects", want: "opcode", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			f.send(f.header(pdu.Reject, cmd, true), cmd)
			return true
		}},
		{name: "bad data digest", digests: true, want: "data digest", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			h := f.header(pdu.DataIn, cmd, true)
			h.SetFlags(pdu.FlagFinal | pdu.FlagStatus)
			h.SetDataLen(cmd.EDTL())
			out := binary.LittleEndian.AppendUint32(append([]byte{}, h...), pdu.Digest(h))
			f.write(append(append(out, make([]byte, cmd.EDTL())...), 1, 2, 3, 4))
			return true
		}},
		{name: "bad header digest", digests: true, want: "header digest", read: func(f *fake, _ int, cmd pdu.BHS) bool {
			f.write(make([]byte, pdu.HeaderLen+pdu.DigestLen))
			return true
		}},
		{name: "goes away", want: "closed connection", read: func(f *fake, n int, cmd pdu.BHS) bool { return n < 3 && good(f, n, cmd) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fake{digests: c.digests, piece: c.piece, read: c.read}
			o := options(t, f.serve(t), "randread", 2048)
			o.Depth, o.Header, o.Data, o.Runtime = 4, c.digests, c.digests, 500*time.Millisecond
			// The fake takes one session: a second try is not to be had.
			r, err := load.Run(t.Context(), o)
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (!errors.Is(err, load.ErrTarget) || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("%v, want %q", err, c.want)
			case c.want == "" && r.IOs() == 0:
				t.Error("no I/O")
			}
			if c.check != nil {
				c.check(t, f, r)
			}
		})
	}
}
