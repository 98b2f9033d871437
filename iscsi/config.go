package iscsi

import (
	"net/netip"

	"spindle/bdev"
)

// Options are the engine-wide settings (iscsi_set_options).
type Options struct {
	NodeBase            string // prefix of node names given without "iqn.", "eui." or "naa."
	MaxSessions         uint32
	MaxConnsPerSession  uint32
	MaxQueueDepth       uint32 // commands a session may have outstanding
	DefaultTime2Wait    uint32 // seconds
	DefaultTime2Retain  uint32 // seconds
	FirstBurstLength    uint32 // bytes
	MaxBurstLength      uint32 // bytes
	MaxOutstandingR2T   uint32
	ImmediateData       bool
	InitialR2T          bool
	ErrorRecoveryLevel  uint32
	AllowDuplicatedISID bool
	NopInInterval       uint32 // seconds; 0 sends none
	NopTimeout          uint32 // seconds without an answer before the connection ends; 0 never
	LoginTimeout        uint32 // seconds from accept to full feature phase
	MaxPendingLogins    uint32 // connections of a reactor not yet in full feature phase

	// Limits on what peers may have and do; 0 is no limit where not said otherwise.
	MaxPendingPerAddress uint32 // connections of an address not yet in full feature phase
	MaxLoginsPerSecond   uint32 // connections an address may make a second
	CHAPBackoff          uint32 // seconds an address waits at most that fails CHAP again and again
	MaxConnsPerAddress   uint32 // connections of an address
	MaxSessionsPerNode   uint32
	// ReservedSessions of MaxSessions are for initiators that have authenticated,
	// once there is an auth group for them to do so.
	ReservedSessions uint32
	SendTimeout      uint32 // seconds that a peer may take nothing of what is sent to it
	MaxTextRounds    uint32 // Login Requests a login, Text Requests a text exchange; 0 is 64
	MaxRegistrants   uint32 // persistent reservation registrants of a unit, scsi.MaxRegistrants at most
	MaxBufferWaiters uint32 // commands of a reactor that wait for a data buffer; then TASK SET FULL

	// At ErrorRecoveryLevel 1 and 2.
	MaxRetainedData uint32 // bytes of data that a session keeps to be sent again
	MaxSNACKReplays uint32 // times an answer may be sent again; then SNACK is refused

	DisableCHAP bool
	RequireCHAP bool
	MutualCHAP  bool
	CHAPGroup   int32
	// Kept for save_config; nothing is bounded by these.
	MaxLargeDataIn      uint32
	MaxR2TPerConnection uint32
	PDUPoolSize         uint32
	ImmediateDataPool   uint32
	DataOutPool         uint32
}

// Portal is one address of a portal group.
type Portal struct {
	Addr netip.AddrPort // port 0 lets the kernel choose
	// ISER serves the address over iSER as well. A portal without an RDMA device
	// keeps the setting and is served when the device appears.
	ISER bool
	// ISERWait is why it is not being served over iSER, "" when it is; told by
	// PortalGroups, not a setting.
	ISERWait string
}

// PortalGroup is a set of portals with one tag (TargetPortalGroupTag).
type PortalGroup struct {
	Tag     uint16
	Portals []Portal
	Private bool // not told by SendTargets
	Wait    bool // listens only after StartPortalGroup
	// Auth, when not nil, is what the group asks of discovery instead of Options.
	Auth *CHAPPolicy
}

// CHAPPolicy says who must authenticate, by the secrets of which group.
type CHAPPolicy struct {
	Disable, Require, Mutual bool
	Group                    int32
}

// Redirect sends the logins to a node that come by a portal group elsewhere
// (RFC 7143 §11.13.5, status 0101).
type Redirect struct {
	PortalTag uint16
	Addr      netip.AddrPort
}

// InitiatorGroup is an access list: an initiator matches when its name and its
// address both do.
type InitiatorGroup struct {
	Tag        uint16
	Initiators []string // IQN, "ANY", or "!IQN" to deny
	Netmasks   []string // CIDR, address, or "ANY"
}

// Map lets the initiators of a group reach a node through a portal group.
type Map struct {
	PortalTag, InitiatorTag uint16
	// LUNs, when not nil, masks: only these LUNs are visible through this map.
	LUNs []uint16
}

// LUN places a bdev in a node.
type LUN struct {
	ID   uint16
	Bdev *bdev.Bdev
	// ReadOnly refuses writes even where the bdev would take them.
	ReadOnly bool
	// Removable has the medium ejected and loaded by START STOP UNIT.
	Removable bool
	// Thick hides that the bdev can unmap.
	Thick bool
	// TAS has a task that another session aborts answered with TASK ABORTED,
	// until MODE SELECT says otherwise.
	TAS bool
}

// NodeConfig makes a target node.
type NodeConfig struct {
	Name, Alias                          string
	Maps                                 []Map
	LUNs                                 []LUN
	QueueDepth                           uint32
	HeaderDigest, DataDigest             bool // required, as in SPDK
	DisableCHAP, RequireCHAP, MutualCHAP bool
	CHAPGroup                            int32
	Redirects                            []Redirect
}

// ConnInfo describes a connection, for iscsi_get_connections.
type ConnInfo struct {
	ID            uint64
	CID, TSIH     uint16
	Reactor       int
	State         string // "invalid", "running", "exiting"
	LoginPhase    string // "security_negotiation_phase", "operational_negotiation_phase", "full_feature_phase", "not_started"
	Initiator     string // name
	InitiatorAddr string
	TargetAddr    string
	Node          string
	Transport     string
	Link          []Fact // what the transport says of it: device, state, requests in flight, errors
	Commands      uint64
}

// Fact is something that a transport tells of a connection, under the name that
// iscsi_get_connections gives it. Value is a string or a number.
type Fact struct {
	Name  string
	Value any
}
