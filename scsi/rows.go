package scsi

import "sort"

func (tb *table) sort() {
	sort.SliceStable(tb.rows, func(a, b int) bool {
		x, y := tb.rows[a], tb.rows[b]
		return x.opcode < y.opcode || x.opcode == y.opcode && x.sa < y.sa
	})
}

// primaryRows are the commands of SPC-5.
func primaryRows() []row {
	return []row{
		{"000000000004", 0, gatesOther, 10, prepNothing, doNothing},
		{"03010000ff04", cmdAbsent, gatesFree, 10, prepRequestSense, doRequestSense},
		{"1201ffffff04", cmdAbsent, gatesFree, 10, prepInquiry, doInquiry},
		{"a000ff000000ffffffff0004", cmdAbsent, gatesFree, 10, prepReportLUNs, doReportLUNs},
	}
}

// blockRows are the commands of SBC-4 with an opcode of their own.
func blockRows() []row {
	return []row{
		{"081fffffff04", cmdMedium, gatesRead, 30, prepRead6, doRead},
		{"0a1fffffff04", cmdMedium | cmdWrites, gatesWrite, 30, prepWrite6, doWrite},
		{"2500ffffffff00000104", 0, gatesFree | gateUA | gateOther, 10, prepReadCapacity10, doReadCapacity10},
		{"28f8ffffffff3fffff04", cmdMedium, gatesRead, 30, prepRead10, doRead},
		{"2af8ffffffff3fffff04", cmdMedium | cmdWrites, gatesWrite, 30, prepWrite10, doWrite},
		{"88f8ffffffffffffffffffffffff3f04", cmdMedium, gatesRead, 30, prepRead16, doRead},
		{"8af8ffffffffffffffffffffffff3f04", cmdMedium | cmdWrites, gatesWrite, 30, prepWrite16, doWrite},
		{"a8f8ffffffffffffffff3f04", cmdMedium, gatesRead, 30, prepRead12, doRead},
		{"aaf8ffffffffffffffff3f04", cmdMedium | cmdWrites, gatesWrite, 30, prepWrite12, doWrite},
	}
}

// serviceRows are the commands told apart by a service action.
func serviceRows() []row {
	return []row{
		{"9e10ffffffffffffffffffffffff0104", cmdService, gatesOther, 10, prepReadCapacity16, doReadCapacity16},
	}
}
