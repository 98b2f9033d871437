package iser

import (
	"spindle/internal/invariants"
	"spindle/internal/plant"
	"spindle/iscsi"
	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/verbs"
)

// entry is a request in the send queue.
type entry struct {
	out    *iscsi.Out   // of a SEND
	fetch  *iscsi.Fetch // of an RDMA READ
	bounce mem.Ref      // arena copy of the data-in, freed with the entry
}

// sender queues PDUs and RDMA READs and posts them at the end of the turn.
//
// A send queue completes in the order posted, and a slot of it is free again
// only when a signalled completion at or behind it was polled (IBA 1.4
// §10.8.5.1): ring mirrors it, and of a turn's PDUs the last is signalled. An
// RDMA READ is signalled by itself. One slot is kept for the marker of the end.
type sender struct {
	c            *Conn
	head, tail   *iscsi.Out
	fHead, fTail *iscsi.Fetch

	ring        []entry
	first, last uint32     // of ring; they count on, the slot is the remainder
	outs        int        // PDUs in the ring
	reads       int        // RDMA READs outstanding
	since       clock.Time // of the last progress while there are requests in the ring

	unsignaled bool // the batch's last request is a PDU of ours, not signalled
	starved    bool // a copy found no memory
	probe      bool // see whether the peer is there
	draining   bool // the engine asked for Drained
	drained    bool // the marker has come: the send queue is empty
}

func (x *sender) open() {
	x.ring = make([]entry, min(x.c.caps.MaxSend, 1<<indexBits))
}

func (x *sender) used() int { return int(x.last - x.first) }

// room tells whether n more requests fit, the marker aside.
//
//spindle:hot
func (x *sender) room(n int) bool { return x.used()+n < len(x.ring) }

// Queue implements iscsi.Conn.
//
//spindle:hot
func (c *Conn) Queue(o *iscsi.Out) {
	x := &c.tx
	o.Next = nil
	if x.tail == nil {
		x.head = o
	} else {
		x.tail.Next = o
	}
	x.tail = o
	c.s.later(c)
}

// Respond implements iscsi.Conn.
//
//spindle:hot
func (c *Conn) Respond(p *iscsi.Reply) {
	p.Out.Reply = p
	p.SCSIResponse(0) // there are no Data-In PDUs
	c.Queue(&p.Out)
}

// Fetch implements iscsi.Conn.
//
//spindle:hot
func (c *Conn) Fetch(f *iscsi.Fetch) {
	x := &c.tx
	f.Next = nil
	if x.fTail == nil {
		x.fHead = f
	} else {
		x.fTail.Next = f
	}
	x.fTail = f
	c.s.later(c)
}

// Unfetch implements iscsi.Unfetcher: of f, no RDMA READ is posted any more.
func (c *Conn) Unfetch(f *iscsi.Fetch) bool {
	x := &c.tx
	var last *iscsi.Fetch
	for p := &x.fHead; *p != nil; last, p = *p, &(*p).Next {
		if *p == f {
			*p, f.Next = f.Next, nil
			if x.fTail == f {
				x.fTail = last
			}
			f.Data = f.Data.Slice(0, f.Done) // Fetched comes when that is there
			return f.Left == 0
		}
	}
	return false
}

// Stalled implements iscsi.Staller: a peer that has no receive for a message, and
// wants it to be sent again and again, takes nothing.
func (c *Conn) Stalled() clock.Time {
	if c.tx.used() == 0 {
		return 0
	}
	return c.tx.since
}

// Drain implements iscsi.Conn.
func (c *Conn) Drain() {
	c.tx.draining = true
	c.s.later(c)
}

