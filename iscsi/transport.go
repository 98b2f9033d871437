package iscsi

import (
	"errors"
	"net/netip"

	"spindle/internal/plant"
	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/mem"
)

// Traits tell the engine what a transport is like.
type Traits struct {
	Name        string // "tcp", "iser": shown by iscsi_get_connections
	Digests     bool   // may negotiate HeaderDigest and DataDigest
	RDMAKeys    bool   // RDMAExtensions=Yes and the iSER keys belong here (RFC 7145 §6)
	MaxRecvData uint32 // bytes: MaxRecvDataSegmentLength (or TargetRecvDataSegmentLength) we declare
	MaxSendData uint32 // bytes: bound of a data segment we send in full feature phase; 0 = the peer's
	InitialR2T  bool   // wants InitialR2T=Yes: no place for unsolicited Data-Out PDUs
	// Pinned connections stay on the reactor that accepted them, and count in its
	// Load from accept to Closed without the engine's doing.
	Pinned bool
	// Reads: Fetch reads the initiator's memory without its help. A task has one
	// Fetch, for all of the data that is missing, and Handler.Fetched answers it.
	Reads bool
}

// Transport makes listeners. TCP is the first, iSER the next; the engine is
// handed them as values.
type Transport interface {
	Traits() Traits
	// Listen serves addr on r and hands each new connection to accept, on the
	// connection's reactor: r, or the transport's choice if it pins connections.
	// Called from control code; may block through c.
	Listen(c reactor.Caller, r *reactor.Reactor, addr netip.AddrPort, accept func(*reactor.Reactor, Conn)) (Listener, error)
}

// Listener is a portal being served.
type Listener interface {
	Addr() netip.AddrPort
	// Waiting is why the portal is not being served yet, nil when it is. Safe from
	// any thread.
	Waiting() error
	// Close stops accepting; connections live on.
	Close(c reactor.Caller)
}

// Placer is a Conn that knows where it is served best.
type Placer interface {
	// Place returns the reactor that the connection belongs on, nil when that does
	// not matter; least is the one with the fewest connections.
	Place(least *reactor.Reactor) *reactor.Reactor
}

// A Mover is a Conn that may go to another reactor in full feature phase.
type Mover interface {
	// Reserve makes room on r for the connection; Move to r uses it, and cannot
	// fail. Preconditions: runs on r, the connection is on another reactor.
	Reserve(r *reactor.Reactor) error
	// Unreserve gives that up. Preconditions: runs on r.
	Unreserve(r *reactor.Reactor)
	// Rest stops receiving and calls done at the end of a turn, again and again,
	// once nothing comes any more; what has come went to the Handler. quiet says
	// that nothing is left of it, nor anything to send. Done may then Move the
	// connection, and says so, or have it Rise. A connection that closes has no
	// done.
	Rest(done func(quiet bool) (gone bool))
	// Rise receives again.
	Rise()
}

// Params are the results of negotiation that a transport needs to move PDUs.
type Params struct {
	HeaderDigest, DataDigest bool
	MaxRecvData              uint32 // bytes: bound of the data segments of the initiator, as negotiated
	MaxBurst                 uint32 // bytes: a Data-In sequence ends here (RFC 7143 §11.7.2)

	Discovery  bool
	Window     uint32 // commands the initiator may have on their way
	InitialR2T bool
	FirstBurst uint32 // bytes of unsolicited data a command may bring
	// AskAcks: data-in sequences ask to be acknowledged (RFC 7143 §11.7.2, the A bit).
	AskAcks bool
	// WholeBuffer: a write's tagged buffer begins with the command's first byte,
	// unsolicited data included (TaggedBufferForSolicitedDataOnly=No, RFC 7145 §6.9).
	WholeBuffer bool
}

// Cookie is what a transport's PDU brings along for the transport itself. The
// engine copies it from a command to its Reply and its Fetch.
type Cookie [3]uint64

