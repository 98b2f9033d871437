package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"spindle/control"
)

// Server answers requests for one Control.
type Server struct {
	ctl     *control.Control
	log     *slog.Logger
	methods map[string]*Method
	order   []*Method

	ctx    context.Context // ends when the server closes
	cancel context.CancelFunc

	sendTimeout time.Duration
	batchAnswer int64 // bytes

	mu       sync.Mutex // guards what follows
	listener net.Listener
	lock     *os.File
	conns    map[net.Conn]struct{}
	closed   bool
	wg       sync.WaitGroup // the accept loop and the connections
}

// NewServer makes a server that does not listen yet; Load works on it.
func NewServer(ctl *control.Control) *Server {
	s := &Server{ctl: ctl, log: ctl.Log.Logger("rpc"), methods: map[string]*Method{}, conns: map[net.Conn]struct{}{}, sendTimeout: SendTimeout, batchAnswer: MaxBatchAnswer}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	rows := Methods()
	for i := range rows {
		m := &rows[i]
		s.order = append(s.order, m)
		for _, name := range append([]string{m.Name}, m.Aliases...) {
			if s.methods[name] != nil {
				panic("rpc: method " + name + " twice in the table")
			}
			s.methods[name] = m
		}
	}
	return s
}

// Listen serves on a Unix socket at path until Close. Only the process's own
// user and root may speak to it. A socket left behind by a dead process is
// replaced; one whose owner lives is not.
func (s *Server) Listen(path string) error {
	lock, err := lockSocket(path)
	if err != nil {
		return err
	}
	l, err := listenUnix(path)
	if err != nil {
		unlockSocket(lock)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener, s.lock = l, lock
	s.wg.Add(1)
	go s.accept(l)
	return nil
}

// closeGrace is how long a client may take to read a last answer.
const closeGrace = time.Second

// Close stops listening, removes the socket and its lock, and ends every
// connection. It returns when the requests in progress have ended.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.cancel()
	var err error
	if s.listener != nil {
		err = s.listener.Close() // removes the socket too
		unlockSocket(s.lock)
	}
	for c := range s.conns {
		// What is being answered is answered: the request may be the one that
		// ends the process.
		_ = c.SetReadDeadline(time.Now())
		_ = c.SetWriteDeadline(time.Now().Add(closeGrace))
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// acceptPause is how long after a failure a connection is asked for again.
const acceptPause = 100 * time.Millisecond

func (s *Server) accept(l net.Listener) {
	defer s.wg.Done()
	for failing := false; ; {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Descriptors that initiators have used up come back with them.
			if !failing {
				s.log.Error("RPC socket takes no connection; it goes on trying", "error", err)
			}
			failing = true
			select {
			case <-s.ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		failing = false
		if err := checkPeer(c, os.Geteuid()); err != nil {
			s.log.Warn("RPC connection refused", "reason", err)
			_ = c.Close()
			continue
		}
		if !s.admit(c) {
			_ = c.Close()
		}
	}
}

// admit starts serving c unless there are too many connections.
func (s *Server) admit(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if len(s.conns) == MaxConnections {
		s.log.Warn("RPC connection refused", "reason", fmt.Sprintf("%d connections are open", MaxConnections))
		return false
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.serve(c)
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	return true
}

// session is one client's connection.
type session struct {
	srv     *Server
	detail  atomic.Bool // errors carry their reason; see rpc_set_error_detail
	waiting atomic.Int32
	async   sync.WaitGroup

	mu  sync.Mutex // guards out
	out io.Writer
}

// send writes one answer. After a failed write, or one that the client takes
// nothing of, the connection ends.
func (c *session) send(answer []byte) {
	if answer == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	conn, _ := c.out.(net.Conn)
	if conn != nil {
		c.srv.limitWrite(conn)
	}
	if _, err := c.out.Write(append(answer, '\n')); err != nil && conn != nil {
		c.srv.log.Info("RPC connection closed", "reason", err)
		_ = conn.Close()
	}
}

// limitWrite gives a client time to take an answer; Close has given it less.
func (s *Server) limitWrite(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		_ = c.SetWriteDeadline(time.Now().Add(s.sendTimeout))
	}
}

// serve answers the requests of one stream until it ends or cannot be parsed.
func (s *Server) serve(rw io.ReadWriter) {
	ctx, cancel := context.WithCancel(s.ctx)
	c := &session{srv: s, out: rw}
	defer c.async.Wait()
	defer cancel()
	buf := make([]byte, 0, 4<<10)
	for {
		if len(buf) == cap(buf) {
			if cap(buf) >= MaxRequest {
				s.log.Warn("RPC connection closed", "reason", fmt.Sprintf("a request exceeds %d bytes", MaxRequest))
				return
			}
			buf = append(make([]byte, 0, min(2*cap(buf), MaxRequest)), buf...)
		}
		n, err := rw.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		rest, perr := c.requests(ctx, buf)
		if perr != nil {
			s.log.Info("RPC connection closed", "reason", perr)
			return
		}
		buf = append(buf[:0], rest...)
		if err != nil {
			return
		}
	}
}

// requests answers every whole request in buf and returns the rest.
func (c *session) requests(ctx context.Context, buf []byte) ([]byte, error) {
	for len(buf) > 0 {
		v, n, err := parse(buf)
		if errors.Is(err, errIncomplete) {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
		buf = buf[n:]
		c.top(ctx, &v)
	}
	return buf, nil
}

// top answers one value of the stream.
func (c *session) top(ctx context.Context, v *value) {
	if v.kind == kindArray && len(v.items) > 0 {
		c.batch(ctx, v.items)
		return
	}
	m, ok := decodeMessage(v)
	if !ok {
		c.send((&message{}).response(nil, errInvalidRequest))
		return
	}
	c.start(&m, func() { c.send(c.answer(ctx, &m)) })
}

// start runs work now, or beside what follows when the method may wait.
func (c *session) start(m *message, work func()) {
	if !c.srv.mayWait(m.method, m.params) {
		work()
		return
	}
	if c.waiting.Add(1) > MaxWaiting {
		c.waiting.Add(-1)
		m.refused = errWaiting
		work()
		return
	}
	c.async.Add(1)
	go func() {
		defer c.async.Done()
		defer c.waiting.Add(-1)
		work()
	}()
}

// answer runs one request.
func (c *session) answer(ctx context.Context, m *message) []byte {
	if m.paramsBad() {
		return m.response(nil, errInvalidRequest)
	}
	var result any
	e := m.refused
	if e == nil {
		result, e = c.srv.call(ctx, c, m.method, m.params)
	}
	return m.response(result, c.told(e))
}

// told is an error as the client wants it.
func (c *session) told(e *Error) *Error {
	if e == nil || c.detail.Load() {
		return e
	}
	return &Error{Code: e.Code, Message: e.Message}
}

// batch answers an array of requests with an array, which is sent when the last
// of them is done; there is none when all were notifications that succeeded.
func (c *session) batch(ctx context.Context, items []value) {
	answers := make([][]byte, len(items))
	var pending sync.WaitGroup
	var size atomic.Int64
	for i := range items {
		m, ok := decodeMessage(&items[i])
		if !ok {
			answers[i] = (&message{}).response(nil, errInvalidRequest)
			continue
		}
		pending.Add(1)
		c.start(&m, func() {
			defer pending.Done()
			a := c.answer(ctx, &m)
			if size.Add(int64(len(a))) > c.srv.batchAnswer {
				size.Add(-int64(len(a)))
				a = m.response(nil, c.told(errTooLarge))
			}
			answers[i] = a
		})
	}
	c.async.Add(1)
	finish := func() {
		defer c.async.Done()
		pending.Wait()
		out := []byte{'['}
		for _, a := range answers {
			if a == nil {
				continue
			}
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(out, a...)
		}
		if len(out) > 1 {
			c.send(append(out, ']'))
		}
	}
	if c.waits(items) {
		go finish()
		return
	}
	finish()
}

// waits tells whether a batch holds a request that may wait.
func (c *session) waits(items []value) bool {
	for i := range items {
		if v := items[i].get("method"); v != nil && c.srv.mayWait(v.text, items[i].get("params")) {
			return true
		}
	}
	return false
}

func (s *Server) mayWait(method string, params *value) bool {
	row := s.methods[method]
	return row != nil && row.waits != nil && row.waits(s.ctl.Running(), params)
}