// flush puts what is queued into the turn's batch.
//
//spindle:hot
func (x *sender) flush() {
	c := x.c
	for o := x.head; o != nil && (!c.quiet || plant.On(plant.EarlyPing)); o = x.head {
		x.starved = false
		if !x.put(o) {
			if x.starved {
				x.overtake()
			}
			break
		}
		x.head, o.Next = o.Next, nil
		if x.head == nil {
			x.tail = nil
		}
		if c.provisioned && !c.stream {
			// The final Login Response. Initiators post the receives of full feature
			// phase only when they have it, so nothing follows before they speak.
			c.quiet = true
		}
	}
	x.sign()
	x.read()
	if x.probe && x.room(1) {
		x.probe = false
		x.batch(1, 0).Send(verbs.SendWR{ID: x.claim(entry{}), QP: c.qph, Op: verbs.OpRDMAWrite, Flags: verbs.FlagSignaled})
	}
	if x.draining && x.head == nil && x.outs == 0 {
		x.draining = false
		c.h.Drained()
	}
}

// overtake posts responses of commands behind the first PDU, one that has to be
// copied and finds no memory, as far as they need none: they give theirs back.
// Among themselves such responses have no order, StatSN is theirs as they leave
// (RFC 7143 §4.2.2.2); behind any other PDU nothing is looked at.
//
//spindle:hot
func (x *sender) overtake() {
	last := x.head
	for o := last.Next; o != nil && o.Reply != nil; o = last.Next {
		if d := o.Reply.Data; !d.Empty() && x.c.dev.key(d.Region)&keyValid == 0 {
			last = o
			continue
		}
		if !x.put(o) {
			return
		}
		last.Next, o.Next = o.Next, nil
		if x.tail == o {
			x.tail = last
		}
	}
}

// sign has the last PDU of the batch announce itself and those before it.
//
//spindle:hot
func (x *sender) sign() {
	if x.unsignaled {
		if b := x.c.s.batch; !plant.On(plant.LostSignal) || x.last%16 != 7 {
			b.Sends[len(b.Sends)-1].Flags |= verbs.FlagSignaled
		}
		x.unsignaled = false
	}
}

// batch makes room for n more requests with k SGEs in all in the batch.
//
//spindle:hot
func (x *sender) batch(n, k int) *verbs.Batch {
	s := x.c.s
	if !s.batch.Room(n, 0, k) {
		x.sign()
		s.post()
	}
	return s.batch
}

// claim takes the next slot of the send queue and names it.
//
//spindle:hot
func (x *sender) claim(e entry) verbs.WRID {
	if x.first == x.last {
		x.since = x.c.r.Now()
	}
	i := x.last % uint32(len(x.ring))
	x.ring[i] = e
	x.last++
	return verbs.NewWRID(x.c.slot, x.c.gen, opSend<<indexBits|uint16(i))
}

// put posts a PDU, behind the data-in of its command if there is some. False:
// not now.
//
//spindle:hot
func (x *sender) put(o *iscsi.Out) bool {
	c, p := x.c, o.Reply
	var data, bounce mem.Ref
	writes := 0
	if p != nil && !p.Data.Empty() {
		data = p.Data
		if readSTag(&p.Cookie) == 0 {
			c.end(errNoSTag)
			return false
		}
		writes = int((data.Len-1)/c.maxMessage) + 1
	}
	if !x.room(writes + 1) {
		c.t.Stats.SendWaits.Add(1)
		return false // retired comes back here
	}
	if writes > 0 {
		ok := false
		if data, bounce, ok = x.reachable(data); !ok {
			return false
		}
		if !plant.On(plant.EarlyResponse) {
			x.write(p, data)
		}
	}
	op, key := verbs.OpSend, uint32(0)
	if p != nil && c.invalidate {
		if key = invalidates(&p.Cookie); key != 0 {
			op = verbs.OpSendInv
		}
	}
	x.send(o, op, key, bounce)
	if plant.On(plant.EarlyResponse) && writes > 0 {
		x.write(p, data)
	}
	return true
}

// invalidates is the STag that a command's response invalidates: of what it
// advertised, one.
//
//spindle:hot
func invalidates(k *iscsi.Cookie) uint32 {
	if plant.On(plant.WrongInvalidate) && readSTag(k) != 0 {
		return readSTag(k) + 1<<8
	}
	if r := readSTag(k); r != 0 {
		return r
	}
	return writeSTag(k)
}