// Conn is a connection of a transport. All calls are made on its reactor.
type Conn interface {
	Traits() Traits
	Addrs() (local, peer netip.AddrPort)
	// Start gives the engine's side and the counters to stamp with, and begins
	// to receive in login mode: one PDU at a time, nothing read ahead. It fails
	// when there is no memory for the connection.
	Start(h Handler, seq *Sequence) error
	// NextLogin asks for the next login-mode PDU.
	NextLogin()
	// Queue sends o after all that was queued before it.
	Queue(o *Out)
	// Respond moves a command's data-in, if any, and then its status.
	Respond(p *Reply)
	// Fetch asks the initiator for write data: an R2T here, an RDMA READ there.
	// f and what it refers to stay until Fetched where Traits.Reads is set;
	// elsewhere f is valid during the call only.
	Fetch(f *Fetch)
	// Move takes the connection to r and calls moved there, with an error when r
	// has no memory for it. Preconditions: login mode, nothing queued or received;
	// or as Mover has it.
	Move(r *reactor.Reactor, moved func(error))
	// Provision tells what full feature phase will be like before the final Login
	// Response is queued, so that there is a place for what may come right after
	// it. An error refuses the login.
	Provision(p Params) error
	// FullFeature turns to streaming mode with p.
	FullFeature(p Params)
	// Resume hands over the PDU that Received refused, and those behind it.
	Resume()
	// Drain has Handler.Drained called once all that was queued has left.
	Drain()
	// Close ends the connection; Handler.Closed follows, once, with nothing in
	// flight and every queued Out handed back.
	Close(why error)
}

// Handler is the engine's side of a Conn. All calls are made on its reactor.
type Handler interface {
	// Header decodes a header and says in p.Sink, which is zero before, where its
	// data goes. It runs under the connection's recover frame: a panic here ends
	// this connection only.
	Header(p *PDU)
	// Received dispatches a whole PDU. False: no room now; the connection stops
	// receiving and the same PDU comes again after Resume.
	Received(p *PDU) bool
	// Fetched: all of f's data is in place. A Fetch that dies with its connection
	// is not answered: Closed says that nothing of it is in flight.
	Fetched(f *Fetch)
	// Drained answers Drain.
	Drained()
	// Closed: once, nothing in flight; the Conn is dead.
	Closed(why error)
}

// PDU is one received PDU.
type PDU struct {
	BHS pdu.BHS // valid until Received returns true
	AHS []byte  // likewise
	// Here is the data segment where it was received, likewise: empty unless all of
	// it has come, intact, and Received follows Header with nothing in between.
	Here mem.Ref
	Sink
	// BadData: the data digest did not match; the Sink's memory is not to be used.
	BadData bool
	Cookie  Cookie
}

// Sink is the engine's answer to a header. It is a part of the PDU and no result,
// because the compiler would pass one of this size through memory, twice.
type Sink struct {
	// Data receives the data segment; what does not fit is discarded.
	Data mem.Ref
	// Ctx is the engine's, opaque to the transport.
	Ctx *Task
	// Close ends the connection with this error: the stream is beyond repair.
	Close error
	// Stop receives nothing more: a farewell is queued. Login mode only.
	Stop bool
}

// Kinds of errors with which a transport ends a connection.
var (
	ErrDigest = errors.New("digest error")
	ErrFormat = errors.New("malformed PDU")
)

// Stamp says how StatSN is filled in when a PDU leaves (RFC 7143 §4.2.2.2).
type Stamp uint8

const (
	StampNone    Stamp = iota // the field is reserved in this PDU, or already set
	StampCurrent              // carries the next StatSN without consuming it (R2T, NOP-In as ping)
	StampNext                 // carries a status: consumes one
)

// Sequence holds the counters stamped into each PDU as it leaves. Owner: the
// connection's reactor.
type Sequence struct {
	StatSN uint32  // of the connection
	Window *Window // of the session
	// MaxSendData is the initiator's MaxRecvDataSegmentLength, in bytes: it may
	// declare another in full feature phase (RFC 7143 §13.12).
	MaxSendData uint32
	Sent        uint64 // PDUs
}

// Window is the command window of a session.
type Window struct {
	ExpCmdSN, MaxCmdSN uint32
	// Told is the MaxCmdSN that left last: what the initiator knows.
	Told uint32
}

// Stamp fills StatSN, ExpCmdSN and MaxCmdSN into b, in the order PDUs leave.
//
//spindle:hot
func (s *Sequence) Stamp(b pdu.BHS, how Stamp) {
	s.Sent++
	switch how {
	case StampCurrent:
		b.SetStatSN(s.StatSN)
	case StampNext:
		if plant.On(plant.SkippedStatSN) && s.StatSN%128 == 100 {
			s.StatSN++
		}
		b.SetStatSN(s.StatSN)
		s.StatSN++
	}
	exp, most := s.Window.Tell()
	b.SetExpCmdSN(exp)
	b.SetMaxCmdSN(most)
}

// Tell returns the counters for a PDU that leaves now.
//
//spindle:hot
func (w *Window) Tell() (expCmdSN, maxCmdSN uint32) {
	w.Told = w.MaxCmdSN
	return w.ExpCmdSN, w.MaxCmdSN
}

