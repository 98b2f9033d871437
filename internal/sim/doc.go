// Package sim runs the whole target from a seed: the real engine, TCP framing,
// in a third of the seeds iSER beside it, device server, block modules and poll
// loops of up to three reactors, over a simulated kernel, an RDMA fabric in
// process and a manual clock, against model initiators that know what the
// protocol and the medium owe them.
//
// One goroutine runs everything. A scheduler draws each next step from the
// seed: a turn of a reactor, a step of an initiator, an event of the simulated
// kernel, a step of control code, or the passing of time. Reactors and control
// code are coroutines: a reactor that went to sleep gets no turn until a
// completion, a wake-up or its deadline. A run is (seed, commit): Run twice
// with one Config and the traces are equal.
//
// The initiators send READ and WRITE of every length (6 to 32 bytes, the last
// behind the header), with protection information where a unit has it, right and
// wrong, WRITE AND VERIFY, WRITE ATOMIC, VERIFY, SYNCHRONIZE
// CACHE, UNMAP, WRITE SAME, COMPARE AND WRITE, ORWRITE, RESERVE and RELEASE,
// PERSISTENT RESERVE IN and OUT, for other nexuses and target ports too, MODE SENSE and SELECT, with saved pages,
// LOG SENSE and SELECT of counts, and of the resources of thin units, which have a
// threshold, SET and REPORT IDENTIFYING INFORMATION, START STOP UNIT and PREVENT
// ALLOW MEDIUM REMOVAL on removable units, REPORT and SET TARGET PORT GROUPS,
// SANITIZE, FORMAT UNIT, EXTENDED COPY from unit to unit and RECEIVE COPY RESULTS, REPORT LUNS, commands that only look, and
// such as have to be refused; every task management function; and units have TAS
// from birth or not.
//
// What is checked: every command that was accepted is answered once or its
// session died, for a reason; StatSN, CmdSN window, DataSN, R2TSN, offsets and
// bursts; residuals; each block is a linearizable register, also of what
// ORWRITE merges into it and EXTENDED COPY brings from another, which read its
// own source, and how that ended is told once and no longer than until a reset; nothing that a flush, FUA or a cache that is off made durable is
// lost with power; one READ does not see parts of an atomic command; nobody is
// let in whose CHAP response is wrong, or kept out whose is right, by the
// secrets of the moment, nor for long by another user's session whose peer is gone,
// and the target answers a challenge of its initiators
// rightly or not at all; sessions of several connections keep one window and each
// connection its own StatSN and tasks, one that is logged out or replaced has
// ended with its tasks, and the loss of one ends all; at ErrorRecoveryLevel 1 and
// 2 broken data is asked for again and its command suffers nothing, and what is
// asked for by SNACK is the same; a task whose connection is lost is taken over by
// another and answered once; logins are redirected while they are to be, and
// nothing is told by Asynchronous Message that nobody ordered, but with FastAbort
// the end of tasks by another session is, and a connection that
// is dropped by order ends with its tasks, and its session goes on;
// registrations, reservations, mode parameters and those that are saved,
// identifying information, whether the unit is ready and the states of its paths are one object that every nexus
// sees alike, and no write of a preempted nexus comes through its fence; a wipe that
// leaves zeroes has its unit for itself, and ends with its command or later; unit
// attentions come once, and those for another capacity or another list of units do
// come, unless REPORT LUNS has told the list; task management is answered after its tasks have ended;
// that a threshold is reached every nexus is told once, log pages tell what is in use and
// count what the unit's device did since LOG SELECT reset that page, and no more;
// protection information is that of what its block holds, and a WRITE for which it is
// wrong changes nothing, nor does any of a unit that is read only; no byte arrives that nobody wrote; over iSER, that memory is reached only
// while a command advertises it, that the target has a receive for all its
// window lets come and keeps to the RDMA READs its peer serves, and that a
// removed device is let go in time; no reactor sleeps over its work, and sessions go from one to another in half of the
// runs that have several; no turn is
// without bound; and in the end every buffer, descriptor and session is home.
//
// Threading: a Machine and its runs belong to one goroutine; several Machines
// run side by side.
// Memory: a Machine maps the arenas and RAM disks once and reuses them for
// every run.
package sim
