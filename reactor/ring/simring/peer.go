package simring

import (
	"net/netip"
	"syscall"
)

// Peer is the initiator's end of a connection. Its calls never block; what
// they send travels by events of the World.
type Peer struct {
	c        *conn
	closed   bool // Close was called
	reset    bool // by either side or the network
	vanished bool
}

// ID is the connection's number in events.
func (p *Peer) ID() int { return p.c.id }

// Addrs are the initiator's and the target's address.
func (p *Peer) Addrs() (local, remote netip.AddrPort) { return p.c.remote, p.c.local }

// Write sends b and returns how many bytes were taken; fewer when the send
// buffer is full, none once the connection has ended.
func (p *Peer) Write(b []byte) int {
	if p.closed || p.reset || p.vanished || p.c.in.fin {
		return 0
	}
	n := p.c.in.flight.push(b)
	if n > 0 {
		p.c.in.schedule()
		p.c.w.settle()
	}
	return n
}

// Writable is the number of bytes that Write would take.
func (p *Peer) Writable() int {
	if p.closed || p.reset || p.vanished || p.c.in.fin {
		return 0
	}
	return p.c.in.flight.room()
}

// Read takes up to len(b) bytes that arrived.
func (p *Peer) Read(b []byte) int {
	if p.closed || p.vanished {
		return 0
	}
	n := p.c.out.rcv.pop(b)
	if n > 0 {
		p.c.out.schedule()
		p.c.w.settle()
	}
	return n
}

// Readable is the number of bytes that arrived and were not read.
func (p *Peer) Readable() int {
	if p.closed || p.vanished {
		return 0
	}
	return p.c.out.rcv.n
}

// EOF tells that everything was read and the target has ended its direction
// in order; see Err for a reset.
func (p *Peer) EOF() bool { return p.c.out.ended && !p.reset && p.c.out.rcv.n == 0 }

// Err is nil while the connection is whole, ECONNRESET after a reset (bytes
// that arrived before can still be read) and EBADF after Close.
func (p *Peer) Err() error {
	switch {
	case p.closed:
		return syscall.EBADF
	case p.reset:
		return syscall.ECONNRESET
	}
	return nil
}

// WriteClosed tells that the initiator's direction has ended, by CloseWrite,
// Close or a half-close fault; bytes accepted by Write may have been dropped
// by the latter.
func (p *Peer) WriteClosed() bool { return p.c.in.fin || p.closed || p.reset }

// CloseWrite ends the initiator's direction after what was written.
func (p *Peer) CloseWrite() {
	if p.closed || p.reset || p.vanished {
		return
	}
	p.c.in.fin = true
	p.c.in.schedule()
	p.c.w.settle()
}

// Close closes the end as close(2) does: with unread bytes it is a Reset, else
// a CloseWrite after which arriving bytes are answered by a reset.
func (p *Peer) Close() {
	if p.closed || p.vanished {
		return
	}
	if p.c.out.rcv.n > 0 && !p.reset {
		p.Reset()
	}
	p.CloseWrite()
	p.closed = true
	p.c.out.rcv.clear()
	p.c.out.schedule()
	p.c.w.settle()
}

// Reset ends the connection with a RST. Any part of what is in flight to the
// target may still arrive before it.
func (p *Peer) Reset() {
	if p.reset || p.vanished {
		return
	}
	p.abort()
	p.c.w.settle()
}

func (p *Peer) abort() {
	p.reset = true
	p.c.out.stop()
	p.c.out.rcv.clear()
	p.c.in.rst = true
	p.c.in.schedule()
}

// Vanish takes the initiator off the network: nothing more arrives in either
// direction and nothing is acknowledged. The target finds out by its own
// timeouts (or TCP_USER_TIMEOUT).
func (p *Peer) Vanish() {
	if p.vanished {
		return
	}
	p.vanished = true
	p.c.w.unpost(&p.c.in.ev)
	p.c.w.unpost(&p.c.out.ev)
	p.c.out.schedule()
}
