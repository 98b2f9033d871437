package iscsi

import (
	"net/netip"
	"slices"

	"spindle/internal/plant"
	"spindle/iscsi/login"
	"spindle/iscsi/pdu"
	"spindle/reactor/mem"
)

// loginState is what a connection needs until full feature phase.
type loginState struct {
	m       *login.Machine
	buf     mem.Ref // request data, then response data
	started bool
	done    bool // the final response is on its way
	sent    bool // it has left
	reply   login.Reply
	bhs     [pdu.HeaderLen]byte // of the request that led to Done
}

// drop gives the login's memory back.
func (l *loginState) drop(c *Connection) {
	if !l.buf.Empty() {
		c.sh.free(l.buf)
		l.buf = mem.Ref{}
	}
}

// startLogin readies the connection for its login dialogue.
func (c *Connection) startLogin() {
	l := &loginState{m: login.New(c)}
	if n := c.e.inventory.Load().opt.MaxTextRounds; n > 0 {
		l.m.SetMaxRequests(n)
	}
	l.buf, _ = c.sh.r.Arena.Alloc(2 * login.MaxPDUData)
	c.login = l
}

// loginHeader places the data of a Login Request. Anything else ends the login
// with a response, and what follows it is not read (RFC 7143 §6.3).
func (c *Connection) loginHeader(p *PDU) {
	l := c.login
	if l.buf.Empty() {
		p.Close = errNoMemory
		return
	}
	if p.BHS.Opcode() != pdu.LoginRequest || p.BHS.DataLen() > login.MaxPDUData {
		c.sendLogin(l.m.Step(p.BHS, nil))
		p.Stop = true
		return
	}
	p.Data = l.buf.Slice(0, login.MaxPDUData)
}

// loginReceived feeds the login machine.
func (c *Connection) loginReceived(p *PDU) {
	l := c.login
	if !l.started {
		l.started = true
		c.seq.StatSN = p.BHS.ExpStatSN()
	}
	*c.seq.Window = Window{ExpCmdSN: p.BHS.CmdSN(), MaxCmdSN: p.BHS.CmdSN()}
	r := l.m.Step(p.BHS, l.buf.Slice(0, p.BHS.DataLen()).Bytes())
	if r.Verdict != login.Done {
		c.sendLogin(r)
		return
	}
	l.reply = r
	copy(l.bhs[:], p.BHS)
	c.register()
}

// sendLogin queues a Login Response; loginSent follows when it has left.
func (c *Connection) sendLogin(r login.Reply) {
	l := c.login
	l.done = r.Verdict == login.Done
	c.withOut(func(o *Out) {
		r.Encode(o.BHS)
		if n := uint32(len(r.Data)); n > 0 {
			o.Data = l.buf.Slice(login.MaxPDUData, n)
			copy(o.Data.Bytes(), r.Data)
		}
		o.Stamp = StampNext
		c.tp.Queue(o)
	})
	if r.Verdict == login.Failed {
		c.judged(r.Status)
		c.refused = true
		c.loginTally().logins[loginEnd(r.Status)]++
		id := l.m.Identity()
		c.e.chat(c.sh.r.Now(), "login refused", "peer", c.peer, "initiator", id.InitiatorName, "node", id.TargetName, "status", r.Status, "why", r.Reason)
		c.closeAfterSend(errProtocol)
		return
	}
	c.tp.Drain()
}

// judged counts why a login failed.
func (c *Connection) judged(status pdu.LoginStatus) {
	e, now := c.e, c.sh.r.Now()
	switch {
	case c.login.m.TooMany():
		e.reached(limitTextRounds, now, "peer", c.peer)
	case status == pdu.LoginMovedTemporarily:
		e.Stats.Redirects.Add(1)
	case status == pdu.LoginAuthFailed:
		e.Stats.CHAPFailures.Add(1)
		e.gate.failed(c.gatePeer, now, e.inventory.Load().opt.CHAPBackoff)
	}
}

// loginSent goes on when a Login Response has left.
func (c *Connection) loginSent() {
	if !c.login.done {
		c.tp.NextLogin()
		return
	}
	c.login.sent = true
	c.enter()
}

