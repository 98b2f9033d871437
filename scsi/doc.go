// Package scsi is the SCSI device server: logical units that decode CDBs, keep
// mode pages, reservations and unit attentions, and turn commands into block
// I/O. It knows no transport.
//
// Threading: a LogicalUnit has a home reactor, the only writer of its shared
// state; every reactor has a View of it, an immutable snapshot plus what runs
// there. A Task, its Nexus and its View belong to one reactor. Views and home
// speak by messages only.
// Memory: a Task is allocated once by the transport engine and reused; its
// data buffer is the engine's, from the reactor's arena.
package scsi
