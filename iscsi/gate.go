package iscsi

import (
	"net/netip"
	"sync"
	"time"

	"spindle/internal/plant"
	"spindle/reactor/clock"
)

const (
	// maxIdlePeers is how many addresses without a connection are remembered, for
	// their rate and their back-off; beyond it the one idle longest is forgotten.
	maxIdlePeers = 1024
	// loginBurst is how many seconds' worth of MaxLoginsPerSecond may come at once,
	// as they do when a host starts.
	loginBurst = 4
	// freeCHAPFailures is how many times in a row an address may fail CHAP before
	// it is made to wait.
	freeCHAPFailures = 5
)

// peer is what the gate knows of an address.
type peer struct {
	key      netip.Prefix
	conns    int // connections
	pending  int // of them not yet in full feature phase
	credit   time.Duration
	filled   clock.Time // when credit was last topped up
	failures uint32     // of CHAP, in a row
	until    clock.Time // no connection is taken before
}

// gate bounds what one address may have and do before it has proven anything.
// It is asked once when a connection comes, and told when it is in full feature
// phase and when it goes: connections of an address are spread over reactors, so
// it is the one place of the engine's data path behind a mutex.
type gate struct {
	mu    sync.Mutex // guards what follows
	peers map[netip.Prefix]*peer
	idle  []*peer // those without a connection, idle longest first
}

// peerKey is what counts as one address: of IPv6 a /64, all of which one host
// may use.
func peerKey(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // no error: bits fits
	return p
}

// enter takes a connection of an address, or says which limit it is beyond.
// Full says that the address has all the logins in progress that it may: one of
// them must go.
func (g *gate) enter(a netip.Addr, now clock.Time, o *Options) (p *peer, beyond limit, full bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := peerKey(a)
	if p = g.peers[key]; p == nil {
		p = &peer{key: key, credit: loginBurst * time.Second, filled: now}
	}
	beyond = numLimits
	switch {
	case now < p.until:
		beyond = limitCHAPBackoff
	case !p.spend(now, o.MaxLoginsPerSecond):
		beyond = limitLoginRate
	case o.MaxConnsPerAddress > 0 && p.conns >= int(o.MaxConnsPerAddress):
		beyond = limitConnections
	}
	if beyond != numLimits {
		return nil, beyond, false
	}
	if p.conns == 0 {
		g.drop(p)
		g.peers[key] = p
	}
	full = o.MaxPendingPerAddress > 0 && p.pending >= int(o.MaxPendingPerAddress)
	p.conns++
	p.pending++
	return p, beyond, full
}

// spend takes one login from the address's allowance of rate a second; 0 is no
// limit.
func (p *peer) spend(now clock.Time, rate uint32) bool {
	if rate == 0 {
		return true
	}
	p.credit = min(p.credit+now.Sub(p.filled), loginBurst*time.Second)
	p.filled = now
	cost := time.Second / time.Duration(rate)
	if p.credit < cost {
		return false
	}
	p.credit -= cost
	return true
}

// settled: a login of p is no longer in progress.
func (g *gate) settled(p *peer) {
	g.mu.Lock()
	p.pending--
	g.mu.Unlock()
}

// leave takes a connection of p away.
func (g *gate) leave(p *peer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.conns--; p.conns > 0 {
		return
	}
	g.idle = append(g.idle, p)
	if len(g.idle) > maxIdlePeers {
		delete(g.peers, g.idle[0].key)
		g.idle = append(g.idle[:0], g.idle[1:]...)
	}
}

// drop takes p off the idle list, if it is on it.
func (g *gate) drop(p *peer) {
	for i, q := range g.idle {
		if q == p {
			g.idle = append(g.idle[:i], g.idle[i+1:]...)
			return
		}
	}
}

// failed counts a failure of CHAP: from the sixth in a row on the address waits
// a second, two, four, up to most seconds; 0 never.
func (g *gate) failed(p *peer, now clock.Time, most uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.failures++; p.failures <= freeCHAPFailures || most == 0 || plant.On(plant.UnlimitedGuesses) {
		return
	}
	wait := most
	if n := p.failures - freeCHAPFailures - 1; n < 16 {
		wait = min(most, 1<<n)
	}
	p.until = now.Add(seconds(wait))
}

// passed forgets the failures of an address that has authenticated.
func (g *gate) passed(p *peer) {
	g.mu.Lock()
	p.failures, p.until = 0, 0
	g.mu.Unlock()
}