// register makes the session known before the final response says it exists.
func (c *Connection) register() {
	l := c.login
	res := l.m.Result()
	inv := c.e.inventory.Load()
	s := &Session{
		e: c.e, initiator: res.InitiatorName, alias: res.InitiatorAlias, isid: res.ISID,
		params: sessionParams{
			initialR2T: res.InitialR2T, immediateData: res.ImmediateData,
			firstBurst: res.FirstBurst, maxBurst: res.MaxBurst,
			maxOutstandingR2T: res.MaxOutstandingR2T, maxConnections: uint16(res.MaxConnections),
			time2Wait: uint16(res.Time2Wait), time2Retain: uint16(res.Time2Retain),
			wholeBuffer: res.TaggedBufferWhole, errorRecoveryLevel: uint8(res.ERL),
		},
	}
	s.fastAbort = res.TaskReporting == login.FastAbort
	c.cid, c.joins = res.CID, res.TSIH != 0
	c.headerDigest, c.dataDigest = res.HeaderDigest, res.DataDigest
	c.maxSendData, c.maxRecvData = res.MaxSendData, res.MaxRecvData
	s.depth, s.transport, s.local = 1, c.tp.Traits().Name, c.local
	s.user = res.CHAPUser
	if !res.Discovery {
		s.node = inv.node(res.TargetName)
		if s.node == nil {
			c.refuse(pdu.LoginTargetRemoved, "target removed")
			return
		}
		s.depth = s.node.depth(&inv.opt)
	}
	c.e.registry.register(c, s, res.TSIH)
}

// refuse ends a login that the machine had found good.
func (c *Connection) refuse(status pdu.LoginStatus, why string) {
	c.sendLogin(c.login.m.Refuse(c.login.bhs[:], status, why))
}

// registered takes the registry's answer; w is the window of the session that
// the connection may join. Preconditions: runs on the connection's reactor.
func (c *Connection) registered(s *Session, w Window, status pdu.LoginStatus, why string) {
	c.asks = nil
	if c.phase == phaseDead {
		if status == pdu.LoginSuccess {
			c.unregister(s)
		}
		return
	}
	if status != pdu.LoginSuccess {
		c.refuse(status, why)
		return
	}
	if err := c.tp.Provision(c.transportParams(s)); err != nil {
		c.unregister(s)
		c.refuse(pdu.LoginOutOfResources, err.Error())
		return
	}
	c.sess = s
	if c.joins {
		*c.seq.Window = w // a copy: the session's own belongs to its reactor
	} else {
		sn := c.seq.Window.ExpCmdSN
		s.window = Window{ExpCmdSN: sn, MaxCmdSN: sn - 1}
		s.window.advertise(s.depth)
		c.seq.Window = &s.window
	}
	c.login.reply.TSIH = s.tsih
	c.sendLogin(c.login.reply)
}

// unregister gives up the place that the registry gave.
func (c *Connection) unregister(s *Session) {
	if c.joins {
		s.unjoin(c, false)
		return
	}
	c.e.registry.leave(s)
}

// enter takes the connection to its session's reactor, and there into full
// feature phase.
func (c *Connection) enter() {
	sh, r := c.sh, c.sess.reactor()
	c.e.Stats.Logins.Add(1)
	sh.r.Disarm(&c.nop)
	sh.unpend(c)
	c.settle()
	if c.login.m.Authenticated() {
		c.e.gate.passed(c.gatePeer)
	}
	c.login.drop(c)
	if r == sh.r {
		c.fullFeature()
		return
	}
	sh.remove(c)
	sh.free(c.slots)
	c.slots = mem.Ref{}
	c.phase = phaseMoving
	c.tp.Move(r, func(err error) {
		c.e.shards[r.ID].add(c)
		if err == nil && !c.bindOuts() {
			err = errNoMemory
			c.tp.Close(err) // Closed follows
			return
		}
		if err != nil {
			c.Closed(err)
			return
		}
		c.fullFeature()
	})
}

// fullFeature opens the session, or joins it. Preconditions: runs on the
// session's reactor.
func (c *Connection) fullFeature() {
	s, sh := c.sess, c.sh
	if s.killed || s.ending {
		c.tp.Close(errReinstated)
		return
	}
	if !c.joins {
		if err := s.populate(sh, s.depth); err != nil {
			c.tp.Close(errNoMemory)
			return
		}
		if s.node != nil {
			s.nexus = s.node.newNexus(sh.r, s, c)
			if s.fastAbort {
				s.nexus.OnAbort = terminating
			}
		}
		if s.params.errorRecoveryLevel > 0 {
			s.rec = newRecovery(len(s.tasks))
		}
	}
	s.attach(c)
	c.tally = sh.tally(s.node)
	c.tally.logins[loginAccepted]++
	if !c.joins {
		c.tally.sessions++
	}
	c.seq.MaxSendData = c.maxSendData
	c.openText()
	c.login = nil
	c.phase = phaseFull
	c.lastRx = sh.r.Now()
	c.startWatch(&c.e.inventory.Load().opt)
	c.tp.FullFeature(c.transportParams(s))
	name := "discovery"
	if s.node != nil {
		name = s.node.cfg.Name
	}
	c.e.chat(sh.r.Now(), "login", "id", c.id, "initiator", s.initiator, "peer", c.peer, "node", name, "tsih", s.tsih, "cid", c.cid, "reactor", sh.r.ID)
	if c.joins {
		s.came(c)
		return
	}
	post(c.e.registry.r, func() { c.e.registry.arrived(s) })
}