// A slot is the arena memory of an Out.
//
//	  0 ..  31  room for a transport's own header (iSER's ends at 31)
//	 32 ..  79  BHS
//	 80 ..  83  header digest
//	 96 .. 103  padding and data digest
//	128 .. 255  small data: sense, a rejected header
const (
	OutSlot      = 256
	SlotBHS      = 32
	SlotTrailer  = 96
	SlotData     = 128
	SlotDataSize = OutSlot - SlotData
)

// Out is one PDU to send. Its owner embeds it and keeps it and its memory in
// place from Queue to Done.
type Out struct {
	BHS   pdu.BHS
	Data  mem.Ref
	Slot  mem.Ref
	Stamp Stamp
	// Done is told, when set, that the PDU has left or died with its connection.
	Done Sent
	// Reply is the command response this Out carries, nil for any other PDU.
	Reply *Reply

	Next *Out // the holder's list
}

// Sent is told that an Out is its owner's again.
type Sent interface{ OutSent(o *Out) }

// Bind gives o its slot.
func (o *Out) Bind(slot mem.Ref) {
	o.Slot = slot
	o.BHS = pdu.BHS(slot.Slice(SlotBHS, pdu.HeaderLen).Bytes())
}

// Small copies b into the slot's small data and makes it the data segment.
// Preconditions: len(b) <= SlotDataSize.
func (o *Out) Small(b []byte) {
	o.Data = o.Slot.Slice(SlotData, uint32(len(b)))
	copy(o.Data.Bytes(), b)
}

// A Prompter is a Conn that can have a response's data read before the turn
// ends, from where it lies.
type Prompter interface {
	// Prompt asks for that for the next response, with n bytes of data. True: the
	// response is queued at once, with Reply.Live set.
	Prompt(n uint32) bool
}

// A Settler is an Out's owner whose Live data can be moved to where nobody
// writes to it, from a byte on: Reply.Data tells where that is.
type Settler interface{ Settle(p *Reply, from uint32) }

// Reply is a SCSI command's answer: its data-in and its status. Embedded in the
// task; Out.Done is told when all of it has left.
type Reply struct {
	Out      Out
	ITT      uint32
	Data     mem.Ref // data-in, truncated to the expected length
	Live     bool    // Data is the medium: what is not sent when the turn ends has to be settled
	Status   uint8
	Response uint8 // iSCSI service response (RFC 7143 §11.4.3)
	Flags    byte  // FlagOverflow, FlagUnderfl
	// Unsent is set while Out.Done is told that the connection died before the
	// status was sent.
	Unsent   bool
	Residual uint32
	Sense    mem.Ref // SenseLength and sense data, in the Out's slot
	Cookie   Cookie  // of the command
	// Segment bounds the data of a Data-In PDU, in bytes, where the numbers of its
	// PDUs may be asked for; elsewhere it is 0 and Sequence.MaxSendData does.
	Segment uint32

	// The transport's progress.
	Off    uint32
	DataSN uint32
	Vecs   int // of the message, up to this reply's last
}

// A DataAcker is an Out's owner whose data-in can be acknowledged: what is asked
// is answered by a DataACK SNACK with these.
type DataAcker interface {
	AckTag() (lun uint64, ttt uint32)
}

// SCSIResponse writes the SCSI Response PDU of p into its Out (RFC 7143 §11.4).
// dataPDUs is the number of Data-In PDUs that went before it (ExpDataSN).
//
//spindle:hot
func (p *Reply) SCSIResponse(dataPDUs uint32) {
	b := p.Out.BHS
	b.Clear(pdu.SCSIResponse)
	b.SetFlags(pdu.FlagFinal | p.Flags)
	b.SetResponse(p.Response)
	b.SetStatus(p.Status)
	b.SetITT(p.ITT)
	b.SetDataSN(dataPDUs)
	b.SetResidual(p.Residual)
	b.SetDataLen(p.Sense.Len)
	p.Out.Data = p.Sense
	p.Out.Stamp = StampNext
}

// Fetch is a request for write data. Over TCP it is an R2T, and the data comes
// as Data-Out PDUs through Handler.Header.
type Fetch struct {
	Out    *Out // nil where Traits.Reads is set: no PDU goes out
	LUN    uint64
	ITT    uint32
	TTT    uint32
	R2TSN  uint32
	Offset uint32  // bytes into the command's data
	Data   mem.Ref // where Offset's bytes go; its length is the desired length
	Cookie Cookie  // of the command

	// The transport's progress.
	Done uint32 // bytes asked for
	Left uint32 // requests in flight
	Next *Fetch // the transport's list

	task *Task
}

// An Unfetcher is a Conn that can give up the rest of a Fetch whose task was
// aborted. True: nothing of it is in flight, and Fetched does not come.
type Unfetcher interface{ Unfetch(f *Fetch) bool }
