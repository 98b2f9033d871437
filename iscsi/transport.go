package iscsi

import (
	"net/netip"

	"spindle/iscsi/pdu"
	"spindle/reactor"
	"spindle/reactor/mem"
)

// Traits tell the engine what a transport is like.
type Traits struct {
	Name          string // "tcp", "iser": shown by iscsi_get_connections
	Digests       bool   // may negotiate HeaderDigest and DataDigest
	RDMAKeys      bool   // RDMAExtensions=Yes and the iSER keys belong here (RFC 7145 §6)
	MaxRecvData   uint32 // bytes: MaxRecvDataSegmentLength (or TargetRecvDataSegmentLength) we declare
	MaxSendData   uint32 // bytes: bound of a data segment we send in full feature phase; 0 = the peer's MRDSL
	SolicitedPDUs bool   // solicited data comes as R2T and Data-Out PDUs
}

// Transport makes listeners. TCP is the first, iSER the next; the engine is
// handed them as values.
type Transport interface {
	Traits() Traits
	// Listen serves addr on r's ring and hands each new connection to accept, on r.
	// May block: called off the reactors (Caller.Block is used inside as needed).
	Listen(c reactor.Caller, r *reactor.Reactor, addr netip.AddrPort, accept func(Conn)) (Listener, error)
}

// Listener is a portal being served.
type Listener interface {
	Addr() netip.AddrPort
	// Close stops accepting; connections live on.
	Close(c reactor.Caller)
}

// Params are the results of negotiation that a transport needs to move PDUs.
type Params struct {
	HeaderDigest, DataDigest bool
	MaxSendData              uint32 // bytes: the peer's MaxRecvDataSegmentLength
	MaxRecvData              uint32 // bytes: what we declared
	Window                   *Window
}

// Window is the command window of a session, stamped into each PDU as it
// leaves. Owner: the session's reactor.
type Window struct{ ExpCmdSN, MaxCmdSN uint32 }

// Out is one PDU to send. It comes from Conn.Reserve and goes back to the
// transport with Queue.
type Out struct {
	BHS  pdu.BHS // 48 bytes of arena memory, not cleared
	Data mem.Ref // data segment; the memory stays put until Sent
	// Done, when set, is told once the PDU and its data are no longer needed.
	Done Sent
	Arg  any

	Next *Out // the holder's list
	hold any
}

// Sent is told that an Out has left, or died with its connection.
type Sent interface{ OutSent(o *Out) }

// PDU is one received PDU.
type PDU struct {
	BHS  pdu.BHS // valid during the call
	AHS  []byte  // valid during the call
	Data mem.Ref // where its data segment went (the Sink's memory)
	Ctx  any     // the Sink's context
	// BadData: the data digest did not match (RFC 7143 §7.8); Data is not to be used.
	BadData bool
}

// Sink is the engine's answer to a header: where its data segment goes.
type Sink struct {
	// Data receives the segment; shorter than it, and the rest is discarded.
	Data mem.Ref
	// Ctx comes back in PDU.Ctx.
	Ctx any
	// Close: the header is beyond repair, the connection ends now.
	Close bool
}

// Conn is a connection of a transport. All calls are made on its reactor.
type Conn interface {
	Traits() Traits
	Addrs() (local, peer netip.AddrPort)
	// SetHandler gives the engine's side; before anything is received.
	SetHandler(h Handler)
	// Start receives in login mode: one PDU at a time, nothing read ahead.
	Start()
	// NextLogin asks for the next login-mode PDU.
	NextLogin()
	// Reserve returns an Out, or nil when the connection's are all in use; Ready
	// is called when there is one again.
	Reserve() *Out
	// Queue sends o after all queued before it. ExpCmdSN and MaxCmdSN are
	// stamped when it leaves.
	Queue(o *Out)
	// Move takes the connection to r; moved is called there. In login mode, with
	// nothing queued or being received.
	Move(r *reactor.Reactor, moved func())
	// FullFeature turns to streaming mode with p.
	FullFeature(p Params)
	// Pause stops handing over PDUs; pausing is bounded, the peer is pushed back on.
	Pause(bool)
	// Drain calls Handler.Drained once all that was queued has left.
	Drain()
	// Close ends the connection; Handler.Closed follows, once, with nothing in flight.
	Close(why error)
}

// Handler is the engine's side of a Conn. All calls are made on its reactor.
type Handler interface {
	// Header decodes a header and says where its data goes. Parse only: it runs
	// under the connection's recover frame and must not touch shared state.
	Header(p *PDU) Sink
	// Received dispatches a whole PDU.
	Received(p *PDU)
	// Ready: Reserve has Outs again.
	Ready()
	// Drained answers Drain.
	Drained()
	// Closed: once, nothing in flight; the Conn is dead.
	Closed(why error)
}
