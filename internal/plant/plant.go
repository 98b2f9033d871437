// Package plant holds bugs that the simulator has to find. They are compiled in
// by the build tag "simbugs" only; otherwise On is a constant false and what it
// guards does not exist.
//
// Threading: Set is called before anything runs; On from any thread. Memory:
// none.
package plant

import "slices"

// Bug names one planted bug.
type Bug uint8

// The bugs, each with the checker it is for.
const (
	None               Bug = iota
	LostResponse           // a command has no answer
	DoubleAnswer           // a task management function is answered twice
	SkippedStatSN          // a StatSN is left out
	WindowRetreat          // MaxCmdSN goes back
	WindowIgnored          // a command outside the window is executed
	WrongDataSN            // Data-In PDUs have one DataSN
	WrongR2TSN             // R2Ts have one R2TSN
	MissingFinal           // a Data-In sequence does not end
	WrongResidual          // a residual is one too many
	WrongDigest            // a data digest leaves the padding out
	AttentionTwice         // a unit attention is told again
	AttentionLost          // a reset is not told
	EarlyManagement        // ABORT TASK is answered before the task has ended
	StaleWrite             // a session is replaced with its writes under way
	ReservationOpen        // a reservation keeps nobody out
	EarlyFlush             // SYNCHRONIZE CACHE does nothing
	SkippedSync            // the file module reports a flush without fdatasync
	DroppedFUA             // a FUA write is a plain one
	LostWrite              // the RAM disk forgets a write
	BrokenHold             // COMPARE AND WRITE lets others in between
	StaleByte              // a READ answers what its buffer held
	LeakedBuffer           // a data buffer does not come back
	LeakedDescriptor       // a connection's descriptor stays open
	LeakedTimer            // a connection's timer outlives it
	LostWake               // a message does not wake its reactor
	EndlessWork            // a view always has something to do
	ForgottenStarving      // a receive that found no buffer is not tried again
	AuthSkipped            // security negotiation may be left out
	CutResponse            // the first bytes of a CHAP response are enough
	ReflectedChallenge     // a CHAP challenge may be sent back
	RepeatedChallenge      // every CHAP challenge is the same
	StaleSecret            // a rotation of secrets has no effect
	WrongProof             // the target proves the initiator's secret
	UnlimitedGuesses       // an address that fails CHAP does not wait
	StrangerJoins          // a connection joins the session of another user
	LockedOut              // a session keeps another user out without having to prove that its peer lives
	FenceForgotten         // a function is answered before what went ahead of it by other connections
	SessionSurvives        // a session outlives the loss of a connection
	EarlyLogout            // a connection is logged out with its tasks under way
	EarlyReplacement       // ... or replaced
	TakenForgotten         // a task that is taken over is not answered
	ResumedAnew            // data of a task that is taken over begins anew
	RedirectionIgnored     // a login that is to be sent away is let in
	AsyncTwice             // an asynchronous message that was ordered comes twice
	RecoverySkipped        // data that came broken is not asked for again
	WrongCopy              // what is sent again has another offset
	RetainedForgotten      // what was answered is not kept for SNACK
	UnaskedForgotten       // data that came for a command before its turn is not asked for
	ReservationShut        // registrants are kept out of a reservation for registrants
	Unfenced               // PREEMPT does not wait for the writes of those it removes
	PreemptUntold          // PREEMPT tells nobody
	StuckGeneration        // PREEMPT leaves PRGENERATION as it was
	Unkept                 // reservations with APTPL are not saved
	AbortedUntold          // TAS is not heeded
	WriteProtectOpen       // SWP is not heeded
	WriteBack              // the cache stays on
	ModesUntold            // MODE SELECT tells nobody
	EarlyResponse          // iSER: a response overtakes the RDMA WRITE of its data
	LostReceive            // iSER: a receive is not posted again
	EarlyFetched           // iSER: write data counts as there when its RDMA READ is posted
	ReadingFreed           // iSER: a task that is aborted does not wait for its RDMA READ
	WrongInvalidate        // iSER: a response invalidates another key
	LostSignal             // iSER: a turn's last message does not announce itself
	ReadLimit              // iSER: one RDMA READ more than the peer serves
	LostArm                // iSER: completion queues are not armed before sleep
	EarlyPing              // iSER: a message before the initiator's first
	LongMessage            // iSER: an echo longer than initiators have receives for
	LeakedQueuePair        // iSER: a queue pair outlives its removed device
	LeakedRegistration     // iSER: a registration outlives its device
	WrongOffset            // iSER: an RDMA READ forgets where it was
	LeavingForgotten       // a target reset does not wait for units that are being removed
	TornAtomic             // WRITE ATOMIC writes in two parts
	HalfUnmap              // UNMAP forgets the ranges behind the first
	LooseMerge             // ORWRITE lets others in between
	FlagsLost              // a 32-byte CDB loses its flags
	BirthForgotten         // TAS is 0 by default, whatever was configured
	EjectedOpen            // a unit without medium serves as if it had one
	PreventIgnored         // PREVENT does not keep the medium in
	LoadUntold             // a load tells nobody
	PathShut               // a path that is not active refuses what it must not
	PathOpen               // a path that is not active is served
	PortsUntold            // SET TARGET PORT GROUPS tells nobody
	WipeOpen               // commands run beside SANITIZE
	ShortWipe              // SANITIZE leaves the last block
	FormatOpen             // commands run beside FORMAT UNIT
	ShortFormat            // FORMAT UNIT leaves the first block
	EarlyFormat            // FORMAT UNIT is answered before it has ended
	FormatForgives         // FORMAT UNIT is taken after a SANITIZE that failed
	CopyOpen               // EXTENDED COPY goes past reservations
	CopyShort              // EXTENDED COPY leaves out its last segment
	CopyMiscounted         // COPY ABORTED tells of the segment before
	LostMerge              // ORWRITE does not heed FUA, nor a cache that is off
	TornRead               // what is left of a READ's data stays on the medium
	StaleReceive           // a WRITE that waits leaves its data in the receive buffer
	CapacityUntold         // a resize tells nobody
	ListUntold             // a unit that comes or goes tells nobody
	TerminatedUntold       // FastAbort: nobody is told of tasks that another session ends
	LaterEnded             // a function for a set of tasks ends those of its session that come behind it
	ModesUnsaved           // SP is not heeded
	ModesUnkept            // ... by what starts anew
	IdentityUnkept         // identifying information ends with the unit
	MovedUntold            // a unit attention is lost when its nexus moves to another reactor
	MovedEarly             // a session moves with tasks outstanding
	MovedForgotten         // what waits for a session that moves is forgotten
	DropForgotten          // a connection is said to be dropped, and is not
	ListRetold             // REPORT LUNS leaves 3F/0E waiting
	ThresholdUntold        // nobody is told of a provisioning threshold that is reached
	ThresholdRepeated      // ... or all are at every look
	UsageKept              // what a unit said first of its resources, it says ever after
	CountMissed            // an I/O that ends later is not counted
	CountsKept             // LOG SELECT resets nothing
	CountsForgotten        // ... or the counts of every page
	LogUntold              // ... or tells nobody
	GuardUnchecked         // protection information: a guard is not looked at
	ReferenceUnchecked     // ... nor a reference tag
	PlainUnprotected       // ... what is written without leaves that of before
	ShieldLate             // ... what is refused is written all the same
	OrderedIgnored         // ORDERED is SIMPLE
	AsyncLost              // an Asynchronous Message that an operator orders is not sent
	PortalIgnored          // a login by a portal group that has no map is let in
	ListedForgotten        // SPEC_I_PT: REGISTER registers the first of a list only
	ListedPartly           // ... or those before one that is malformed
	PortsForgotten         // ALL_TG_PT registers with one target port only
	CopyRetold             // what RECEIVE COPY RESULTS has told stays
	CopyOutlives           // ... and is there after a reset
	CopyUncounted          // ... its bytes are not counted
	ReadOnlyOpen           // a unit that is read only takes writes
	ReadOnlyCopied         // ... those of EXTENDED COPY
	NumBugs
)

