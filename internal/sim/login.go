package sim

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"

	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
)

// params are what a login negotiated.
type params struct {
	headerDigest, dataDigest bool
	initialR2T, immediate    bool
	maxBurst, firstBurst     uint32
	outstanding              uint32 // R2Ts
	maxRecv                  uint32 // what we declared
	maxSend                  uint32 // what the target did
	wholeBuffer              bool   // over iSER: a write's buffer begins with its first byte
	targetRecv               uint32 // over iSER, as we offer it
	connections, level       uint32
	fastAbort                bool // TaskReporting
}

// defaults of RFC 7143 §13.
var defaults = params{initialR2T: true, immediate: true, maxBurst: 262144, firstBurst: 65536, outstanding: 1, maxRecv: 8192, maxSend: 8192, connections: 1}

// login is a login on its way.
type login struct {
	ours      params
	offered   map[string]bool
	stage     uint8
	split     bool // the keys go in two requests
	answers   []byte
	itt       uint32
	discovery bool
	reinstate bool
	requests  int
	proof     proof
	reports   string // TaskReporting, as offered

	sentSince, sentUntil int        // the redirections that it may have met, by place
	sent                 clock.Time // the last request
	last                 bool       // it may be the last of the login
	sentLast             int        // the first of the redirections that it may meet
}

// dial opens a connection and begins a login.
func (in *initiator) dial() {
	s := in.s
	in.roll()
	r := in.dice
	if k := r.IntN(len(s.portals)); len(in.old) == 0 && !in.barred.by(in) {
		in.portal = k
	}
	p := s.portals[in.portal]
	in.wake = s.clk.T.Add(time.Duration(1+r.IntN(5)) * time.Millisecond)
	var err error
	over := s.fab.w != nil && r.IntN(2) == 0
	if over {
		err = in.dialRDMA(p)
	} else {
		err = in.dialTCP(p)
	}
	if err != nil {
		in.refusals(s, p)
		return
	}
	in.phase, in.excused = loggingIn, ""
	in.dialled, in.failures = s.now(), s.arenaFailures()
	l := &in.login
	*l = login{ours: in.drawKeys(), offered: map[string]bool{}, stage: pdu.StageOperational, split: r.IntN(4) == 0, itt: in.nextITT}
	if r.IntN(3) == 0 {
		l.stage = pdu.StageSecurity
	}
	l.discovery = r.IntN(25) == 0
	in.drawProof()
	if r.IntN(4) == 0 && len(in.old) == 0 && !in.barred.by(in) {
		in.isid[4]++ // another session
	}
	in.nextITT++
	in.prm, in.cmdSN, in.statKnown = defaults, r.Uint32(), false
	if !over { // over RDMA when it is connected
		in.sendLogin()
	}
}

// refusals bounds how often an initiator is refused a connection.
func (in *initiator) refusals(s *run, p portal) {
	if p.up && s.stable() {
		s.fail("session", "initiator %d: portal %d refuses connections", in.id, p.tag)
	}
}

func (in *initiator) drawKeys() params {
	r := in.dice
	p := params{
		headerDigest: r.IntN(3) == 0, dataDigest: r.IntN(3) == 0,
		initialR2T: r.IntN(3) == 0, immediate: r.IntN(4) != 0,
		maxBurst:    pick(r, uint32(512), 1000, 4096, 10000, 16384, 65536, 262144),
		outstanding: pick(r, uint32(1), 2, 4),
		maxRecv:     pick(r, uint32(512), 700, 1024, 3000, 4096, 8192, 65536),
	}
	p.connections, p.level = pick(r, uint32(1), 4, 4), pick(r, uint32(0), 2)
	if p.level > 0 {
		p.connections = 1
	}
	p.targetRecv = pick(r, uint32(8192), 8192, 8192, 65536, 4096)
	p.firstBurst = min(p.maxBurst, pick(r, uint32(512), 2048, 16384, 65536))
	return p
}

