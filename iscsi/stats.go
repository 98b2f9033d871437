package iscsi

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"spindle/bdev"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/scsi"
)

// What is counted here is counted by the reactor where it happens, in plain
// numbers, and gathered by a message to each reactor when somebody asks.
// The terms are those of the iSCSI MIB (RFC 4544 §6) where it has one.

// ConnCounts are what a connection has counted.
type ConnCounts struct {
	PDUsIn, PDUsOut         uint64
	Commands                uint64 // SCSI commands received
	Reads, Writes           uint64 // of them answered, by their R and W bits
	BytesRead, BytesWritten uint64 // data of those
	// Sums over those of the time from the command's header to its response having
	// left, in nanoseconds.
	ReadTime, WriteTime uint64
	Failed              uint64 // answered with another status than GOOD
	Aborted             uint64 // ended by a task management function, or with their nexus
	Rejects             uint64
	DigestErrors        uint64 // of headers and data (iscsiSsnDigestErrors)
}

func (n *ConnCounts) add(o *ConnCounts) {
	n.PDUsIn += o.PDUsIn
	n.PDUsOut += o.PDUsOut
	n.Commands += o.Commands
	n.Reads += o.Reads
	n.Writes += o.Writes
	n.BytesRead += o.BytesRead
	n.BytesWritten += o.BytesWritten
	n.ReadTime += o.ReadTime
	n.WriteTime += o.WriteTime
	n.Failed += o.Failed
	n.Aborted += o.Aborted
	n.Rejects += o.Rejects
	n.DigestErrors += o.DigestErrors
}

// Counters are the counts under the names that RPC gives them.
func (n *ConnCounts) Counters() []Counter {
	return []Counter{
		{"pdus_in", n.PDUsIn}, {"pdus_out", n.PDUsOut}, {"commands", n.Commands},
		{"num_read_ops", n.Reads}, {"num_write_ops", n.Writes},
		{"bytes_read", n.BytesRead}, {"bytes_written", n.BytesWritten},
		{"read_latency_ticks", n.ReadTime}, {"write_latency_ticks", n.WriteTime},
		{"commands_failed", n.Failed}, {"commands_aborted", n.Aborted},
		{"rejects", n.Rejects}, {"digest_errors", n.DigestErrors},
	}
}

// account counts a command whose response has left.
//
//spindle:hot
func (t *Task) account() {
	if !t.counts {
		return
	}
	t.counts = false
	if t.reply.Unsent {
		return
	}
	c := t.conn
	n, took := &c.n, uint64(c.sh.r.Now().Sub(t.began))
	if t.reply.Status != 0 {
		n.failed(t)
	}
	switch {
	case t.read:
		n.Reads++
		n.BytesRead += uint64(t.reply.Data.Len)
		n.ReadTime += took
		if h := c.tally.read; h != nil {
			h.Add(took)
		}
	case t.write:
		n.Writes++
		n.BytesWritten += uint64(t.got)
		n.WriteTime += took
		if h := c.tally.write; h != nil {
			h.Add(took)
		}
	}
}

func (n *ConnCounts) failed(t *Task) {
	n.Failed++
	if scsi.Status(t.reply.Status) == scsi.TaskAborted {
		n.Aborted++
	}
}

// aborted counts a command that ends without a response.
func (c *Connection) aborted() {
	if c.phase == phaseDead { // its counts have been added up
		c.sess.gone.Aborted++
		c.tally.gone.Aborted++
		return
	}
	c.n.Aborted++
}

// How logins end (iscsiTgtLoginStats): by status class, and class 2 as the MIB
// takes it apart.
const (
	loginAccepted = iota
	loginRedirected
	loginNotAuthenticated
	loginNotAuthorized
	loginNegotiation // any other error of the initiator
	loginTargetError
	loginUnfinished // the connection ended first
	numLogins
)

var loginNames = [numLogins]string{"accepts", "redirects", "authenticate_fails", "authorize_fails", "negotiate_fails", "target_errors", "unfinished"}

func loginEnd(s pdu.LoginStatus) int {
	switch {
	case s == pdu.LoginAuthFailed:
		return loginNotAuthenticated
	case s == pdu.LoginForbidden:
		return loginNotAuthorized
	case s>>8 == 1:
		return loginRedirected
	case s>>8 == 2:
		return loginNegotiation
	}
	return loginTargetError
}

