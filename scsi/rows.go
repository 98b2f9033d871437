package scsi

import "sort"

func (tb *table) sort() {
	sort.SliceStable(tb.rows, func(a, b int) bool {
		x, y := tb.rows[a], tb.rows[b]
		return x.opcode < y.opcode || x.opcode == y.opcode && x.sa < y.sa
	})
}

// Recommended time outs, in seconds: what an initiator may want to give a
// command that only looks, that moves data, that covers a lot of the medium.
const (
	quick = 10
	data  = 30
	long  = 120
	// whole is for SANITIZE and FORMAT UNIT: the slowest takes maxWipe for each pass.
	whole = 4 * 3600
)

// Commands that need no medium: those that only look work beside SANITIZE and FORMAT UNIT too.
const (
	looks   = cmdUnready | cmdBusy | cmdStandby
	changes = cmdUnready | cmdStandby
)

// primaryRows are the commands of SPC-5.
func primaryRows() []row {
	return []row{
		{"000000000004", 0, gatesOther, quick, prepNothing, doNothing, nil},
		{"03010000ff04", cmdAbsent, gatesFree, quick, prepRequestSense, doRequestSense, nil},
		{"1201ffffff04", cmdAbsent, gatesFree, quick, prepInquiry, doInquiry, nil},
		{"15110000ff04", changes, gatesWrite, quick, prepModeSelect, doAtHome, homeModeSelect},
		{"160000000004", cmdUnready | cmdBusy, gateCommand, quick, prepReserve, doAtHome, homeReserve},
		{"170000000004", cmdUnready | cmdBusy, gateCommand, quick, prepReserve, doAtHome, homeRelease},
		{"1a08ffffff04", looks, gatesWrite, quick, prepModeSense, doModeSense, nil},
		{"1d0400000004", changes, gatesWrite, quick, prepDiagnostic, doNothing, nil},
		{"4c02ffff000000ffff04", changes, gatesWrite, quick, prepLogSelect, doAtHome, homeLogSelect},
		{"4d00ffff00ffffffff04", looks, gatesOther, quick, prepLogSense, doLogSense, nil},
		{"55110000000000ffff04", changes, gatesWrite, quick, prepModeSelect, doAtHome, homeModeSelect},
		{"56000000000000000004", cmdUnready | cmdBusy, gateCommand, quick, prepReserve, doAtHome, homeReserve},
		{"57000000000000000004", cmdUnready | cmdBusy, gateCommand, quick, prepReserve, doAtHome, homeRelease},
		{"5a18ffff000000ffff04", looks, gatesWrite, quick, prepModeSense, doModeSense, nil},
		{"a000ff000000ffffffff0004", cmdAbsent, gatesFree, quick, prepReportLUNs, doReportLUNs, nil},
	}
}