// keys are the texts of the next request.
func (in *initiator) keys() []byte {
	l, o := &in.login, &in.login.ours
	r := in.dice
	var b []byte
	add := func(k, v string) { b = append(append(append(append(b, k...), '='), v...), 0) }
	if l.requests == 0 {
		add(pdu.KeyInitiatorName, in.name)
		if l.discovery {
			add(pdu.KeySessionType, "Discovery")
		} else {
			add(pdu.KeySessionType, "Normal")
			add(pdu.KeyTargetName, nodeName)
		}
	}
	if l.stage == pdu.StageSecurity {
		in.securityKeys(add)
	}
	b = append(b, l.answers...)
	l.answers = nil
	if l.stage != pdu.StageOperational || l.offered[pdu.KeyMaxBurst] || l.offered[pdu.KeyMaxRecvData] && (l.discovery || in.joins) {
		return b
	}
	offer := func(k, v string, may bool) {
		if l.offered[k] || may && r.IntN(6) == 0 {
			return
		}
		l.offered[k] = true
		add(k, v)
	}
	digest := func(on, wanted bool) string {
		switch {
		case on:
			return pick(r, "CRC32C", "CRC32C,None")
		case wanted:
			return "None,CRC32C"
		}
		return pick(r, "None", "None,CRC32C")
	}
	if in.overRDMA() {
		in.rdmaKeys(offer)
	}
	offer(pdu.KeyHeaderDigest, digest(o.headerDigest, in.s.plan.digests[0]), true)
	offer(pdu.KeyDataDigest, digest(o.dataDigest, in.s.plan.digests[1]), true)
	offer(pdu.KeyMaxRecvData, strconv.Itoa(int(o.maxRecv)), in.overRDMA() && !l.discovery)
	if l.discovery || in.joins { // the rest is the leading login's
		return b
	}
	offer(pdu.KeyInitialR2T, yes(o.initialR2T), true)
	offer(pdu.KeyImmediateData, yes(o.immediate), true)
	offer(pdu.KeyMaxOutstandingR2T, strconv.Itoa(int(o.outstanding)), true)
	offer(pdu.KeyErrorRecoveryLevel, strconv.Itoa(int(o.level)), true)
	if !in.overRDMA() && r.IntN(2) == 0 && !l.offered[pdu.KeyTaskReporting] {
		l.reports = reports[r.IntN(len(reports))]
		offer(pdu.KeyTaskReporting, l.reports, false)
	}
	offer(pdu.KeyMaxConnections, strconv.Itoa(int(o.connections)), true)
	if l.split && l.requests < 2 {
		return b // the rest with the next request
	}
	offer(pdu.KeyFirstBurst, strconv.Itoa(int(o.firstBurst)), false)
	offer(pdu.KeyMaxBurst, strconv.Itoa(int(o.maxBurst)), false)
	return b
}

// rdmaKeys are the keys of RFC 7145 §6, and no digests.
func (in *initiator) rdmaKeys(offer func(k, v string, may bool)) {
	l, r := &in.login, in.dice
	l.ours.headerDigest, l.ours.dataDigest = false, false
	for _, k := range [...]string{pdu.KeyHeaderDigest, pdu.KeyDataDigest} { // libiscsi offers them, ib_iser does not
		offer(k, pick(r, "None", "None,CRC32C"), true)
		l.offered[k] = true
	}
	if l.discovery {
		return
	}
	offer(pdu.KeyRDMAExtensions, "Yes", false)
	offer(pdu.KeyInitiatorRecvData, "262144", false)
	offer(pdu.KeyTargetRecvData, strconv.Itoa(int(l.ours.targetRecv)), false)
	if r.IntN(4) == 0 && !l.offered[pdu.KeyTaggedBufferOnly] { // declared, not negotiated
		l.ours.wholeBuffer = r.IntN(2) == 0
		offer(pdu.KeyTaggedBufferOnly, yes(!l.ours.wholeBuffer), false)
	}
}

