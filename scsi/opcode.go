package scsi

import "encoding/hex"

// Operation codes (SPC-5, SBC-4).
const (
	opTestUnitReady      = 0x00
	opRequestSense       = 0x03
	opRead6              = 0x08
	opWrite6             = 0x0a
	opInquiry            = 0x12
	opModeSelect6        = 0x15
	opReserve6           = 0x16
	opRelease6           = 0x17
	opModeSense6         = 0x1a
	opStartStopUnit      = 0x1b
	opPreventAllow       = 0x1e
	opReadCapacity10     = 0x25
	opRead10             = 0x28
	opWrite10            = 0x2a
	opWriteVerify10      = 0x2e
	opVerify10           = 0x2f
	opPreFetch10         = 0x34
	opSynchronizeCache10 = 0x35
	opReadDefect10       = 0x37
	opWriteSame10        = 0x41
	opUnmap              = 0x42
	opSanitize           = 0x48
	opLogSelect          = 0x4c
	opLogSense           = 0x4d
	opModeSelect10       = 0x55
	opReserve10          = 0x56
	opRelease10          = 0x57
	opModeSense10        = 0x5a
	opPersistentIn       = 0x5e
	opPersistentOut      = 0x5f
	opVariable           = 0x7f
	opExtendedCopy       = 0x83
	opReceiveCopy        = 0x84
	opRead16             = 0x88
	opCompareAndWrite    = 0x89
	opWrite16            = 0x8a
	opORWrite16          = 0x8b
	opWriteVerify16      = 0x8e
	opVerify16           = 0x8f
	opPreFetch16         = 0x90
	opSynchronizeCache16 = 0x91
	opWriteSame16        = 0x93
	opWriteAtomic16      = 0x9c
	opServiceIn16        = 0x9e
	opReportLUNs         = 0xa0
	opMaintenanceIn      = 0xa3
	opMaintenanceOut     = 0xa4
	opRead12             = 0xa8
	opWrite12            = 0xaa
	opWriteVerify12      = 0xae
	opVerify12           = 0xaf
	opReadDefect12       = 0xb7
)

// Service actions.
const (
	saReadCapacity16 = 0x10
	saRead32         = 0x09 // of variable-length CDBs
	saWrite32        = 0x0b
	saGetLBAStatus   = 0x12
	saReportIdentity = 0x05
	saSetIdentity    = 0x06 // in MAINTENANCE OUT
	saReportPorts    = 0x0a // in MAINTENANCE IN; in MAINTENANCE OUT it sets them
	saReportOpcodes  = 0x0c
	saReportTMF      = 0x0d

	saExtendedCopy   = 0x00 // LID1
	saCopyStatus     = 0x00
	saCopyParameters = 0x03
	saCopyDetails    = 0x04

	saSanitizeOverwrite = 0x01
	saSanitizeErase     = 0x02
	saSanitizeCrypto    = 0x03
	saSanitizeExit      = 0x1f
)

type commandFlags uint16

const (
	cmdService commandFlags = 1 << iota // told apart by its service action
	cmdMedium                           // touches the medium: parked by holds, ordered by ORDERED
	cmdWrites                           // refused on a write-protected unit
	cmdWhole                            // names several ranges: holds and is held as the whole unit
	cmdAbsent                           // answered for a logical unit that is not there
	cmdUnready                          // works without a medium
	cmdStandby                          // works by a path in standby
	cmdAnyPath                          // works by every path
	cmdBusy                             // works while SANITIZE or FORMAT UNIT is at work, and after it failed
	cmdHolds                            // asks for a hold on its range while it runs
	cmdOrdered                          // ordered by ORDERED, though it has no range: what it does is for the WRITEs before it
	cmdInline                           // its data is needed inside Execute only, if it does not wait there
)

// command is one row of the table that is dispatcher and REPORT SUPPORTED
// OPERATION CODES in one.
type command struct {
	opcode  uint8
	flags   commandFlags
	gate    uint8 // conditions of the I_T_L nexus that stop it
	length  uint8 // of the CDB, bytes
	control uint8 // where its CONTROL byte is
	sa      uint16
	usage   []byte // CDB usage data (SPC-5 §6.37.3)
	seconds uint32 // recommended time out
	prepare func(t *Task) Result
	next    func(t *Task) action
	// home runs on the unit's home reactor, while the task waits: it gives the
	// task its status and writes down what changes.
	home func(lu *LogicalUnit, t *Task, r *round)
	// shielded is the same command with protection information in its data; nil
	// when it cannot have any.
	shielded *command
}

// table finds a command's row.
type table struct {
	plain   [256]*command
	service [256][]*command
	rows    []*command // as reported
}

// find returns the row of a CDB, or nil.
//
//spindle:hot
func (tb *table) find(cdb *[MaxCDB]byte, n uint8) *command {
	c := tb.plain[cdb[0]]
	if c == nil {
		c = tb.findService(cdb[0], serviceAction(cdb[:]))
	}
	if c == nil || n != 0 && n < c.length {
		return nil
	}
	return c
}

// serviceAction is that of a CDB whose opcode has any; what lies beyond a short
// CDB does not matter, because its row is longer.
func serviceAction(cdb []byte) uint16 {
	if cdb[0] == opVariable {
		return be.Uint16(cdb[longAction:])
	}
	return uint16(cdb[1] & 0x1f)
}

func (tb *table) findService(op uint8, sa uint16) *command {
	for _, c := range tb.service[op] {
		if c.sa == sa {
			return c
		}
	}
	return nil
}

const (
	gatesRead  = gateCommand | gateOther | gateRead
	gatesWrite = gateCommand | gateOther | gateWrite
	gatesOther = gateCommand | gateOther
	gatesFree  = gateFence // INQUIRY, REPORT LUNS, REQUEST SENSE
)

// newTable builds the table, in opcode order.
func newTable() *table {
	tb := &table{}
	for _, g := range [][]row{primaryRows(), blockRows(), serviceRows()} {
		for _, r := range g {
			tb.add(r)
		}
	}
	tb.sort()
	tb.shield()
	return tb
}

// row is how a command is written down: usage is the CDB usage data in
// hexadecimal, whose first byte is the opcode and whose length is the CDB's.
type row struct {
	usage   string
	flags   commandFlags
	gate    uint8
	seconds uint32
	prepare func(t *Task) Result
	next    func(t *Task) action
	home    func(lu *LogicalUnit, t *Task, r *round)
}

func (tb *table) add(r row) {
	u, err := hex.DecodeString(r.usage)
	if err != nil {
		panic("scsi: command table: " + err.Error())
	}
	c := &command{
		opcode: u[0], flags: r.flags, gate: r.gate, length: uint8(len(u)),
		usage: u, seconds: r.seconds, prepare: r.prepare, next: r.next, home: r.home,
	}
	c.control = c.length - 1
	if c.opcode == opVariable {
		c.control = longControl
	}
	if c.gate&gateUA != 0 {
		c.gate |= gateState
		if c.flags&cmdAnyPath == 0 {
			c.gate |= gatePath
		}
	}
	if r.flags&cmdService != 0 {
		c.sa = serviceAction(u)
		tb.service[c.opcode] = append(tb.service[c.opcode], c)
	} else {
		tb.plain[c.opcode] = c
	}
	tb.rows = append(tb.rows, c)
}

// shield gives the rows named their twins with protection information.
func (tb *table) shield() {
	for _, c := range tb.rows {
		next, ok := shieldedSteps(c.opcode, c.sa)
		if !ok {
			continue
		}
		twin := *c
		twin.next = next
		twin.flags &^= cmdInline
		c.shielded = &twin
	}
}
