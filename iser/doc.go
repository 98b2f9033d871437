// Package iser is iSCSI Extensions for RDMA (RFC 7145): a transport of the
// protocol engine over verbs.
//
// Every message, either way, is one SEND:
//
//	 0   1  flags: opcode in the high nibble (1 control), 0x08 WSV, 0x04 RSV
//	 1   3  reserved
//	 4   4  Write STag         initiator memory the target reads  (SCSI write)
//	 8   8  Write Base Offset
//	16   4  Read STag          initiator memory the target writes (SCSI read)
//	20   8  Read Base Offset
//	28  48  BHS
//	76   n  AHS, data segment
//
// Login is SENDs from the first byte on; there is no transition from TCP. Data
// of a SCSI read is written to the initiator's memory and followed by the
// response in the same chain of requests; data of a SCSI write that did not
// come with the command is read from it.
//
// Threading: a connection belongs to one reactor from its connection request
// on, chosen then by load, and never moves. A reactor posts, polls and arms;
// all else, connection manager events included, happens in steps of one control
// thread (see manager), which runs through reactor.Offload, one step at a time.
// The two speak by messages.
// Memory: receives are arena memory of the connection's reactor, posted in
// advance for every PDU the initiator may send, and copied into the engine's
// buffers; data is sent from and read into the engine's buffers where they lie.
// Every region of the Space is registered with each device in use, for local
// access only. Buffers belong to the device until their completion has been
// polled, or their queue pair destroyed.
package iser