// enterRDMA begins full feature phase over iSER.
func (in *initiator) enterRDMA() {
	in.rdma.enter()
	in.prm.wholeBuffer = in.login.ours.wholeBuffer
	in.s.count(LoginsRDMA)
	if in.prm.wholeBuffer {
		in.s.count(WholeBuffers)
	}
}

func yes(b bool) string {
	if b {
		return "Yes"
	}
	return "No"
}

// sendLogin sends the next Login Request.
func (in *initiator) sendLogin() {
	l := &in.login
	data := in.keys()
	if u := in.loginUser(); u != "" && !in.joins && !l.discovery && !slices.Contains(in.owners[in.nexusName()], u) {
		in.owners[in.nexusName()] = append(in.owners[in.nexusName()], u)
	}
	b := in.header(pdu.LoginRequest)
	b.SetImmediate()
	next := uint8(pdu.StageFullFeature)
	if l.stage == pdu.StageSecurity {
		next = pdu.StageOperational
	}
	fl := byte(l.stage << 2)
	if l.stage == pdu.StageSecurity || l.offered[pdu.KeyMaxBurst] || l.discovery || in.joins {
		fl |= pdu.FlagTransit | next
	}
	l.last, l.sentLast, l.proof.last = fl&pdu.FlagTransit != 0 && next == pdu.StageFullFeature, max(len(in.s.redirected)-1, 0), len(in.s.auth.history)-1
	b.SetFlags(fl)
	copy(b.ISID(), in.isid[:])
	b.SetITT(l.itt)
	b.SetCID(in.cid)
	if in.joins {
		b.SetTSIH(in.tsih)
	}
	b.SetCmdSN(in.cmdSN)
	if in.statKnown {
		b.SetExpStatSN(in.expStatSN)
	}
	if in.s.cfg.Trace {
		in.s.line("initiator %d: %q", in.id, data)
	}
	l.requests++
	l.sent = in.s.clk.T
	if l.requests > 8 {
		in.s.fail("login", "initiator %d: no end after %d requests", in.id, l.requests)
	}
	in.send(b, data)
}

// loginResponse takes a Login Response.
func (in *initiator) loginResponse(b pdu.BHS, data []byte) {
	s, l := in.s, &in.login
	if b.Opcode() != pdu.LoginResponse || b.ITT() != l.itt {
		s.fail("login", "initiator %d: opcode %#x, tag %#x during login", in.id, b.Opcode(), b.ITT())
		return
	}
	in.answeredFirst()
	if st := b.LoginStatus(); st == pdu.LoginMovedTemporarily {
		in.sentAway(data)
		in.turnedAway()
		return
	} else if st != pdu.LoginSuccess {
		in.negotiate(data)
		in.untold()
		in.loginRefused(st)
		return
	}
	if in.statKnown && b.StatSN() != in.expStatSN {
		s.fail("StatSN", "initiator %d: login response has %d, want %d", in.id, b.StatSN(), in.expStatSN)
	}
	in.expStatSN, in.statKnown = b.StatSN()+1, true
	if string(b.ISID()) != string(in.isid[:]) || b.CSG() != l.stage {
		s.fail("login", "initiator %d: ISID %x, stage %d in the response", in.id, b.ISID(), b.CSG())
	}
	in.negotiate(data)
	in.untold()
	if b.Flags()&pdu.FlagTransit != 0 {
		in.proved()
		l.stage = b.NSG()
	}
	if l.stage != pdu.StageFullFeature {
		in.sendLogin()
		return
	}
	in.fullFeature(b)
}

// loginRefused takes a refusal: right while the target is not as it was.
func (in *initiator) loginRefused(st pdu.LoginStatus) {
	s := in.s
	s.count(LoginsRefused)
	s.line("initiator %d: login refused with %04x", in.id, uint16(st))
	defer in.turnedAway()
	if in.refusedProof(st) || in.mayRefuseJoin(st) || in.mayRefuseSuccessor(st) {
		return
	}
	if s.stable() && s.steadySince < in.dialled && st != pdu.LoginUnavailable && s.arenaFailures() == in.failures {
		s.fail("login", "initiator %d: refused with status %04x", in.id, uint16(st))
	}
}

