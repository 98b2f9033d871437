package scsi

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"spindle/internal/plant"
	"spindle/reactor"
)

// Store keeps over power loss what initiators have told a unit to keep:
// persistent reservations (APTPL, SPC-5 §5.14.5), saved mode parameters and
// identifying information (settings.go). It is an edge: both methods may block
// and are called off the reactors.
type Store interface {
	// Load returns what was saved last for the unit called name; nil: nothing.
	Load(name string) ([]byte, error)
	// Save keeps data, durably when it returns; nil forgets.
	Save(name string, data []byte) error
}

// ErrReservations is returned for a unit whose kept reservations cannot be read:
// to go on without them would let in those they keep out.
var ErrReservations = errors.New("scsi: kept reservations are not readable")

// Persist has units that are added from now on keep what they are told to in
// store. Without it, APTPL, saved pages and identifying information are refused.
func (d *Device) Persist(store Store, off reactor.Offload) { d.store, d.offload = store, off }

// kept is how reservations are written down.
type kept struct {
	Version     int         `json:"version"`
	Type        prType      `json:"type,omitempty"` // 0: nobody holds a reservation
	Holder      int         `json:"holder"`         // index in Registrants; -1: all or none
	Registrants []keptNexus `json:"registrants"`
}

type keptNexus struct {
	Initiator string `json:"initiator"`
	ISID      string `json:"isid"`
	Target    string `json:"target"`
	Port      uint16 `json:"port"`
	Key       string `json:"key"`
}

const keptVersion = 1

// encode writes p down.
func (p *reservations) encode() []byte {
	k := kept{Version: keptVersion, Holder: -1, Registrants: []keptNexus{}}
	for i, r := range p.regs {
		k.Registrants = append(k.Registrants, keptNexus{
			Initiator: r.id.InitiatorName, ISID: hex.EncodeToString(r.id.ISID[:]),
			Target: r.id.TargetName, Port: r.id.RelativePort, Key: fmt.Sprintf("%016x", r.key),
		})
		if p.held && !p.kind.all() && r.id == p.holder {
			k.Holder = i
		}
	}
	if p.held {
		k.Type = p.kind
	}
	b, err := json.Marshal(k)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return b
}

// decodeReservations reads what encode wrote. PRGENERATION starts at 0
// (SPC-5 §5.14.5).
func decodeReservations(data []byte) (*reservations, error) {
	var k kept
	if err := json.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrReservations, err)
	}
	if k.Version != keptVersion || len(k.Registrants) > MaxRegistrants {
		return nil, fmt.Errorf("%w: version %d, %d registrants", ErrReservations, k.Version, len(k.Registrants))
	}
	p := &reservations{aptpl: true}
	for _, n := range k.Registrants {
		r := registrant{id: NexusID{InitiatorName: n.Initiator, TargetName: n.Target, TPGT: n.Port, RelativePort: n.Port}}
		isid, err := hex.DecodeString(n.ISID)
		key, err2 := hex.DecodeString(n.Key)
		if err != nil || err2 != nil || len(isid) != len(r.id.ISID) || len(key) != 8 {
			return nil, fmt.Errorf("%w: registrant %q", ErrReservations, n.Initiator)
		}
		copy(r.id.ISID[:], isid)
		r.key = be.Uint64(key)
		if p.find(r.id) >= 0 {
			return nil, fmt.Errorf("%w: registrant %q twice", ErrReservations, n.Initiator)
		}
		p.regs = append(p.regs, r)
	}
	if k.Type == 0 {
		return p, nil
	}
	p.held, p.kind = true, k.Type
	if !k.Type.valid() || k.Type.all() != (k.Holder < 0) || k.Holder >= len(p.regs) || len(p.regs) == 0 {
		return nil, fmt.Errorf("%w: type %d, holder %d", ErrReservations, k.Type, k.Holder)
	}
	if k.Holder >= 0 {
		p.holder = p.regs[k.Holder].id
	}
	return p, nil
}

// storeName is what the unit is called in the store. It does not change when
// the unit moves to another LUN.
func (lu *LogicalUnit) storeName() string {
	return lu.dev.name + "," + hex.EncodeToString(lu.ident.naa[:])
}

// restore loads the reservations and settings of a new unit. No view reads its
// snapshot yet.
func (lu *LogicalUnit) restore(c reactor.Caller) error {
	store := lu.dev.store
	if store == nil {
		return nil
	}
	var pr, set []byte
	var err, err2 error
	c.Block(func() {
		pr, err = store.Load(lu.storeName())
		set, err2 = store.Load(lu.storeName() + settingsSuffix)
	})
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrReservations, err)
	case err2 != nil:
		return fmt.Errorf("%w: %w", ErrSettings, err2)
	}
	s := lu.current
	if pr != nil {
		if s.pr, err = decodeReservations(pr); err != nil {
			return err
		}
	}
	if set != nil {
		if s.kept, err = decodeSettings(set); err != nil {
			return err
		}
		if plant.On(plant.IdentityUnkept) {
			s.kept.number, s.kept.text = nil, nil
		}
		if !plant.On(plant.ModesUnkept) {
			lu.setMode(s, s.savedMode())
		}
	}
	return nil
}

// saving is a round that waits for the store. No other round runs meanwhile, and
// the change is made only when it is durable.
type saving struct {
	name string
	data []byte
	err  error
	msg  reactor.Msg
}

// save starts to keep what round r wants kept.
func (lu *LogicalUnit) save(r *round) {
	s := &lu.saving
	if s.msg.Run == nil {
		s.msg.Run = func(*reactor.Reactor) { lu.saved() }
	}
	s.name, s.data, s.err = lu.storeName()+r.saveAs, r.save, nil
	lu.round = r
	store := lu.dev.store
	lu.dev.offload.Go(func() { s.err = store.Save(s.name, s.data) }, lu.homeView().r, &s.msg)
}

// saved makes the change, or fails the command that wanted it.
func (lu *LogicalUnit) saved() {
	r, s := lu.round, &lu.saving
	s.data = nil
	if s.err != nil {
		r.call.task.fail(HardwareError, InternalTargetFailure)
		*r = round{call: r.call, except: r.except}
	}
	lu.start(r)
	lu.next()
}
