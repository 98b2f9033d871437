// Package tcp is iSCSI over TCP: framing of a byte stream into PDUs, digests,
// and batched sending, over a reactor's ring.
//
//	wire:  BHS 48 | AHS | header digest | data | pad to 4 | data digest
//
// In login mode a connection reads exactly one PDU at a time, so that it can
// move to another reactor with nothing read ahead; in full feature phase a
// multishot receive fills provided buffers, and whatever was queued in a turn
// leaves as one sendmsg.
//
// Threading: a connection belongs to one reactor; a Transport is shared and has
// one shard a reactor.
// Memory: receive buffers are the ring's, held for a bounded time; each
// connection has one arena block for its send vectors and Data-In headers. Data
// segments are copied once, from receive buffer to the Sink's memory, or not at
// all (PDU.Here), and sent from where they lie.
package tcp
