package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"spindle/bench/wire"
	"spindle/internal/sys"
	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
)

// recvSegment is the longest data segment we take, as open-iscsi does.
const recvSegment = 256 << 10

// tcp is the network of sockets on a ring.
type tcp struct {
	g       *generator
	loop    *wire.Loop
	header  uint32 // bytes of headers in a batch
	vecs    int    // vectors of a batch
	streams []*stream
}

func newTCP(g *generator) *tcp {
	t := &tcp{g: g, header: max(mem.MinBlock, min(uint32(g.o.Depth)*segmentRoom, 128<<10)), vecs: 8}
	if g.pattern.Reads < 100 {
		t.vecs = min(wire.MaxVecs, max(2*(maxUnsolicited+2), g.o.Depth*4))
	}
	return t
}

func (t *tcp) memory() uint64 {
	return uint64(t.g.o.Connections) * wire.SenderMemory(t.header, t.vecs)
}

func (t *tcp) most() uint64 { return 8 << 30 }

func (t *tcp) open(l *wire.Loop) error {
	t.loop = l
	return nil
}

// tagNone is for operations whose completion means nothing.
const tagNone = ring.Tag(1 << 32)

func recvTag(id int) ring.Tag { return ring.Tag(id) << 1 }
func sendTag(id int) ring.Tag { return ring.Tag(id)<<1 | 1 }

// socket is a connection in the making, used with blocking calls before the ring
// takes it over.
type socket struct {
	o    *Options
	conn *net.TCPConn
}

func (t *tcp) dial(ctx context.Context, _ int) (path, error) {
	d := net.Dialer{Timeout: loginTimeout}
	conn, err := d.DialContext(ctx, "tcp", t.g.o.Address.Host)
	if err != nil {
		return nil, err
	}
	s := &socket{o: t.g.o, conn: conn.(*net.TCPConn)}
	if err = s.congestion(); err == nil {
		err = conn.SetDeadline(time.Now().Add(loginTimeout))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *socket) close() { s.conn.Close() }

// congestion chooses the congestion control of what we send.
func (s *socket) congestion() error {
	if s.o.Congestion == "" {
		return nil
	}
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = sys.SetCongestion(int(fd), s.o.Congestion) })
	return errors.Join(err, failed)
}

// file takes the socket out of Go's hands, blocking, as the ring wants it.
func (s *socket) file() (*os.File, error) {
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	f, err := s.conn.File()
	if err != nil {
		return nil, err
	}
	return f, s.conn.Close()
}

func (s *socket) offer(w *pdu.TextWriter) {
	digest := func(on bool) string {
		if on {
			return pdu.ValueCRC32C
		}
		return pdu.ValueNone
	}
	w.Add(pdu.KeyHeaderDigest, digest(s.o.Header))
	w.Add(pdu.KeyDataDigest, digest(s.o.Data))
	w.Add(pdu.KeyInitialR2T, pdu.ValueNo)
	w.AddNumber(pdu.KeyMaxRecvData, recvSegment)
}

// Login PDUs carry no digests, and after the login both sides have agreed to
// those that were asked for.

func (s *socket) write(h pdu.BHS, data []byte) error {
	out := append([]byte{}, h...)
	if s.o.Header && h.Opcode() != pdu.LoginRequest {
		out = append(out, 0, 0, 0, 0)
		pdu.PutDigest(out[pdu.HeaderLen:], pdu.Digest(h))
	}
	out = append(append(out, data...), pdu.PadBytes(uint32(len(data)))...)
	_, err := s.conn.Write(out)
	return err
}

// read does not look at digests: the data path does.
func (s *socket) read(h pdu.BHS) ([]byte, error) {
	if _, err := io.ReadFull(s.conn, h); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	n, before, after := h.DataLen(), h.AHSLen(), uint32(0)
	if n > maxText {
		return nil, fmt.Errorf("%w: data segment of %d bytes", ErrTarget, n)
	}
	digests := h.Opcode() != pdu.LoginResponse
	if digests && s.o.Header {
		before += pdu.DigestLen
	}
	if digests && s.o.Data && n > 0 {
		after = pdu.DigestLen
	}
	body := make([]byte, before+pdu.Padded(n)+after)
	if _, err := io.ReadFull(s.conn, body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	return body[before : before+n], nil
}

// adopt makes the socket a file of the ring.
func (t *tcp) adopt(p path, c *conn) error {
	sock, err := p.(*socket).file()
	if err != nil {
		return err
	}
	file, err := t.loop.Ring.Install(int(sock.Fd())) // Fd makes it block, as the ring wants it
	if err != nil {
		sock.Close()
		return err
	}
	s := &stream{c: c, net: t, sock: sock, file: file, headLen: pdu.HeaderLen, asked: make([]uint16, 0, t.g.o.Depth)}
	if c.p.header {
		s.headLen += pdu.DigestLen
	}
	c.link = s
	t.streams = append(t.streams, s)
	return s.tx.Init(t.loop, file, sendTag(c.id), t.header, t.vecs)
}

//spindle:hot
func (t *tcp) turn(until clock.Time) error {
	cqes, err := t.loop.Turn(until)
	if err != nil {
		return err
	}
	t.g.now = t.loop.Clock.Now()
	t.g.worked = len(cqes) > 0
	for _, q := range cqes {
		if err := t.completed(q); err != nil {
			return err
		}
	}
	return nil
}

// completed takes one completion.
//
//spindle:hot
func (t *tcp) completed(q ring.CQE) error {
	s := t.streams[q.Tag>>1]
	t.g.mark(s.c)
	if q.Tag&1 != 0 {
		return s.sent(q.Res)
	}
	if q.Flags&ring.FlagMore == 0 {
		s.armed = false
	}
	if q.Flags&ring.FlagBuffer == 0 {
		return s.noData(q.Res)
	}
	err := s.receive(t.loop.Received(q))
	t.loop.Ring.Recycle(t.loop.Group, q.BufferID())
	return err
}

// noData takes a receive completion without a buffer.
func (t *stream) noData(res int32) error {
	switch {
	case res == -int32(syscall.ENOBUFS):
		return nil // armed again when buffers have come back
	case res == 0 && t.c.ended:
		return nil
	case res == 0 || res == -int32(syscall.ECONNRESET):
		return fmt.Errorf("%w: it closed connection %d", ErrTarget, t.c.id)
	}
	return fmt.Errorf("connection %d: receive: %w", t.c.id, syscall.Errno(-res))
}

// sent takes the completion of a send.
//
//spindle:hot
func (t *stream) sent(res int32) error {
	if err := t.tx.Sent(res); err != nil {
		return t.unsent(err)
	}
	return nil
}

//go:noinline
func (t *stream) unsent(err error) error {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("%w: it closed connection %d", ErrTarget, t.c.id)
	}
	return fmt.Errorf("connection %d: %w", t.c.id, err)
}

func (t *tcp) look() error { return nil }

// leave shuts the sockets down. The kernel takes a ring apart when it likes, and
// a closed socket that the ring still knows would stay open until then.
func (t *tcp) leave() error {
	for _, s := range t.streams {
		if !t.loop.Ring.Shutdown(tagNone, s.file) {
			if _, err := t.loop.Turn(0); err != nil {
				return err
			}
			t.loop.Ring.Shutdown(tagNone, s.file)
		}
	}
	_, err := t.loop.Turn(0)
	return err
}

func (t *tcp) close() {
	if t.loop != nil {
		t.loop.Close()
	}
	for _, s := range t.streams {
		s.sock.Close()
	}
}
