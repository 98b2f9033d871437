package login

import (
	"net/netip"
	"strconv"
	"strings"

	"spindle/iscsi/pdu"
)

// Target is a record of a SendTargets answer.
type Target struct {
	Name    string
	Portals []Portal
}

// Portal is an address of a target: wildcards are already replaced by an
// address the initiator can reach.
type Portal struct {
	Addr netip.AddrPort
	Tag  uint16 // portal group tag
}

// Directory lists the targets that an initiator may see.
type Directory interface {
	// Targets returns the target of that name, or all when name is "".
	Targets(name string) []Target
}

// WriteTargets writes the records of a SendTargets answer (RFC 7143 appendix
// C). No TargetAlias: libiscsi gives up on any key it does not expect here.
func WriteTargets(w *pdu.TextWriter, targets []Target) {
	for _, t := range targets {
		w.Add(pdu.KeyTargetName, t.Name)
		for _, p := range t.Portals {
			// A zone means something on this machine only.
			addr := netip.AddrPortFrom(p.Addr.Addr().Unmap().WithZone(""), p.Addr.Port())
			w.Add(pdu.KeyTargetAddress, addr.String()+","+strconv.Itoa(int(p.Tag)))
		}
	}
}

// TextExchange is the target's side of the Text Requests of a connection in
// full feature phase: one exchange at a time, each of one or more requests and
// responses under one tag (RFC 7143 §11.10).
type TextExchange struct {
	directory Directory
	discovery bool
	own       string // the session's target
	rdma      bool
	// maxSend bounds a response's data segment, in bytes: the smaller of the
	// initiator's declaration and the transport's bound.
	maxSend, bound uint32

	active   bool
	itt, ttt uint32
	requests uint32
	limit    uint32 // of requests in an exchange
	text     []byte // of requests with the C bit
	out      []byte // what is left of the answer
	seen     keySet
	pending  uint32 // MaxRecvDataSegmentLength declared in this exchange, 0 none
}

// NewText makes the text exchange of a connection that logged in with r. bound
// is the longest data segment the transport sends, in bytes; 0 means that the
// initiator's declaration alone decides.
func NewText(r *Result, d Directory, bound uint32) *TextExchange {
	t := &TextExchange{directory: d, discovery: r.Discovery, own: r.TargetName, rdma: r.RDMAExtensions, bound: bound, limit: MaxRequests}
	t.setMaxSend(r.MaxSendData)
	return t
}

func (t *TextExchange) setMaxSend(n uint32) {
	t.maxSend = n
	if t.bound != 0 {
		t.maxSend = min(n, t.bound)
	}
}

// SetMaxRequests bounds the Text Requests of an exchange, MaxRequests otherwise.
func (t *TextExchange) SetMaxRequests(n uint32) { t.limit = n }

// MaxSendData is the longest data segment to send, in bytes: it follows the
// initiator's redeclarations.
func (t *TextExchange) MaxSendData() uint32 { return t.maxSend }

// TextReply is the answer to a Text Request.
type TextReply struct {
	// Reject, when not 0, is the reason of a Reject PDU to send instead.
	Reject uint8
	Flags  byte // F, C
	LUN    uint64
	ITT    uint32
	TTT    uint32
	Data   []byte // valid until the next Step
}

// Encode writes the Text Response's header to b: all but StatSN, ExpCmdSN and
// MaxCmdSN. Preconditions: Reject is 0.
func (r *TextReply) Encode(b pdu.BHS) {
	b.Clear(pdu.TextResponse)
	b.SetFlags(r.Flags)
	b.SetDataLen(uint32(len(r.Data)))
	b.SetLUN(r.LUN)
	b.SetITT(r.ITT)
	b.SetTTT(r.TTT)
}