// blockRows are the commands of SBC-4 with an opcode of their own.
func blockRows() []row {
	const w = cmdMedium | cmdWrites
	return []row{
		{"04f800000004", cmdWrites | cmdBusy, gatesWrite, whole, prepFormat, doFormat, homeFormat},
		{"081fffffff04", cmdMedium, gatesRead, data, prepRead6, doRead, nil},
		{"0a1fffffff04", w | cmdInline, gatesWrite, data, prepWrite6, doWrite, nil},
		{"1b01000ff704", cmdUnready, gatesWrite, long, prepStartStop, doStartStop, homeStartStop},
		{"1e0000000104", cmdUnready, gatesOther, long, prepPrevent, doPrevent, homePrevent},
		{"2500ffffffff00000104", 0, gatesOther, quick, prepReadCapacity10, doReadCapacity10, nil},
		{"28f8ffffffff3fffff04", cmdMedium, gatesRead, data, prepRead10, doRead, nil},
		{"2af8ffffffff3fffff04", w | cmdInline, gatesWrite, data, prepWrite10, doWrite, nil},
		{"2ef2ffffffff3fffff04", w, gatesWrite, data, prepWriteVerify10, doWriteVerify, nil},
		{"2ff6ffffffff3fffff04", cmdMedium, gatesRead, data, prepVerify10, doVerify, nil},
		{"3402ffffffff3fffff04", 0, gatesRead, data, prepCache10, doNothing, nil},
		{"3502ffffffff3fffff04", cmdOrdered, gatesWrite, long, prepCache10, doCache, nil},
		{"37001f00000000ffff04", 0, gatesOther, quick, prepDefects10, doDefects10, nil},
		{"41f8ffffffff3fffff04", w, gatesWrite, long, prepWriteSame10, doWriteSame, nil},
		{"4201000000003fffff04", w | cmdWhole, gatesWrite, long, prepUnmap, doUnmap, nil},
		{"88f8ffffffffffffffffffffffff3f04", cmdMedium, gatesRead, data, prepRead16, doRead, nil},
		{"89f8ffffffffffffffff000000ff3f04", w | cmdHolds, gatesWrite, data, prepCompareAndWrite, doCompareAndWrite, nil},
		{"8af8ffffffffffffffffffffffff3f04", w | cmdInline, gatesWrite, data, prepWrite16, doWrite, nil},
		{"8bf8ffffffffffffffffffffffff3f04", w | cmdHolds, gatesWrite, data, prepORWrite, doORWrite, nil},
		{"8ef2ffffffffffffffffffffffff3f04", w, gatesWrite, data, prepWriteVerify16, doWriteVerify, nil},
		{"8ff6ffffffffffffffffffffffff3f04", cmdMedium, gatesRead, data, prepVerify16, doVerify, nil},
		{"9002ffffffffffffffffffffffff3f04", 0, gatesRead, data, prepCache16, doNothing, nil},
		{"9102ffffffffffffffffffffffff3f04", cmdOrdered, gatesWrite, long, prepCache16, doCache, nil},
		{"93f9ffffffffffffffffffffffff3f04", w, gatesWrite, long, prepWriteSame16, doWriteSame, nil},
		{"9cf8ffffffffffffffff0000ffff3f04", w | cmdHolds, gatesWrite, data, prepWriteAtomic, doWriteAtomic, nil},
		{"a8f8ffffffffffffffff3f04", cmdMedium, gatesRead, data, prepRead12, doRead, nil},
		{"aaf8ffffffffffffffff3f04", w | cmdInline, gatesWrite, data, prepWrite12, doWrite, nil},
		{"aef2ffffffffffffffff3f04", w, gatesWrite, data, prepWriteVerify12, doWriteVerify, nil},
		{"aff6ffffffffffffffff3f04", cmdMedium, gatesRead, data, prepVerify12, doVerify, nil},
		{"b71f00000000ffffffff0004", 0, gatesOther, quick, prepDefects12, doDefects12, nil},
	}
}

