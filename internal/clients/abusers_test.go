package clients

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"time"

	"spindle/iscsi/pdu"
)

// noiseNode is the node that abusers log in to: what has logged in may reset the
// node that it is in.
const noiseNode = "iqn.2026-11.io.spindle:noise"

// loginTimeout is the target's login_timeout under abuse, in seconds.
const loginTimeout = 1

// abuser is one way of misusing a portal.
type abuser struct {
	name    string
	workers int
	pause   time.Duration                   // of a worker, between knocks
	hosts   byte                            // addresses that they come from
	knock   func(c net.Conn, nth int) error // ends with the connection
	count   atomic.Int64                    // knocks that ended
	refused atomic.Int64                    // of them, closed at accept or before an answer
}

// abusers are all ways. Each kind comes from addresses of its own, so that the
// limits of one are not those of another. The pauses bound them: together they
// make well over a thousand connections a second, of which a third log in.
func (a *abuse) abusers() []*abuser {
	return []*abuser{
		{name: "half-open", workers: 66, pause: 100 * time.Millisecond, hosts: 1, knock: halfOpen},
		{name: "slow logins", workers: 16, pause: 100 * time.Millisecond, hosts: 1, knock: slowLogin},
		{name: "flood", workers: 64, pause: 3500 * time.Millisecond, hosts: 1, knock: flood},
		{name: "oversized", workers: 2, pause: 4 * time.Millisecond, hosts: 2, knock: oversized},
		{name: "scan", workers: 2, pause: 2 * time.Millisecond, hosts: 2, knock: reset},
		{name: "login and logout", workers: 2, pause: 4 * time.Millisecond, hosts: 16, knock: a.inAndOut},
		{name: "random bytes", workers: 2, pause: 4 * time.Millisecond, hosts: 4, knock: randomBytes},
		{name: "random PDUs after login", workers: 2, pause: 4 * time.Millisecond, hosts: 4, knock: a.randomPDUs},
	}
}

// run knocks until stop is closed.
func (k *abuser) run(addr string, kind, worker int, stop <-chan struct{}) error {
	from := net.Dialer{Timeout: stall, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(kind+1), byte(worker)%k.hosts+1)}}
	for n := worker; ; n += k.workers {
		select {
		case <-stop:
			return nil
		case <-time.After(k.pause):
		}
		c, err := from.Dial("tcp", addr)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		// By reset, and so without TIME-WAIT: there are only so many ports.
		if err := c.(*net.TCPConn).SetLinger(0); err != nil {
			return err
		}
		done := make(chan struct{})
		go func() {
			select {
			case <-stop:
				c.Close()
			case <-done:
			}
		}()
		err = k.knock(c, n)
		close(done)
		c.Close()
		if errors.Is(err, errKept) {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		k.count.Add(1)
		if err != nil {
			k.refused.Add(1)
		}
	}
}

// errKept is the only complaint that an abuser may have.
var errKept = errors.New("the target keeps the connection")

// gone waits until the target has closed c, which it has to.
func gone(c net.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(loginTimeout*time.Second + stall)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		return errKept
	}
	return nil
}

// halfOpen says nothing.
func halfOpen(c net.Conn, _ int) error { return gone(c) }

// flood is one of many that come at once.
func flood(c net.Conn, _ int) error {
	time.Sleep(200 * time.Millisecond)
	return nil
}

// slowLogin says a byte at a time.
func slowLogin(c net.Conn, _ int) error {
	text := loginText([]byte("InitiatorName=iqn.2026-11.io.spindle:slow\x00SessionType=Discovery\x00"))
	for end := time.Now().Add(loginTimeout*time.Second + stall); time.Now().Before(end); time.Sleep(60 * time.Millisecond) {
		if _, err := c.Write(text[:1]); err != nil {
			return nil
		}
		if text = text[1:]; len(text) == 0 {
			return nil
		}
	}
	return errKept
}