// mayRefuseSuccessor tells whether another user may have begun the session that
// the login would replace: the last that was let in, or one whose answer was lost.
func (in *initiator) mayRefuseSuccessor(st pdu.LoginStatus) bool {
	if st != pdu.LoginForbidden || in.joins || in.login.discovery {
		return false
	}
	n := in.nexusName()
	in.owners[n] = slices.DeleteFunc(in.owners[n], func(u string) bool { return u == in.loginUser() })
	in.keptOut()
	return len(in.owners[n]) > 0
}

// barred is a login that is refused for the sake of a session of another user.
type barred struct {
	nexus nexusName
	user  string
	since clock.Time // the first of the refusals; 0 is none
	epoch int        // of the target
}

// by tells whether in's last login was such, to the target as it runs.
func (o *barred) by(in *initiator) bool {
	return o.since != 0 && o.epoch == in.s.epoch && o.nexus == in.nexusName()
}

// provenIn is how long a session that has lost its peer may take to end, tasks and all;
// on a slow disk, where an operation may take twenty seconds, several of a task.
const (
	provenIn     = 20 * time.Second
	provenSlowIn = 2 * time.Minute
)

// keptOut takes a refusal for the sake of another user's session. The peer of that
// was this initiator, which has dropped it: asked to prove that it lives, it cannot.
func (in *initiator) keptOut() {
	s, o := in.s, &in.barred
	s.count(SuccessorsRefused)
	if !o.by(in) {
		*o = barred{nexus: in.nexusName(), since: s.clk.T, epoch: s.epoch}
	}
	o.user = in.loginUser()
	most := provenIn
	if s.plan.slow {
		most = provenSlowIn
	}
	if d := s.clk.T.Sub(o.since); d > time.Duration(s.plan.options.NopTimeout)*time.Second+most {
		in.bad("session", "user %q is kept out for %v by a session that has no peer", o.user, d)
	}
}

// nexusName is the I_T nexus of a login.
func (in *initiator) nexusName() nexusName {
	return nexusName{in.id, in.isid, in.s.portals[in.portal].tag}
}

// turnedAway excuses the end of a login that was refused.
func (in *initiator) turnedAway() {
	if in.denial = true; !in.joins {
		in.letGoAll()
	}
	in.conn.excuse("login refused")
}

// negotiate takes the keys of a response.
func (in *initiator) negotiate(data []byte) {
	l := &in.login
	for _, pair := range bytes.Split(data, []byte{0}) {
		k, v, ok := bytes.Cut(pair, []byte{'='})
		if !ok {
			continue
		}
		in.key(string(k), string(v), l.offered[string(k)])
	}
}

