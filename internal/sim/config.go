package sim

import (
	"fmt"
	"strings"

	"spindle/reactor/ring/simring"
	"spindle/verbs/memverbs"
)

// Config is what a run is made of. Zero fields are drawn from the seed.
type Config struct {
	Seed       uint64
	Actions    int               // of all initiators together
	Reactors   int               // 1 to MaxReactors
	Initiators int               // 1 to maxInitiators
	Calm       bool              // no faults
	ISER       bool              // over iSER too, whatever the seed says
	Drop       map[ActionID]bool // actions that are left out
	Keep       map[ActionID]bool // when not nil: the only actions that are made
	Trace      bool              // keep the lines of the trace
}

// ActionID names an action of an initiator.
type ActionID struct{ Initiator, Index int }

func (a ActionID) String() string { return fmt.Sprintf("%d:%d", a.Initiator, a.Index) }

// maxInitiators bounds the initiators of a run.
const maxInitiators = 4

// Report is what a run did.
type Report struct {
	Seed     uint64
	Failure  *Failure // nil: nothing was violated
	Hash     uint64   // of the trace
	Steps    uint64
	Commands uint64     // SCSI commands sent
	Actions  []ActionID // that were made, in order
	Faults   simring.Counts
	Fabric   memverbs.Counts
	States   States
	Lines    []string // of the trace, when kept
}

// Failure is a violation of a rule.
type Failure struct {
	Rule, Text string
	Stack      string // of a panic
}

func (f *Failure) Error() string { return f.Rule + ": " + f.Text }

// Injected is the number of faults of both worlds.
func (r *Report) Injected() uint64 { return r.Faults.Total() + r.Fabric.Injected() }

// State is something a run may see; a large number of runs has to see each.
type State int

// States.
const (
	Logins State = iota
	LoginsRefused
	SuccessorsRefused
	SuccessorsLetIn
	Reinstatements
	Discoveries
	LoginsCHAP
	LoginsMutual
	CHAPMD5
	CHAPSHA1
	CHAPSHA256
	CHAPSHA3
	LoginsDenied
	ChallengesReflected
	SecretsRotated
	PoliciesChanged
	AddressesMadeToWait
	ConnectionsJoined
	ConnectionsReplaced
	ConnectionsLoggedOut
	ConnectionsLoggedOutByOthers
	ConnectionsAdrift
	ConnectionsTooMany
	SessionsFailed
	GapsPlugged
	LiveSends
	LiveCopies
	DataSNACKs
	StatusSNACKs
	DataACKs
	CopiesReceived
	SNACKsRefused
	DataSpoiled
	R2TsRecovering
	RequestsSentAgain
	ConnectionsBroken
	TasksReassigned
	TasksNotFound
	Redirections
	LoginsRedirected
	AsyncMessages
	ConnectionsDropped
	FastAborts
	FastAbortsDue
	SessionsDropped
	Reads
	Writes
	WritesImmediate
	WritesUnsolicited
	WritesR2T
	WritesBursts
	ReadsBursts
	Flushes
	FUAs
	Unmaps
	WriteSames
	Swaps
	SwapsDiffered
	ORWrites
	Copies
	CopiesAborted
	CopiesPartial
	CopyPieces
	CopyStatuses
	CopyDetails
	CopyParameters
	CopiesRunning
	CopiesTold
	CopiesGone
	Merges
	LongCDBs
	Verifies
	Inquiries
	Reservations
	ReleasesOld
	Registers
	RegisterIgnores
	RegisterMoves
	RegistersListed
	RegistersAllPorts
	RegisteredByOthers
	ListsRefused
	ListsMalformed
	PRReserves
	PRReleases
	PRClears
	PRPreempts
	PRPreemptAborts
	RegistriesRead
	ReservationsKept
	Fences
	FencedWrites
	ModeSelects
	ModesRead
	ModesSaved
	ModesReadSaved
	IdentitiesSet
	IdentitiesRead
	ThresholdsTold
	ResourcesRead
	ReadsShielded
	WritesShielded
	ShieldsRefused
	LogsRead
	LogsSelected
	WritesProtected
	WritesLocked
	ReadsLocked
	LocksTurned
	WritesThrough
	TasksAbortedTold
	WritesAtomic
	WritesOrdered
	AtomicsCompared
	UnmapsOfTwo
	Loads
	Ejects
	Prevents
	Allows
	PortsSet
	PortsRead
	PathsShut
	Sanitizes
	Erasures
	SanitizeExits
	Formats
	NotReadys
	NotReadysSanitize
	NotReadysFormat
	WipesFailed
	StoreSaves
	StoreFaults
	Conflicts
	Residuals
	RefusedCDBs
	UnitAttentions
	MediumErrors
	AbortedCommands
	TaskSetFulls
	Busies
	AbortTask
	AbortTaskSet
	ClearTaskSet
	LUNReset
	WarmReset
	ColdReset
	NoSuchTask
	TasksAborted
	Pings
	PingsOfTarget
	WindowTold
	WindowBroken
	WindowShut
	OutOfOrder
	BadHeaderDigests
	BadDataDigests
	Rejects
	Logouts
	LogoutsAsked
	Vanished
	HalfClosed
	ResetByPeer
	ClosedByPeer
	Stalls
	HeaderDigests
	DataDigests
	SessionsLost
	Kills
	PowerFailures
	FailedDisks
	Reconfigurations
	LUNsAdded
	LUNsRemoved
	Resizes
	ResizesSeen
	CapacitiesRead
	ListsRead
	Moves
	Sleeps
	MixedBlocks
	Searches
	DialsRDMA
	RejectedRDMA
	LoginsRDMA
	Invalidating
	WholeBuffers
	ReadsRDMA
	WritesRDMA
	DevicesRemoved
	PortalsToggled
	AddressChanges
	SessionsMoved
	SessionsStayed
	numStates
)

