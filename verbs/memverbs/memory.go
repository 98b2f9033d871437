package memverbs

import (
	"fmt"

	"spindle/internal/sys"
	"spindle/reactor/mem"
	"spindle/verbs"
)

type domain struct {
	dev    *device
	users  int // regions and queue pairs
	closed bool
}

func (d *domain) Device() verbs.Device { return d.dev }

func (d *domain) Close() error {
	if d.users > 0 {
		return fmt.Errorf("protection domain: %w", verbs.ErrBusy)
	}
	if !d.closed {
		d.closed = true
		d.dev.users--
		d.dev.node.live.PDs--
	}
	return nil
}

func (d *domain) Register(r *mem.Region) (verbs.MR, error) {
	if d.dev.info.Transport == verbs.TransportIWARP {
		return nil, verbs.ErrIWARP
	}
	return d.register(uint64(r.Base), r.Len, 0)
}

func (d *domain) RegisterRemote(m mem.Ref, access verbs.Access) (verbs.MR, error) {
	return d.register(uint64(m.Addr), uint64(m.Len), access)
}

func (d *domain) register(addr, n uint64, access verbs.Access) (*MR, error) {
	if err := d.dev.usable(); err != nil {
		return nil, err
	}
	if d.dev.node.MemlockLimit > 0 && d.dev.node.locked+n > d.dev.node.MemlockLimit {
		return nil, fmt.Errorf("memory region of %d bytes: %w", n, verbs.ErrMemlock)
	}
	r := &MR{pd: d, addr: addr, len: n, access: access, valid: true}
	dev := d.dev
	r.index = uint32(len(dev.regions))
	dev.regions = append(dev.regions, r)
	r.key = r.index<<8 | dev.w.rng.Uint32()&0xff
	d.users++
	dev.node.locked += n
	dev.node.live.MRs++
	return r, nil
}

// MR is a memory region; beyond verbs.MR it can be registered anew, as a fast
// registration does after an invalidation.
type MR struct {
	pd     *domain
	addr   uint64
	len    uint64
	access verbs.Access
	index  uint32
	key    uint32
	valid  bool // for the peer
	closed bool
}

func (r *MR) LKey() uint32 { return r.key }
func (r *MR) RKey() uint32 { return r.key }

// Renew makes the region valid for the peer again, under a new key.
func (r *MR) Renew() uint32 {
	r.key = r.key&^0xff | (r.key+1)&0xff
	r.valid = true
	return r.key
}

// Valid tells whether the peer may use the key.
func (r *MR) Valid() bool { return r.valid }

// Close gives the registration back.
func (r *MR) Close() error {
	if !r.closed {
		r.closed = true
		r.pd.dev.regions[r.index] = nil
		r.pd.users--
		r.pd.dev.node.locked -= r.len
		r.pd.dev.node.live.MRs--
	}
	return nil
}

// region finds the region of a key in a domain; nil if there is none.
func (d *domain) region(key uint32) *MR {
	i := int(key >> 8)
	if i >= len(d.dev.regions) {
		return nil
	}
	if r := d.dev.regions[i]; r != nil && r.pd == d && r.key == key {
		return r
	}
	return nil
}

// local tells whether each of sges lies in a registered region, and how long they are.
func (d *domain) local(sges []verbs.SGE) (total uint64, ok bool) {
	for _, s := range sges {
		r := d.region(s.LKey)
		if r == nil || !r.spans(s.Addr, uint64(s.Len)) {
			return 0, false
		}
		total += uint64(s.Len)
	}
	return total, true
}

// remote tells whether the peer may access n bytes at addr under key.
func (d *domain) remote(key uint32, addr, n uint64, access verbs.Access) bool {
	if n == 0 {
		return true // IBA 1.4 §9.7.4.2.2: nothing is checked
	}
	r := d.region(key)
	return r != nil && r.valid && r.access&access != 0 && r.spans(addr, n)
}

func (r *MR) spans(addr, n uint64) bool {
	return addr >= r.addr && addr-r.addr <= r.len && n <= r.len-(addr-r.addr)
}

// copySGEs moves n bytes from one list of spans to another, both checked.
func copySGEs(dst, src []verbs.SGE, n uint64) {
	var di, si int
	var do, so uint32
	for n > 0 {
		switch {
		case do == dst[di].Len:
			di, do = di+1, 0
			continue
		case so == src[si].Len:
			si, so = si+1, 0
			continue
		}
		m := uint32(min(uint64(dst[di].Len-do), uint64(src[si].Len-so), n))
		copy(sys.Bytes(uintptr(dst[di].Addr)+uintptr(do), m), sys.Bytes(uintptr(src[si].Addr)+uintptr(so), m))
		do, so, n = do+m, so+m, n-uint64(m)
	}
}
