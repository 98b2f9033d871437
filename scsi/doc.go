// Package scsi is the SCSI device server: logical units that decode CDBs, keep
// mode pages, reservations and unit attentions, and turn commands into block
// I/O. It knows no transport.
//
// A transport engine embeds Task in its own task and drives it: Begin (nexus.go
// finds the I_T_L nexus), Prepare (opcode.go finds the command's row, the row
// decodes), Execute (taskrun.go runs the row's steps), End. A row's next
// function is a small state machine that says what it wants: an I/O, a hold on
// its range, home, or to be done. rows.go is the table, which is also what
// REPORT SUPPORTED OPERATION CODES reports.
//
// Threading: a Task, its Nexus and its View belong to one reactor. A LogicalUnit
// has a home reactor, the only writer of its shared state: that of the view
// that was used first. Views and home speak by messages, or by plain calls when
// they share a reactor, so a unit that one reactor views posts none:
//
//	home.go   a view asks (homeCall), home answers
//	round.go  a change goes to every active view; its command has its status once
//	          all have installed the snapshot, queued the unit attentions and
//	          seen out the tasks that the change fences or aborts
//	hold.go   COMPARE AND WRITE, ORWRITE and ORDERED tasks hold a range: newer
//	          commands that overlap park on their views, older ones are waited for
//	watch.go  how a view waits for tasks to leave
//	manage.go task management: rounds that abort, time-boxed
//	move.go   a nexus goes to another reactor
//
// What follows from shared state and may refuse a command is a bit in a byte of
// its I_T_L nexus (ua.go): reservations (prout.go, prregister.go; kept over power
// loss by prstore.go before the round starts), a medium that is not there
// (medium.go), SANITIZE and FORMAT UNIT (sanitize.go, format.go; wipe.go is the
// work, which home does on its own channel and which outlives its command), and
// ALUA (ports.go).
//
// EXTENDED COPY (xcopy.go) runs READs and WRITEs as child tasks of its nexus, so
// that a copy may do what its initiator may do, and nothing else.
//
// The path of a READ tests one byte of its I_T_L nexus, loads the view's
// snapshot once and submits. The engine is never called back from inside its
// own call, except Owner.TaskAbort from Abort, Manage and Close.
//
// Memory: a Task is allocated once by the transport engine and reused; its
// data buffer is the engine's, from the reactor's arena, with the scratch a
// command works in behind the data. Memory that a device lends goes back with
// End. Snapshots are immutable Go memory; messages are embedded in what they
// speak for.
package scsi
