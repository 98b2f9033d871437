// Package login is the login dialogue of an iSCSI target (RFC 7143 §6, §7 and
// §13) as a value-in, value-out machine: a Login Request goes in, the Login
// Response that answers it comes out. It holds the stages, the key table with
// each key's negotiation function, CHAP, and the text exchange of full feature
// phase with its SendTargets answer.
//
//	request 1..n --C bit--> text --> pairs --> names, Resolver
//	                                             |
//	   security stage: AuthMethod, CHAP <--------+--> operational stage: key table
//	                                             |
//	                       answer, offers --C bit--> response 1..n, T bit, status
//
// It knows no socket, clock or session: who the initiator may log in to is the
// Resolver's answer, and what a finished login does to sessions is the engine's.
// Timeouts and the limit on pending logins are the engine's too.
//
// Threading: a Machine belongs to one goroutine or reactor. A Resolver and a
// SecretStore are called inside Step and must not block.
// Memory: login is no hot path and allocates, within the limits of limits.go:
// nothing taken from the wire sizes an allocation. What Step returns is the
// caller's; what it is given is not kept.
package login