// logoutNames are the reasons of Logout Requests, by code (RFC 7143 §11.14.1).
var logoutNames = [...]string{pdu.LogoutCloseSession: "close_session", pdu.LogoutCloseConnection: "close_connection", pdu.LogoutRemoveForReinst: "remove_for_recovery"}

// How sessions end. The last four are failures (iscsiInstSsnFailures and its kinds).
const (
	endLogout = iota
	endReinstated
	endOrdered
	endDigest
	endTimeout
	endFormat
	endLost
	numEnds
)

var endNames = [numEnds]string{"logout", "reinstated", "by_target", "digest_errors", "timeouts", "format_errors", "connection_lost"}

// sessionEnd is how a session ended whose first connection to go went because of why.
func sessionEnd(why error) int {
	is := func(list ...error) bool {
		return slices.ContainsFunc(list, func(e error) bool { return errors.Is(why, e) })
	}
	switch {
	case is(errLoggedOut):
		return endLogout
	case is(errReinstated, errConnReplaced):
		return endReinstated
	case is(errOrdered, errShutdown, errColdReset, errNoMemory):
		return endOrdered
	case is(ErrDigest):
		return endDigest
	case is(errNopTimeout, errUnread, syscall.ETIMEDOUT):
		return endTimeout
	case is(ErrFormat, errProtocol):
		return endFormat
	}
	return endLost
}

// functionNames are the task management functions, by code (RFC 7143 §11.5.1);
// the first is any code that is none.
var functionNames = [...]string{
	"unknown", pdu.TMFClearACA: "clear_aca", pdu.TMFAbortTask: "abort_task", pdu.TMFAbortTaskSet: "abort_task_set", pdu.TMFClearTaskSet: "clear_task_set", pdu.TMFLUNReset: "lun_reset",
	pdu.TMFWarmReset: "target_warm_reset", pdu.TMFColdReset: "target_cold_reset", pdu.TMFReassign: "task_reassign",
}

// tally is what a reactor has counted of a target node. Owner: the reactor.
type tally struct {
	gone      ConnCounts // of connections that have closed
	sessions  uint64     // that began
	logins    [numLogins]uint64
	logouts   [len(logoutNames)]uint64
	ends      [numEnds]uint64
	functions [len(functionNames)]uint64

	read, write *bdev.Histogram // nil when they are not enabled
}

// tally is where this reactor counts for a node; nil is for discovery, and for
// logins that came to no node.
func (s *shard) tally(n *Node) *tally {
	if n == nil {
		return &s.stray
	}
	return n.tallies[s.r.ID]
}

// loginTally is where a login in progress is counted.
func (c *Connection) loginTally() *tally {
	if c.login == nil {
		return &c.sh.stray
	}
	id := c.login.m.Identity()
	if id.Discovery {
		return &c.sh.stray
	}
	return c.sh.tally(c.e.inventory.Load().node(id.TargetName))
}

// closedCounts adds what the connection has counted to its session and its node.
func (c *Connection) closedCounts(was phase, why error) {
	c.n.PDUsOut = c.seq.Sent
	if errors.Is(why, ErrDigest) {
		c.n.DigestErrors++
	}
	t := c.tally
	if t == nil {
		t = &c.sh.stray
	}
	t.gone.add(&c.n)
	switch s := c.sess; {
	case was == phaseLogin && !c.refused:
		c.loginTally().logins[loginUnfinished]++
	case s != nil && c.tally != nil:
		s.gone.add(&c.n)
		if c.closing != nil {
			why = c.closing // whatever came of its farewell
		}
		if s.why == nil && !c.leaving {
			s.why = why
		}
	}
	c.n, c.seq.Sent = ConnCounts{}, 0
}

// ConnStats are a connection's counts.
type ConnStats struct {
	ID   uint64
	CID  uint16
	Peer string
	ConnCounts
}

// SessionStats are a session's counts: of its connections, those that have closed among them.
type SessionStats struct {
	TSIH      uint16
	Initiator string
	Transport string
	Reactor   int
	Conns     []ConnStats
	ConnCounts
}

// NodeStats are what a target node has counted since it was made.
type NodeStats struct {
	Name string // "": discovery sessions, and logins that came to no node
	// ConnCounts are sums over all connections, those that have closed among them.
	ConnCounts
	Begun                                 uint64 // sessions
	Logins, Logouts, Ends, TaskManagement []Counter
	Sessions                              []SessionStats
	Read, Write                           *bdev.Histogram // nil when they are not enabled
}