// serviceRows are the commands told apart by a service action.
func serviceRows() []row {
	const (
		sanitizes = cmdService | cmdWrites | cmdBusy
		r         = cmdService | cmdMedium
		w         = r | cmdWrites
	)
	return []row{
		{"48a10000000000ffff04", sanitizes, gatesWrite, whole, prepSanitize, doSanitize, homeSanitize},
		{"48a20000000000ffff04", sanitizes, gatesWrite, whole, prepSanitize, doSanitize, homeSanitize},
		{"48a30000000000ffff04", sanitizes, gatesWrite, whole, prepSanitize, doSanitize, homeSanitize},
		{"489f0000000000ffff04", sanitizes, gatesWrite, quick, prepSanitizeExit, doAtHome, homeSanitizeExit},
		{"5e000000000000ffff04", cmdService | looks, gatesOther, quick, prepPersistentIn, doPersistentIn, nil},
		{"5e010000000000ffff04", cmdService | looks, gatesOther, quick, prepPersistentIn, doPersistentIn, nil},
		{"5e020000000000ffff04", cmdService | looks, gatesOther, quick, prepPersistentIn, doPersistentIn, nil},
		{"5e030000000000ffff04", cmdService | looks, gatesOther, quick, prepPersistentIn, doPersistentIn, nil},
		{"5f00000000ffffffff04", cmdService | looks, gatesOther, quick, prepPersistentOut, doAtHome, homePersistentOut},
		{"5f01ff0000ffffffff04", cmdService | looks, gatesOther, quick, prepPersistentOut, doAtHome, homePersistentOut},
		{"5f02ff0000ffffffff04", cmdService | looks, gatesOther, quick, prepPersistentOut, doAtHome, homePersistentOut},
		{"5f03000000ffffffff04", cmdService | looks, gatesOther, quick, prepPersistentOut, doAtHome, homePersistentOut},
		{"5f04ff0000ffffffff04", cmdService | looks, gatesOther, quick, prepPersistentOut, doAtHome, homePersistentOut},
		{"5f05ff0000ffffffff04", cmdService | looks, gatesOther, quick, prepPersistentOut, doAtHome, homePersistentOut},
		{"5f06000000ffffffff04", cmdService | looks, gatesOther, quick, prepPersistentOut, doAtHome, homePersistentOut},
		{"5f07000000ffffffff04", cmdService | looks, gatesOther, quick, prepPersistentOut, doAtHome, homePersistentOut},
		{"7f040000000000180009f800ffffffffffffffff0000000000000000ffffffff", r, gatesRead, data, prepRead32, doRead, nil},
		{"7f04000000000018000af600ffffffffffffffff0000000000000000ffffffff", r, gatesRead, data, prepVerify32, doVerify, nil},
		{"7f04000000000018000bf800ffffffffffffffff0000000000000000ffffffff", w, gatesWrite, data, prepWrite32, doWrite, nil},
		{"7f04000000000018000cf200ffffffffffffffff0000000000000000ffffffff", w, gatesWrite, data, prepWriteVerify32, doWriteVerify, nil},
		{"7f04000000000018000df900ffffffffffffffff0000000000000000ffffffff", w, gatesWrite, long, prepWriteSame32, doWriteSame, nil},
		{"83000000000000000000ffffffff0004", cmdService, gatesWrite, long, prepExtendedCopy, doExtendedCopy, nil},
		{"8400ff00000000000000ffffffff0004", cmdService | looks, gatesOther, quick, prepCopyResults, doCopyResults, nil},
		{"84030000000000000000ffffffff0004", cmdService | looks, gatesOther, quick, prepCopyResults, doCopyResults, nil},
		{"8404ff00000000000000ffffffff0004", cmdService | looks, gatesOther, quick, prepCopyResults, doCopyResults, nil},
		{"9e10ffffffffffffffffffffffff0104", cmdService, gatesOther, quick, prepReadCapacity16, doReadCapacity16, nil},
		{"9e12ffffffffffffffffffffffff0004", cmdService, gatesRead, quick, prepGetLBAStatus, doGetLBAStatus, nil},
		{"9e13ffffffffffffffffffffffff0104", cmdService | looks, gatesOther, quick, prepReferrals, doReferrals, nil},
		{"a30500000000fffffffffe04", cmdService | looks, gatesOther, quick, prepReportIdentity, doReportIdentity, nil},
		{"a3ea00000000ffffffff0004", cmdService | looks | cmdAnyPath, gatesOther, quick, prepReportPorts, doReportPorts, nil},
		{"a30c87ffffffffffffff0004", cmdService | looks, gatesOther, quick, prepReportOpcodes, doReportOpcodes, nil},
		{"a30d80000000ffffffff0004", cmdService | looks, gatesOther, quick, prepReportTMF, doReportTMF, nil},
		{"a40600000000fffffffffe04", cmdService | looks, gatesWrite, quick, prepSetIdentity, doAtHome, homeSetIdentity},
		{"a40a00000000ffffffff0004", cmdService | looks | cmdAnyPath, gatesWrite, quick, prepSetPorts, doAtHome, homeSetPorts},
	}
}
