package sim

import (
	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
)

// taskKind is what an initiator waits for.
type taskKind uint8

const (
	kindCommand taskKind = iota
	kindManage
	kindPing
	kindText
	kindLogout
)

func (k taskKind) String() string {
	return [...]string{"command", "task management", "ping", "text", "logout"}[k]
}

// task is a request of an initiator that waits for its answer.
type task struct {
	kind      taskKind
	conn      *conn // its connection allegiance
	itt       uint32
	cmdSN     uint32
	imm       bool
	call      int64 // instant it was sent
	at        clock.Time
	lun       int    // place in run.luns
	maybe     bool   // it may never be answered: others may have ended it
	received  bool   // by the target, for certain
	moved     bool   // another connection has taken it over: R2Ts begin anew
	struck    uint64 // stamp of a function of another session that finds it
	silent    int64  // ... and was answered then
	hushed    bool   // a function for a set of tasks came behind it on its connection
	overtaken bool   // a task set function that does not cover it may have found it
	excuses   int    // for how many reasons
	excuser   uint64 // stamp of the function that was one of them

	// SCSI commands.
	class       class
	lba         uint64
	blocks      uint32 // that it reads or writes, whatever its CDB says
	want        uint32 // bytes that the CDB moves
	edtl        uint32
	read, write bool
	gated       bool // a unit attention stops it
	illegal     bool // it has to be refused with ILLEGAL REQUEST
	broken      bool // we break a rule with it: it may fail
	spoil       bool // a PDU of its data is to be broken
	spoiled     bool // ... and was, at spoiledAt
	recovered   bool // ... and asked for again
	spoiledAt   uint32
	op          int  // in the book
	also        int  // ... of its second range
	atomic      bool // WRITE ATOMIC
	shielded    bool // its data has protection information
	taint       taint
	bad         uint32 // ... which is wrong for this one of its blocks
	data        []byte
	got         []byte
	dataSN      uint32
	r2tSN       uint32
	immediate   uint32 // bytes that went with the command
	asked       uint32 // end of what was sent or solicited
	r2ts        uint32 // outstanding
	solicited   bool
	sent        uint32
	old         []value // COMPARE AND WRITE, VERIFY: what it expects
	access      access
	needs       needs
	copies      []int  // EXTENDED COPY: its segments, in the book
	excused     bool   // ... others may have ended its tasks
	asks               // of a list identifier
	wipe        int    // SANITIZE, FORMAT UNIT: in the book
	later       bool   // ... it does not wait for its end
	erase       bool   // ... it leaves zeroes
	service     uint8  // of PERSISTENT RESERVE IN
	control     uint8  // PC of MODE SENSE and LOG SENSE
	done        tally  // LOG SENSE: what its unit had counted when it was sent
	listed      int    // REPORT LUNS: how many changes of the list were over
	change      change // of what nexuses share
	changing    int    // its number there; 0: none is under way
	mem         buffer // over iSER: what it advertises

	// Logout.
	session bool  // of all connections
	victim  *conn // of another connection

	// Task management.
	fn       uint8
	crowd    int    // functions outstanding when it was sent
	expCmdSN uint32 // the target had received what was before it
	resets   []int  // what it changes, by place in run.luns
	refs     []*task
}

// burst is a sequence of Data-Out PDUs that is to be sent.
type burst struct {
	t       *task
	ttt     uint32
	off, to uint32
	sn      uint32
}

// newTask takes a task with a fresh tag.
func (in *initiator) newTask(k taskKind) *task {
	var t *task
	if n := len(in.free); n > 0 {
		t, in.free = in.free[n-1], in.free[:n-1]
	} else {
		t = new(task)
	}
	*t = task{kind: k, conn: in.conn, itt: in.nextITT, resets: t.resets[:0], data: t.data[:0], got: t.got[:0], refs: t.refs[:0], old: t.old[:0], copies: t.copies[:0], lun: -1}
	in.nextITT++
	return t
}

func (in *initiator) recycle(t *task) { in.free = append(in.free, t) }

// find returns the outstanding task of a tag.
func (in *initiator) find(itt uint32) *task {
	for _, t := range in.tasks {
		if t.itt == itt {
			return t
		}
	}
	return nil
}