// write posts the data-in of p as RDMA WRITEs.
//
//spindle:hot
func (x *sender) write(p *iscsi.Reply, data mem.Ref) {
	c := x.c
	lkey := c.localKey(data.Region)
	for off := uint32(0); off < data.Len; {
		n := min(data.Len-off, c.maxMessage)
		b := x.batch(1, 1)
		b.Send(verbs.SendWR{
			ID: x.claim(entry{}), QP: c.qph, Op: verbs.OpRDMAWrite,
			RemoteAddr: p.Cookie[1] + uint64(off), RKey: readSTag(&p.Cookie),
		}, verbs.SGE{Addr: uint64(data.Addr) + uint64(off), Len: n, LKey: lkey})
		off += n
		x.unsignaled = true
	}
}

// send posts the message of o.
//
//spindle:hot
func (x *sender) send(o *iscsi.Out, op verbs.Opcode, key uint32, bounce mem.Ref) {
	c := x.c
	c.seq.Stamp(o.BHS, o.Stamp)
	o.BHS.SetDataLen(o.Data.Len)
	invariants.Check(o.Data.Len <= MaxSendData || !c.stream || c.discovery, "iser: data segment longer than initiators receive")
	msg := o.Slot.Slice(slotHeader, headersLen)
	pdu.ISER(msg.Bytes()).Clear()
	total := msg.Len
	w := verbs.SendWR{ID: x.claim(entry{out: o, bounce: bounce}), QP: c.qph, Op: op, RKey: key}
	head := verbs.SGE{Addr: uint64(msg.Addr), Len: msg.Len, LKey: c.localKey(msg.Region)}
	pad := o.Slot.Slice(iscsi.SlotTrailer, -o.Data.Len&3)
	total += o.Data.Len + pad.Len
	if int(total) <= c.caps.MaxInline {
		w.Flags = verbs.FlagInline
	}
	b := x.batch(1, sendSGEs)
	switch {
	case o.Data.Empty():
		b.Send(w, head)
	case pad.Empty():
		b.Send(w, head, c.sge(o.Data))
	default:
		clear(pad.Bytes())
		b.Send(w, head, c.sge(o.Data), c.sge(pad))
	}
	x.unsignaled = true
	x.outs++
}

//spindle:hot
func (c *Conn) sge(b mem.Ref) verbs.SGE {
	return verbs.SGE{Addr: uint64(b.Addr), Len: b.Len, LKey: c.localKey(b.Region)}
}

// reachable returns data where the device can read it: in place, or copied when
// its region cannot be registered. False: not now.
//
//spindle:hot
func (x *sender) reachable(data mem.Ref) (at, bounce mem.Ref, ok bool) {
	c := x.c
	k := c.dev.key(data.Region)
	switch {
	case k&keyValid != 0:
		return data, bounce, true
	case k == keyNone:
		c.askKey(data.Region)
		return data, bounce, false
	}
	if bounce, ok = c.r.Arena.Alloc(data.Len); !ok {
		x.starved = true
		c.s.later(c)
		return data, bounce, false
	}
	c.t.Stats.Copies.Add(1)
	copy(bounce.Bytes(), data.Bytes())
	return bounce, bounce, true
}

// askKey has the control thread register a region; sigKeys follows.
func (c *Conn) askKey(region uint32) {
	d := c.dev
	if d.asked.Swap(true) {
		return
	}
	c.t.m.post(func() {
		d.asked.Store(false)
		if err := d.register(c.t.opt.Space.Region(region)); err != nil {
			c.t.log.Warn("memory not registered with the RDMA device: data in it will be copied", "device", d.name, "err", err)
		}
		for _, o := range d.conns {
			o.signal(sigKeys)
		}
	})
}

