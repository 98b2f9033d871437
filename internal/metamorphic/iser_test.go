package metamorphic

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
	"spindle/iser"
	"spindle/iser/isertest"
	"spindle/reactor/ring/simring"
	"spindle/verbs"
)

// iserTerms are what a session over iSER may negotiate: digests and segments are
// not its to choose.
var iserTerms = []terms{
	{"solicited", []string{"InitialR2T=Yes", "ImmediateData=No"}},
	{"immediate", []string{"InitialR2T=Yes", "ImmediateData=Yes", "FirstBurstLength=1536"}},
	{"immediate and unsolicited", []string{"InitialR2T=No", "ImmediateData=Yes", "FirstBurstLength=12288"}},
}

// overISER is a target in this goroutine that is reached by RDMA.
func overISER(t testing.TB, seed uint64) rig {
	g := isertest.New(t, isertest.Options{
		Target: iscsitest.Options{Seed: seed, LUNs: luns, World: simring.Config{Rand: rand.New(rand.NewPCG(seed, 3)), DiskLatency: 20 * time.Microsecond}},
		ISER:   iser.Options{Unsolicited: true}, Seed: seed,
	})
	closeFiles(t, g.Target)
	return rig{"iSER", iserTerms, func(lun uint16, m terms) (runner, func(), error) {
		c := &rdma{c: g.Dial().Login(m.keys...), lun: lun}
		c.immediate = c.c.Answered[pdu.KeyImmediateData] == pdu.ValueYes
		c.unsolicited = c.c.Answered[pdu.KeyInitialR2T] == pdu.ValueNo
		n, _ := pdu.ParseNumber([]byte(c.c.Answered[pdu.KeyFirstBurst]))
		c.firstBurst = uint32(n)
		return c, c.c.Vanish, takeAttentions(c)
	}}
}

// rdma is an initiator over iSER that runs commands one by one.
type rdma struct {
	c                      *isertest.Conn
	lun                    uint16
	immediate, unsolicited bool
	firstBurst             uint32
}

const (
	segment   = 8192 // of a PDU to the target
	untouched = 0xee
)

func (r *rdma) run(o op) (outcome, error) {
	b := r.c.Command(r.lun, o.dir, o.edtl, o.cdb...)
	var tags isertest.Tags
	var room isertest.Buffer // what the command advertises
	var sent, early uint32
	switch {
	case o.edtl == 0:
	case o.dir == pdu.FlagRead:
		room = r.c.Buffer(o.edtl, verbs.AccessRemoteWrite)
		for i := range room.Bytes() {
			room.Bytes()[i] = untouched
		}
		tags = isertest.Tags{Read: room.MR.RKey(), ReadA: uint64(room.Ref.Addr)}
	case o.dir == pdu.FlagWrite:
		if r.immediate {
			sent = min(o.edtl, r.firstBurst, segment)
		}
		if early = sent; r.unsolicited {
			early = min(o.edtl, r.firstBurst)
		}
		if early < o.edtl { // what is solicited
			room = r.c.Buffer(o.edtl-early, verbs.AccessRemoteRead)
			copy(room.Bytes(), o.out[early:])
			tags = isertest.Tags{Write: room.MR.RKey(), WriteA: uint64(room.Ref.Addr)}
		}
		if sent < early {
			b.SetFlags(b.Flags() &^ pdu.FlagFinal)
		}
	}
	itt := b.ITT()
	r.c.SendTags(tags, b, nil, o.out[:sent])
	for sn := uint32(0); sent < early; sn++ {
		n := min(segment, early-sent)
		r.c.Send(r.c.DataOutBHS(itt, pdu.ReservedTag, sn, sent, sent+n == early), nil, o.out[sent:sent+n])
		sent += n
	}
	f := r.c.Finish(itt)
	defer r.c.Release(room)
	res := outcome{status: f.Status, flags: f.Flags, residual: f.Residual, sense: string(f.Sense)}
	if tags.Read == 0 {
		return res, nil
	}
	moved := o.edtl
	if f.Flags&pdu.FlagUnderfl != 0 {
		moved -= f.Residual
	}
	for i, v := range room.Bytes()[moved:] {
		if v != untouched {
			return res, fmt.Errorf("byte %d is written of %d", int(moved)+i, moved)
		}
	}
	res.data = append(res.data, room.Bytes()[:moved]...)
	return res, nil
}
