package pdu

import (
	"bytes"
	"testing"
)

// TestDataInHeader: Put writes what the setters write.
func TestDataInHeader(t *testing.T) {
	want := BHS(make([]byte, HeaderLen))
	want.Clear(DataIn)
	want.SetFlags(FlagFinal | FlagStatus | FlagUnderfl)
	want.SetStatus(8)
	want.SetDataLen(0x123456)
	want.SetITT(0xa1a2a3a4)
	want.SetTTT(ReservedTag)
	want.SetStatSN(0xb1b2b3b4)
	want.SetExpCmdSN(0xc1c2c3c4)
	want.SetMaxCmdSN(0xd1d2d3d4)
	want.SetDataSN(0xe1e2e3e4)
	want.SetOffset(0xf1f2f3f4)
	want.SetResidual(0x01020304)
	got := BHS(bytes.Repeat([]byte{0xcc}, HeaderLen))
	h := DataInHeader{
		Flags: FlagFinal | FlagStatus | FlagUnderfl, Status: 8, DataLen: 0x123456, ITT: 0xa1a2a3a4,
		StatSN: 0xb1b2b3b4, ExpCmdSN: 0xc1c2c3c4, MaxCmdSN: 0xd1d2d3d4,
		DataSN: 0xe1e2e3e4, Offset: 0xf1f2f3f4, Residual: 0x01020304,
	}
	h.Put(got)
	if !bytes.Equal(got, want) {
		t.Fatalf("got\n% x\nwant\n% x", got, want)
	}
}