var names = [NumBugs]string{
	"none", "lost response", "double answer", "skipped StatSN", "window retreat", "window ignored", "wrong DataSN",
	"wrong R2TSN", "missing F", "wrong residual", "wrong digest", "unit attention twice", "unit attention lost",
	"early management", "stale write", "reservation open", "early flush", "skipped sync",
	"dropped FUA", "lost write", "broken hold", "stale byte", "leaked buffer", "leaked descriptor", "leaked timer",
	"lost wake", "endless work", "forgotten starving",
	"auth skipped", "cut response", "reflected challenge", "repeated challenge", "stale secret", "wrong proof", "unlimited guesses",
	"stranger joins", "locked out", "fence forgotten", "session survives", "early logout", "early replacement",
	"taken forgotten", "resumed anew", "redirection ignored", "async twice", "recovery skipped", "wrong copy", "retained forgotten", "unasked forgotten",
	"reservation shut", "unfenced", "preempt untold", "stuck generation", "unkept",
	"aborted untold", "write protect open", "write back", "modes untold",
	"early response", "lost receive", "early fetched", "reading freed", "wrong invalidate", "lost signal", "read limit",
	"lost arm", "early ping", "long message", "leaked queue pair", "leaked registration", "wrong offset",
	"leaving forgotten",
	"torn atomic", "half unmap", "loose merge", "flags lost", "birth forgotten",
	"ejected open", "prevent ignored", "load untold", "path shut", "path open", "ports untold", "wipe open", "short wipe",
	"format open", "short format", "early format", "format forgives",
	"copy open", "copy short", "copy miscounted", "lost merge", "torn read",
	"stale receive",
	"capacity untold", "list untold", "terminated untold", "later ended", "modes unsaved", "modes unkept", "identity unkept",
	"moved untold", "moved early", "moved forgotten", "drop forgotten", "list retold",
	"threshold untold", "threshold repeated", "usage kept",
	"count missed", "counts kept", "counts forgotten", "log untold",
	"guard unchecked", "reference unchecked", "plain unprotected", "shield late",
	"ordered ignored", "async lost",
	"portal ignored",
	"listed forgotten", "listed partly", "ports forgotten",
	"copy retold", "copy outlives", "copy uncounted",
	"read only open", "read only copied",
}

func (b Bug) String() string { return names[b] }

// Find is the bug of a name.
func Find(name string) (Bug, bool) {
	i := slices.Index(names[:], name)
	return Bug(max(i, 0)), i >= 0
}
