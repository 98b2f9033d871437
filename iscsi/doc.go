// Package iscsi is the protocol engine (RFC 7143): negotiation, login, sessions,
// command windows, tasks, task management, discovery, target nodes, portal and
// initiator groups. It speaks to the wire through the Transport seam only and
// knows neither TCP nor RDMA.
//
// Threading: a Session and its connections belong to one reactor. What login
// reads (nodes, groups, options) is one immutable snapshot behind an atomic
// pointer, replaced whole by the control plane.
// Memory: a reactor's tasks are Go objects that its sessions share, as many as
// were ever in use at once; connection objects are allocated when a connection is
// made. Data buffers come from the reactor's arena.
package iscsi