// Step answers one Text Request: its header and its data segment without padding.
func (t *TextExchange) Step(b pdu.BHS, data []byte) TextReply {
	if b.Final() && b.Continue() {
		return t.reject(pdu.RejectProtocol)
	}
	if b.TTT() == pdu.ReservedTag {
		// A new exchange; what was left of another is forgotten (RFC 7143 §11.10.4).
		t.end()
		t.active, t.itt = true, b.ITT()
	} else if !t.active || b.TTT() != t.ttt || b.ITT() != t.itt {
		return t.reject(pdu.RejectProtocol)
	}
	if len(t.out) > 0 {
		if len(data) != 0 || b.Continue() {
			return t.reject(pdu.RejectProtocol)
		}
		return t.respond(b)
	}
	if t.requests++; t.requests > t.limit || len(t.text)+len(data) > MaxText {
		return t.reject(pdu.RejectResources)
	}
	text := data
	if b.Continue() || len(t.text) > 0 {
		t.text = append(t.text, data...)
		text = t.text
	}
	if b.Continue() {
		return t.reply(b, 0)
	}
	t.text = nil
	if reason := t.answer(text); reason != 0 {
		return t.reject(reason)
	}
	return t.respond(b)
}

// respond sends the next piece of the answer. The last one ends the exchange
// when the initiator has nothing to add.
func (t *TextExchange) respond(b pdu.BHS) TextReply {
	var r TextReply
	switch {
	case uint32(len(t.out)) > t.maxSend:
		r = t.reply(b, pdu.FlagContinue)
		r.Data, t.out = t.out[:t.maxSend:t.maxSend], t.out[t.maxSend:]
	case !b.Final():
		r = t.reply(b, 0)
		r.Data, t.out = t.out, nil
	default:
		r = TextReply{Flags: pdu.FlagFinal, LUN: b.LUN(), ITT: b.ITT(), TTT: pdu.ReservedTag, Data: t.out}
		if t.pending != 0 {
			t.setMaxSend(t.pending)
		}
		t.end()
	}
	return r
}

// reply is a response that leaves the exchange open, under a new tag.
func (t *TextExchange) reply(b pdu.BHS, flags byte) TextReply {
	if t.ttt++; t.ttt == pdu.ReservedTag {
		t.ttt = 0
	}
	return TextReply{Flags: flags, LUN: b.LUN(), ITT: b.ITT(), TTT: t.ttt}
}

func (t *TextExchange) reject(reason uint8) TextReply {
	t.end()
	return TextReply{Reject: reason}
}

func (t *TextExchange) end() {
	t.active, t.requests, t.text, t.out, t.seen, t.pending = false, 0, nil, nil, 0, 0
}

// answer puts what there is to say to a whole text into t.out. It returns a
// Reject reason, 0 for none.
func (t *TextExchange) answer(text []byte) uint8 {
	w := pdu.NewTextWriter(nil, MaxTextReply)
	it := pdu.ParseText(text)
	for pairs := 0; it.Next(); pairs++ {
		if pairs == MaxPairs {
			return pdu.RejectResources
		}
		k, known := findKey(it.Key())
		switch {
		case !known:
			if !isConstant(it.Value()) {
				w.Add(string(it.Key()), pdu.ValueNotUnderstood)
			}
			continue
		case t.seen.has(k):
			return pdu.RejectProtocol
		}
		t.seen.add(k)
		switch {
		case keys[k].where&inFullFeature == 0:
			w.Add(keys[k].name, pdu.ValueReject)
		case k == kSendTargets:
			t.sendTargets(&w, string(it.Value()))
		case k == kMaxRecvData:
			n, ok := number(k, it.Value())
			switch {
			case t.rdma:
				w.Add(keys[k].name, pdu.ValueIrrelevant)
			case !ok:
				w.Add(keys[k].name, pdu.ValueReject)
			default:
				t.pending = n
			}
		}
	}
	switch {
	case it.Err() != nil:
		return pdu.RejectProtocol
	case w.Overflowed():
		return pdu.RejectResources
	}
	t.out = w.Bytes()
	return 0
}

// sendTargets answers SendTargets (RFC 7143 appendix C): All belongs to
// discovery sessions, a normal session sees the target it is logged in to.
func (t *TextExchange) sendTargets(w *pdu.TextWriter, which string) {
	name := strings.ToLower(which)
	switch {
	case t.discovery && which == "All":
		WriteTargets(w, t.directory.Targets(""))
	case t.discovery && which != "":
		WriteTargets(w, t.directory.Targets(name))
	case !t.discovery && (which == "" || name == t.own):
		WriteTargets(w, t.directory.Targets(t.own))
	default:
		w.Add(pdu.KeySendTargets, pdu.ValueReject)
	}
}