// remove ends t; its tag is not used again.
func (in *initiator) remove(t *task) {
	in.unlist(t)
	in.recycle(t)
}

// unlist takes t off the list, and off those of the functions that are about it.
func (in *initiator) unlist(t *task) {
	if t.conn.link != nil {
		t.conn.link.ended(t)
	}
	for i, o := range in.tasks {
		if o == t {
			in.tasks = append(in.tasks[:i], in.tasks[i+1:]...)
			break
		}
	}
	k := 0
	for _, b := range t.conn.bursts {
		if b.t != t {
			t.conn.bursts[k] = b
			k++
		}
	}
	t.conn.bursts = t.conn.bursts[:k]
	for _, o := range in.tasks {
		for i, r := range o.refs {
			if r == t {
				o.refs = append(o.refs[:i], o.refs[i+1:]...)
				break
			}
		}
	}
}

// request is the header of t's PDU.
func (in *initiator) request(t *task, op pdu.Opcode, flags byte, imm bool) pdu.BHS {
	b := in.header(op)
	b.SetFlags(flags)
	b.SetITT(t.itt)
	b.SetCmdSN(in.cmdSN)
	b.SetExpStatSN(in.acknowledged())
	t.cmdSN, t.imm, t.call, t.at = in.cmdSN, imm, in.s.now(), in.s.clk.T
	in.crowds = in.crowds || imm && t.kind == kindCommand || len(in.conns) > 1
	if imm {
		b.SetImmediate()
	} else {
		in.unacknowledged(in.cmdSN)
		in.cmdSN++
	}
	return b
}

// sendBurst sends one Data-Out PDU of one of the sequences that wait. Those of
// one task go in order (DataSequenceInOrder).
func (in *initiator) sendBurst() {
	r := in.s.rng
	k := r.IntN(len(in.bursts))
	for i := range k {
		if in.bursts[i].t == in.bursts[k].t {
			k = i
			break
		}
	}
	q := &in.bursts[k]
	n := min(q.to-q.off, in.prm.maxSend)
	// Over iSER each takes a receive of the target's, who counts on whole ones.
	if n > 512 && r.IntN(2) == 0 && !in.overRDMA() {
		n = 1 + uint32(r.IntN(int(n)))
		if r.IntN(2) == 0 {
			n = (n + 3) &^ 3
		}
		n = min(n, q.to-q.off)
	}
	b := in.header(pdu.DataOut)
	b.SetITT(q.t.itt)
	b.SetTTT(q.ttt)
	b.SetLUN(lunField(in.s.luns[q.t.lun].id))
	b.SetExpStatSN(in.acknowledged())
	b.SetDataSN(q.sn)
	b.SetOffset(q.off)
	last := q.off+n == q.to
	if last {
		b.SetFlags(pdu.FlagFinal)
	}
	if q.t.spoil {
		in.spoil(q.t, b, q.t.data[q.off:q.off+n])
	} else if q.t.broken {
		in.breakData(b, q.t.data[q.off:q.off+n])
	} else {
		in.send(b, q.t.data[q.off:q.off+n])
	}
	q.off += n
	q.sn++
	if last {
		if q.ttt != pdu.ReservedTag {
			q.t.r2ts--
		}
		in.bursts = append(in.bursts[:k], in.bursts[k+1:]...)
	}
}

// breakData sends a Data-Out PDU that is wrong: its command fails, and no other.
func (in *initiator) breakData(b pdu.BHS, data []byte) {
	if in.prm.dataDigest {
		in.s.count(BadDataDigests)
		in.send(b, data)
		in.tcp.corrupt(-1, 1)
		return
	}
	b.SetDataSN(b.DataSN() + 1)
	in.send(b, data)
}

func lunField(id uint16) uint64 {
	if id > 255 {
		return uint64(id|0x4000) << 48
	}
	return uint64(id) << 48
}

// repliesAtLength tells whether the data that t reads is as long as it is.
func (t *task) repliesAtLength() bool {
	return t.class == classReply || t.class == classSense || t.class == classRegistry || t.class == classModes || t.class == classPorts || t.class == classIdentity || t.class == classList || t.class == classResources || t.class == classLog || t.class == classResults
}

// stamp is a number that no other task of the run has.
func (t *task) stamp(initiator int) uint64 { return uint64(initiator+1)<<32 | uint64(t.itt) }