// key takes one key of the target's: the answer to ours, or its own offer,
// which is answered with the next request.
func (in *initiator) key(k, v string, answer bool) {
	l, p, o := &in.login, &in.prm, &in.login.ours
	reply := func(v string) {
		if !answer {
			l.offered[k] = true
			l.answers = append(l.answers, k+"="+v+"\x00"...)
		}
	}
	number := func(to *uint32, ours uint32) {
		if v == pdu.ValueIrrelevant {
			return
		}
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || answer && uint32(n) > ours {
			in.s.fail("login", "initiator %d: %s=%s, ours was %d", in.id, k, v, ours)
			return
		}
		*to = min(uint32(n), ours)
		reply(strconv.Itoa(int(*to)))
	}
	boolean := func(to *bool, ours, or bool) {
		his := v == "Yes"
		res := his && ours
		if or {
			res = his || ours
		}
		if answer && his != res {
			in.s.fail("login", "initiator %d: %s=%s is not what %s makes", in.id, k, v, yes(ours))
		}
		*to = res
		reply(yes(res))
	}
	switch k {
	case pdu.KeyHeaderDigest, pdu.KeyDataDigest:
		if in.overRDMA() && v != "None" { // RFC 7145 §5.1
			in.s.fail("login", "initiator %d: %s=%s over iSER", in.id, k, v)
		}
	}
	switch k {
	case pdu.KeyAuthMethod, pdu.KeyCHAPA, pdu.KeyCHAPI, pdu.KeyCHAPC, pdu.KeyCHAPN, pdu.KeyCHAPR:
		in.securityKey(k, v)
	case pdu.KeyHeaderDigest:
		p.headerDigest = v == "CRC32C"
		reply(v)
	case pdu.KeyDataDigest:
		p.dataDigest = v == "CRC32C"
		reply(v)
	case pdu.KeyInitialR2T:
		boolean(&p.initialR2T, o.initialR2T, true)
	case pdu.KeyImmediateData:
		boolean(&p.immediate, o.immediate, false)
	case pdu.KeyMaxBurst:
		number(&p.maxBurst, o.maxBurst)
	case pdu.KeyFirstBurst:
		number(&p.firstBurst, o.firstBurst)
	case pdu.KeyErrorRecoveryLevel:
		number(&p.level, o.level)
	case pdu.KeyMaxConnections:
		number(&p.connections, o.connections)
	case pdu.KeyMaxOutstandingR2T:
		number(&p.outstanding, o.outstanding)
	case pdu.KeyMaxRecvData: // declared, not negotiated
		if n, _ := strconv.Atoi(v); !in.overRDMA() {
			p.maxSend = uint32(n)
		}
	case pdu.KeyTaskReporting:
		in.reporting(v)
	case pdu.KeyTargetRecvData:
		number(&p.maxSend, o.targetRecv)
	case pdu.KeyRDMAExtensions:
		if v != yes(in.overRDMA()) {
			in.s.fail("login", "initiator %d: %s=%s", in.id, k, v)
		}
	}
}

// fullFeature begins the session.
func (in *initiator) fullFeature(b pdu.BHS) {
	s, l := in.s, &in.login
	if l.offered[pdu.KeyMaxRecvData] {
		in.prm.maxRecv = l.ours.maxRecv
	}
	if in.overRDMA() && !l.discovery {
		in.prm.maxRecv = fullRecv - headersLen
	}
	if in.overRDMA() {
		in.enterRDMA()
	}
	in.proved()
	in.held()
	if !in.mayBeSent(false) {
		in.bad("redirection", "let in by a portal that sends logins away")
	}
	if s.unmapped != 0 && s.unmapped < in.dialled && in.portal == 1 && !l.discovery {
		in.bad("access", "let in by a portal group without a map")
	}
	if l.proof.method == "CHAP" {
		in.penance.sure, in.penance.from, in.penance.passed = 0, 0, true
	}
	if in.joins {
		in.joined(b)
		return
	}
	in.phase = full
	in.expCmdSN, in.maxCmdSN = b.ExpCmdSN(), b.MaxCmdSN()
	in.lastExpCmd, in.lastMaxCmd = in.expCmdSN, in.maxCmdSN
	if in.expCmdSN != in.cmdSN || b.TSIH() == 0 {
		s.fail("login", "initiator %d: ExpCmdSN %d, TSIH %d in the final response", in.id, in.expCmdSN, b.TSIH())
	}
	s.count(Logins)
	in.sess, in.tsih, in.user, in.began = in.prm, b.TSIH(), in.loginUser(), in.dialled
	if in.prm.headerDigest {
		s.count(HeaderDigests)
	}
	if in.prm.dataDigest {
		s.count(DataDigests)
	}
	if s.cfg.Trace {
		s.line("initiator %d: logged in, %+v", in.id, in.prm)
	}
	if l.discovery {
		s.count(Discoveries)
		in.discover()
		return
	}
	if in.barred.by(in) {
		s.count(SuccessorsLetIn)
	}
	in.barred = barred{}
	if in.owners[in.nexusName()] = nil; in.user != "" {
		in.owners[in.nexusName()] = []string{in.user}
	}
	// The session replaces what was left of the one before it: nothing of that
	// may reach the medium any more (RFC 7143 §6.3.5).
	if len(in.old) > 0 {
		s.count(Reinstatements)
	}
	for _, t := range in.old {
		if t.forSet() {
			in.overAll(t, false)
		}
		s.over(t, unsure, "the session was reinstated")
		in.recycle(t)
	}
	in.old = in.old[:0]
	in.nexus = s.intern(in.nexusName())
	s.found(in.nexus)
	if in.wake = s.clk.T; in.overRDMA() && in.dice.IntN(8) == 0 { // the target has to wait for its first PDU
		in.wake = s.clk.T.Add(time.Duration(in.dice.IntN(60)) * time.Second)
	}
}