// loginText is a Login Request that brings keys.
func loginText(keys []byte) []byte {
	h := pdu.BHS(make([]byte, pdu.HeaderLen))
	h.SetOpcode(pdu.LoginRequest)
	h[0] |= 0x40
	h.SetFlags(pdu.FlagTransit | pdu.StageOperational<<2 | pdu.StageFullFeature)
	h.SetDataLen(uint32(len(keys)))
	return append(append(h, keys...), make([]byte, -len(keys)&3)...)
}

// oversized sends a Login Request with one thing too large; one of them goes on
// for ever, with the C bit.
func oversized(c net.Conn, n int) error {
	fill := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = 'a'
		}
		return b
	}
	var b []byte
	switch n / 2 % 6 {
	case 0: // a segment of 16 MiB is announced
		b = loginText(nil)
		b[5], b[6], b[7] = 0xff, 0xff, 0xff
	case 1: // a key of 8000 bytes
		b = loginText(append(fill(8000), "=1\x00"...))
	case 2: // a value of 8000 bytes
		b = loginText(append([]byte("InitiatorName="), append(fill(8000), 0)...))
	case 3: // a thousand keys
		var keys []byte
		for i := range 1000 {
			keys = fmt.Appendf(keys, "X-%d=%d\x00", i, i)
		}
		b = loginText(keys)
	case 4: // an AHS of 1020 bytes
		b = loginText(fill(1020))
		b[4] = 0xff
	case 5:
		b = loginText(append([]byte("X-more="), fill(100)...))
		b[1] = pdu.FlagContinue | pdu.StageOperational<<2
		for {
			if _, err := c.Write(b); err != nil {
				return nil
			}
			if err := c.SetReadDeadline(time.Now().Add(stall)); err != nil {
				return err
			}
			switch _, err := io.ReadFull(c, make([]byte, pdu.HeaderLen)); {
			case errors.Is(err, os.ErrDeadlineExceeded):
				return errKept
			case err != nil:
				return nil
			}
		}
	}
	if _, err := c.Write(b); err != nil {
		return nil
	}
	return gone(c)
}

// reset says nothing and leaves at once.
func reset(net.Conn, int) error { return nil }

// inAndOut logs in and out, or just goes.
func (a *abuse) inAndOut(conn net.Conn, n int) error {
	c, err := a.login(conn, n)
	if err != nil || n%4 == 0 {
		return err
	}
	if err = c.logout(); err == nil {
		a.logouts.Add(1)
	}
	return err
}

func (a *abuse) login(conn net.Conn, n int) (*initiator, error) {
	a.tried.Add(1)
	c := &initiator{conn: conn, buf: make([]byte, 16<<10), node: noiseNode, name: fmt.Sprintf("iqn.2026-11.io.spindle:abuser%d", n)}
	if err := c.login(n); err != nil {
		return nil, err
	}
	return c, nil
}

// randomBytes sends some, every other time behind a header of a login.
func randomBytes(c net.Conn, n int) error {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, 16<<10)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	if n/2%2 == 0 {
		copy(b, loginText(nil))
		pdu.BHS(b[:pdu.HeaderLen]).SetDataLen(4096) // of keys
	}
	if _, err := c.Write(b); err != nil {
		return nil
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return nil
	}
	return gone(c)
}

// randomPDUs logs in and then sends headers of random content and fitting
// length, until the target has had enough or a number of them is sent.
func (a *abuse) randomPDUs(conn net.Conn, n int) error {
	c, err := a.login(conn, n)
	if err != nil {
		return err
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }() // it may answer much
	r := rand.New(rand.NewPCG(uint64(n), 2))
	for range 25 {
		b := make([]byte, pdu.HeaderLen+r.IntN(4)*256)
		for i := 0; i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
		h := pdu.BHS(b[:pdu.HeaderLen])
		h[4] = 0
		h.SetDataLen(uint32(len(b) - pdu.HeaderLen))
		h.SetCmdSN(c.cmdSN)
		if _, err := conn.Write(b); err != nil {
			return nil
		}
	}
	return nil
}