var stateNames = [numStates]string{
	"Logins", "LoginsRefused", "SuccessorsRefused", "SuccessorsLetIn", "Reinstatements", "Discoveries",
	"LoginsCHAP", "LoginsMutual", "CHAPMD5", "CHAPSHA1", "CHAPSHA256", "CHAPSHA3", "LoginsDenied", "ChallengesReflected",
	"SecretsRotated", "PoliciesChanged", "AddressesMadeToWait",
	"ConnectionsJoined", "ConnectionsReplaced", "ConnectionsLoggedOut", "ConnectionsLoggedOutByOthers", "ConnectionsAdrift",
	"ConnectionsTooMany", "SessionsFailed", "GapsPlugged",
	"LiveSends", "LiveCopies", "DataSNACKs", "StatusSNACKs", "DataACKs", "CopiesReceived", "SNACKsRefused", "DataSpoiled", "R2TsRecovering", "RequestsSentAgain",
	"ConnectionsBroken", "TasksReassigned", "TasksNotFound", "Redirections", "LoginsRedirected", "AsyncMessages", "ConnectionsDropped", "FastAborts", "FastAbortsDue", "SessionsDropped",
	"Reads", "Writes", "WritesImmediate",
	"WritesUnsolicited", "WritesR2T", "WritesBursts", "ReadsBursts", "Flushes", "FUAs", "Unmaps", "WriteSames",
	"Swaps", "SwapsDiffered", "ORWrites", "Copies", "CopiesAborted", "CopiesPartial", "CopyPieces", "CopyStatuses", "CopyDetails", "CopyParameters", "CopiesRunning", "CopiesTold", "CopiesGone", "Merges", "LongCDBs", "Verifies", "Inquiries", "Reservations", "ReleasesOld",
	"Registers", "RegisterIgnores", "RegisterMoves", "RegistersListed", "RegistersAllPorts", "RegisteredByOthers", "ListsRefused", "ListsMalformed", "PRReserves", "PRReleases", "PRClears", "PRPreempts", "PRPreemptAborts",
	"RegistriesRead", "ReservationsKept", "Fences", "FencedWrites", "ModeSelects", "ModesRead", "ModesSaved", "ModesReadSaved", "IdentitiesSet", "IdentitiesRead", "ThresholdsTold", "ResourcesRead", "ReadsShielded", "WritesShielded", "ShieldsRefused", "LogsRead", "LogsSelected", "WritesProtected", "WritesLocked", "ReadsLocked", "LocksTurned", "WritesThrough",
	"TasksAbortedTold", "WritesAtomic", "WritesOrdered", "AtomicsCompared", "UnmapsOfTwo",
	"Loads", "Ejects", "Prevents", "Allows", "PortsSet", "PortsRead", "PathsShut", "Sanitizes", "Erasures", "SanitizeExits", "Formats", "NotReadys", "NotReadysSanitize", "NotReadysFormat", "WipesFailed",
	"StoreSaves", "StoreFaults", "Conflicts", "Residuals", "RefusedCDBs",
	"UnitAttentions", "MediumErrors", "AbortedCommands", "TaskSetFulls", "Busies", "AbortTask", "AbortTaskSet",
	"ClearTaskSet", "LUNReset", "WarmReset", "ColdReset", "NoSuchTask", "TasksAborted", "Pings", "PingsOfTarget",
	"WindowTold", "WindowBroken", "WindowShut", "OutOfOrder", "BadHeaderDigests", "BadDataDigests", "Rejects",
	"Logouts", "LogoutsAsked", "Vanished", "HalfClosed", "ResetByPeer", "ClosedByPeer", "Stalls", "HeaderDigests",
	"DataDigests", "SessionsLost", "Kills", "PowerFailures", "FailedDisks", "Reconfigurations", "LUNsAdded",
	"LUNsRemoved", "Resizes", "ResizesSeen", "CapacitiesRead", "ListsRead", "Moves", "Sleeps", "MixedBlocks", "Searches",
	"DialsRDMA", "RejectedRDMA", "LoginsRDMA", "Invalidating", "WholeBuffers", "ReadsRDMA", "WritesRDMA", "DevicesRemoved",
	"PortalsToggled", "AddressChanges", "SessionsMoved", "SessionsStayed",
}

func (s State) String() string { return stateNames[s] }

// States counts what runs saw.
type States [numStates]uint64

// Add adds o to c.
func (c *States) Add(o *States) {
	for i := range c {
		c[i] += o[i]
	}
}

// Missing are the states never seen.
func (c *States) Missing() []string {
	var out []string
	for i, n := range c {
		if n == 0 {
			out = append(out, State(i).String())
		}
	}
	return out
}

func (c *States) String() string {
	var b strings.Builder
	for i, n := range c {
		fmt.Fprintf(&b, "%-20s %10d\n", State(i), n)
	}
	return b.String()
}