// discover asks for the targets and logs out.
func (in *initiator) discover() {
	t := in.newTask(kindText)
	b := in.request(t, pdu.TextRequest, pdu.FlagFinal, false)
	b.SetTTT(pdu.ReservedTag)
	in.send(b, []byte("SendTargets=All\x00"))
	in.tasks = append(in.tasks, t)
}

func (in *initiator) header(op pdu.Opcode) pdu.BHS {
	b := make(pdu.BHS, pdu.HeaderLen)
	b.SetOpcode(op)
	return b
}

// send queues a PDU for the connection.
func (in *initiator) send(b pdu.BHS, data []byte) {
	b.SetDataLen(uint32(len(data)))
	in.link.send(b, data)
	in.sent(b)
}

func (in *initiator) sent(b pdu.BHS) {
	if in.s.cfg.Trace {
		in.s.line("initiator %d.%d > %s", in.id, in.cid, brief(b, false))
	}
}

// brief is a PDU in a few words.
func brief(b pdu.BHS, fromTarget bool) string {
	text := fmt.Sprintf("%-9s itt=%x", opName(b.Opcode()), b.ITT())
	if fromTarget {
		text += fmt.Sprintf(" stat=%d exp=%d max=%d", b.StatSN(), b.ExpCmdSN(), b.MaxCmdSN())
	} else {
		text += fmt.Sprintf(" cmd=%d imm=%v", b.CmdSN(), b.Immediate())
	}
	switch b.Opcode() {
	case pdu.SCSICommand:
		text += fmt.Sprintf(" lun=%d cdb=%x edtl=%d fl=%02x", b.LUN()>>48, b.CDB(), b.EDTL(), b.Flags())
	case pdu.DataIn, pdu.DataOut:
		text += fmt.Sprintf(" sn=%d off=%d len=%d fl=%02x", b.DataSN(), b.Offset(), b.DataLen(), b.Flags())
	case pdu.R2T:
		text += fmt.Sprintf(" sn=%d off=%d len=%d", b.DataSN(), b.Offset(), b.Desired())
	case pdu.SCSIResponse:
		text += fmt.Sprintf(" status=%02x residual=%d fl=%02x", b.Status(), b.Residual(), b.Flags())
	case pdu.TMFRequest:
		text += fmt.Sprintf(" function=%d lun=%d ref=%x", b.TMF(), b.LUN()>>48, b.RefTag())
	case pdu.TMFResponse, pdu.LogoutResp, pdu.Reject:
		text += fmt.Sprintf(" response=%d", b.Response())
	}
	return text
}

func opName(o pdu.Opcode) string {
	names := map[pdu.Opcode]string{
		pdu.NopOut: "nop-out", pdu.SCSICommand: "command", pdu.TMFRequest: "tmf", pdu.LoginRequest: "login", pdu.TextRequest: "text",
		pdu.DataOut: "data-out", pdu.LogoutReq: "logout", pdu.NopIn: "nop-in", pdu.SCSIResponse: "response", pdu.TMFResponse: "tmf-rsp",
		pdu.LoginResponse: "login-rsp", pdu.TextResponse: "text-rsp", pdu.DataIn: "data-in", pdu.LogoutResp: "logout-rsp", pdu.R2T: "r2t",
		pdu.SNACK: "snack", pdu.AsyncMessage: "async", pdu.Reject: "reject",
	}
	return names[o]
}
