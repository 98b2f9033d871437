// Package pdu holds the wire formats of iSCSI (RFC 7143 §11): views over the
// 48 bytes of a basic header segment, additional header segments, digests and
// text keys. It is shared by the engine, the load generator and the simulator.
//
//	       0        1        2        3
//	 0 | opcode |F flags |                |
//	 4 |AHS len | data segment length     |
//	 8 | LUN, or opcode specific          |
//	16 | initiator task tag              |
//	20 | opcode specific, to byte 47     |
//	   | AHS | header digest | data, padded to 4 | data digest |
//
// Threading: stateless. Memory: views alias the caller's bytes and copy nothing.
package pdu