// read posts RDMA READs as far as the peer serves them: one more would hold up
// every request behind it.
//
//spindle:hot
func (x *sender) read() {
	c := x.c
	for f := x.fHead; f != nil; f = x.fHead {
		key := writeSTag(&f.Cookie)
		if key == 0 {
			c.end(errNoSTag)
			return
		}
		if x.reads >= c.depth && !(plant.On(plant.ReadLimit) && x.reads == c.depth) {
			c.t.Stats.ReadWaits.Add(1)
			return
		}
		if !x.room(1) {
			c.t.Stats.SendWaits.Add(1)
			return
		}
		n := min(f.Data.Len-f.Done, c.maxMessage)
		// The peer's buffer begins behind what came with the command, unless it
		// said otherwise: so initiators mean it, whatever RFC 7145 §6.9 has as default.
		at := f.Cookie[2]
		if !plant.On(plant.WrongOffset) {
			at += uint64(f.Done)
		}
		if c.params.WholeBuffer {
			at += uint64(f.Offset)
		}
		b := x.batch(1, 1)
		b.Send(verbs.SendWR{
			ID: x.claim(entry{fetch: f}), QP: c.qph, Op: verbs.OpRDMARead, Flags: verbs.FlagSignaled,
			RemoteAddr: at, RKey: key,
		}, c.sge(f.Data.Slice(f.Done, n)))
		x.reads++
		f.Left++
		if f.Done += n; f.Done == f.Data.Len {
			x.fHead = f.Next
			if x.fHead == nil {
				x.fTail = nil
			}
			if plant.On(plant.EarlyFetched) {
				c.h.Fetched(f)
			}
		}
	}
}

// sent takes the completion of the request in slot i, and of all before it.
//
//spindle:hot
func (x *sender) sent(i uint16) {
	c := x.c
	x.since = c.r.Now()
	for x.first != x.last {
		k := x.first % uint32(len(x.ring))
		e := x.ring[k]
		x.ring[k] = entry{}
		x.first++
		x.retire(&e)
		if k == uint32(i) {
			break
		}
	}
	if x.head != nil || x.fHead != nil || x.draining {
		c.s.later(c)
	}
}

// retire gives back what a request held.
//
//spindle:hot
func (x *sender) retire(e *entry) {
	c := x.c
	if !e.bounce.Empty() {
		c.r.Arena.Free(e.bounce)
	}
	if o := e.out; o != nil {
		x.outs--
		if o.Done != nil {
			o.Done.OutSent(o)
		}
	}
	if f := e.fetch; f != nil {
		x.reads--
		if f.Left--; f.Left == 0 && f.Done == f.Data.Len && !plant.On(plant.EarlyFetched) {
			c.h.Fetched(f)
		}
	}
}

// mark posts the marker behind everything in the send queue: its completion
// tells that the queue is empty.
// Preconditions: the queue pair is in the error state.
func (x *sender) mark() {
	c := x.c
	if x.used() == 0 {
		x.drained = true
		return
	}
	x.batch(1, 0).Send(verbs.SendWR{ID: verbs.NewWRID(c.slot, c.gen, opMark<<indexBits), QP: c.qph, Flags: verbs.FlagSignaled})
	c.s.post()
}

// drop hands back everything, at the end of the connection.
func (x *sender) drop() {
	for x.first != x.last {
		k := x.first % uint32(len(x.ring))
		e := x.ring[k]
		x.ring[k] = entry{}
		x.first++
		e.fetch = nil // Closed answers it
		x.retire(&e)
	}
	for o := x.head; o != nil; {
		next := o.Next
		o.Next = nil
		if o.Reply != nil {
			o.Reply.Unsent = true
		}
		if o.Done != nil {
			o.Done.OutSent(o)
		}
		if o.Reply != nil {
			o.Reply.Unsent = false
		}
		o = next
	}
	x.head, x.tail, x.fHead, x.fTail, x.reads = nil, nil, nil, nil, 0
}