func newNodeStats(name string) *NodeStats {
	n := &NodeStats{Name: name}
	for _, l := range []struct {
		to    *[]Counter
		names []string
	}{{&n.Logins, loginNames[:]}, {&n.Logouts, logoutNames[:]}, {&n.Ends, endNames[:]}, {&n.TaskManagement, functionNames[:]}} {
		for _, name := range l.names {
			*l.to = append(*l.to, Counter{Name: name})
		}
	}
	return n
}

func (n *NodeStats) add(t *tally) {
	n.ConnCounts.add(&t.gone)
	n.Begun += t.sessions
	sum := func(list []Counter, counts []uint64) {
		for i, v := range counts {
			list[i].Value += v
		}
	}
	sum(n.Logins, t.logins[:])
	sum(n.Logouts, t.logouts[:])
	sum(n.Ends, t.ends[:])
	sum(n.TaskManagement, t.functions[:])
	n.Read, n.Write = mergeHistogram(n.Read, t.read), mergeHistogram(n.Write, t.write)
}

func mergeHistogram(sum, h *bdev.Histogram) *bdev.Histogram {
	switch {
	case h == nil:
		return sum
	case sum == nil:
		c := *h
		c.Buckets = slices.Clone(h.Buckets)
		return &c
	}
	sum.Merge(h)
	return sum
}

// session adds a session of the shard. Preconditions: runs on its reactor.
func (n *NodeStats) session(s *Session) {
	x := SessionStats{TSIH: s.tsih, Initiator: s.initiator, Transport: s.transport, Reactor: s.sh.r.ID, ConnCounts: s.gone}
	for _, c := range s.conns {
		k := ConnStats{ID: c.id, CID: c.cid, Peer: c.peer.String(), ConnCounts: c.n}
		k.PDUsOut = c.seq.Sent
		x.ConnCounts.add(&k.ConnCounts)
		n.ConnCounts.add(&k.ConnCounts)
		x.Conns = append(x.Conns, k)
	}
	n.Sessions = append(n.Sessions, x)
}

// NodeStats tells what the target nodes have counted, or the one of a name;
// without a name the last is what belongs to no node.
func (e *Engine) NodeStats(c reactor.Caller, name string) ([]NodeStats, error) {
	e.mu.Lock() // histograms may be replaced one reactor after the other
	defer e.mu.Unlock()
	inv := e.inventory.Load()
	var nodes []*Node
	for _, n := range inv.nodes {
		if name == "" || n.cfg.Name == name {
			nodes = append(nodes, n)
		}
	}
	if name == "" {
		nodes = append(nodes, nil)
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	list := make([]NodeStats, len(nodes))
	for i, n := range nodes {
		name := ""
		if n != nil {
			name = n.cfg.Name
		}
		list[i] = *newNodeStats(name)
	}
	defer e.still(c)()
	for _, sh := range e.shards {
		c.Await(sh.r, func(done func()) {
			for i, n := range nodes {
				t := sh.tally(n)
				list[i].add(t)
				for _, k := range sh.conns {
					if k.tally == t && k.sess.conn == k {
						list[i].session(k.sess)
					}
				}
			}
			done()
		})
	}
	for i := range list {
		slices.SortFunc(list[i].Sessions, func(a, b SessionStats) int { return cmp.Compare(a.TSIH, b.TSIH) })
	}
	return list, nil
}

// EnableHistograms starts counting the latencies of a node's reads and writes
// from zero, or stops: from the command's header to its response having left.
func (e *Engine) EnableHistograms(c reactor.Caller, name string, on bool, o bdev.HistogramOptions) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.inventory.Load().node(name)
	if n == nil {
		return fmt.Errorf("node %s: %w", name, ErrNotFound)
	}
	for _, sh := range e.shards {
		var read, write *bdev.Histogram
		if on {
			for _, h := range []**bdev.Histogram{&read, &write} {
				var err error
				if *h, err = bdev.NewHistogram(o); err != nil {
					return err
				}
			}
		}
		c.Await(sh.r, func(done func()) {
			t := sh.tally(n)
			t.read, t.write = read, write
			done()
		})
	}
	return nil
}