// transportParams is what the transport needs to know of the negotiation.
func (c *Connection) transportParams(s *Session) Params {
	q := &s.params
	return Params{
		HeaderDigest: c.headerDigest, DataDigest: c.dataDigest,
		MaxBurst:  q.maxBurst,
		Discovery: s.node == nil, Window: s.depth,
		AskAcks:    q.errorRecoveryLevel > 0,
		InitialR2T: q.initialR2T, FirstBurst: q.firstBurst, MaxRecvData: c.maxRecvData, WholeBuffer: q.wholeBuffer,
	}
}

// Resolve implements login.Resolver: who may log in to what, and on which terms.
func (c *Connection) Resolve(id *login.Identity) login.Policy {
	e := c.e
	inv := e.inventory.Load()
	opt := &inv.opt
	tr := c.tp.Traits()
	p := login.Policy{Config: login.Config{
		RDMA:           tr.RDMAKeys,
		PortalGroupTag: c.portalTag,
		MaxRecvData:    tr.MaxRecvData,
		MaxBurst:       opt.MaxBurstLength, FirstBurst: opt.FirstBurstLength,
		MaxOutstandingR2T: opt.MaxOutstandingR2T,
		MaxConnections:    opt.MaxConnsPerSession,
		Time2Wait:         opt.DefaultTime2Wait, Time2Retain: opt.DefaultTime2Retain,
		InitialR2T: opt.InitialR2T || tr.InitialR2T, ImmediateData: opt.ImmediateData,
	}}
	if !tr.Reads && !id.Discovery {
		p.Config.ERL = opt.ErrorRecoveryLevel
		p.Config.TaskReporting = login.ResponseFence | login.FastAbort
	}
	if tr.Pinned {
		p.Config.MaxConnections = 1 // it could not follow its session to another reactor
	}
	if tr.Digests {
		p.Config.HeaderDigest, p.Config.DataDigest = login.DigestAllow, login.DigestAllow
	}
	if e.down.Load() {
		p.Status = pdu.LoginUnavailable
		return p
	}
	auth := inv.discoveryAuth(c.portalTag)
	if !id.Discovery {
		n := inv.node(id.TargetName)
		if n == nil {
			p.Status = pdu.LoginNotFound
			return p
		}
		if p.Status = inv.access(n, c.portalTag, id.InitiatorName, c.peer.Addr()); p.Status != pdu.LoginSuccess {
			return p
		}
		if p.Redirect = n.cfg.redirect(c.portalTag, c.local); p.Redirect != "" && !plant.On(plant.RedirectionIgnored) {
			p.Status = pdu.LoginMovedTemporarily
			return p
		}
		p.Config.TargetAlias = n.cfg.Alias
		if n.cfg.HeaderDigest {
			p.Config.HeaderDigest = login.DigestRequire
		}
		if n.cfg.DataDigest {
			p.Config.DataDigest = login.DigestRequire
		}
		auth = n.cfg.chap()
	}
	auth.apply(&p, inv, e.entropy)
	return p
}

// Targets implements login.Directory: what SendTargets tells this initiator. Each
// initiator group and each portal group is asked once, however many nodes have it:
// there may be as many groups as nodes, and a request costs its sender nothing.
func (c *Connection) Targets(name string) []login.Target {
	inv := c.e.inventory.Load()
	admits, portals := map[uint16]bool{}, map[uint16][]login.Portal{}
	admitted := func(m Map) bool {
		ok, known := admits[m.InitiatorTag]
		if !known {
			ok = inv.admits(m, c.sess.initiator, c.peer.Addr())
			admits[m.InitiatorTag] = ok
		}
		return ok
	}
	reached := func(tag uint16) []login.Portal {
		list, known := portals[tag]
		if !known {
			for _, a := range inv.addresses(tag, c.local, c.tp.Traits().Name) {
				list = append(list, login.Portal{Addr: a, Tag: tag})
			}
			portals[tag] = list
		}
		return list
	}
	var list []login.Target
	for _, n := range inv.nodes {
		if name != "" && n.cfg.Name != name {
			continue
		}
		t := login.Target{Name: n.cfg.Name}
		for _, m := range n.cfg.Maps {
			told := slices.ContainsFunc(t.Portals, func(p login.Portal) bool { return p.Tag == m.PortalTag })
			if !told && admitted(m) {
				t.Portals = append(t.Portals, reached(m.PortalTag)...)
			}
		}
		if len(t.Portals) > 0 {
			list = append(list, t)
		}
	}
	return list
}

// reachable replaces a wildcard portal address by the one the initiator used.
func reachable(bound, local netip.AddrPort) netip.AddrPort {
	if bound.Addr().IsUnspecified() {
		return netip.AddrPortFrom(local.Addr(), bound.Port())
	}
	return bound
}
