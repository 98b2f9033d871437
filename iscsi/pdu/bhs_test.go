package pdu

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// TestGolden builds one header of each kind with the setters and compares it
// with bytes laid out by hand from the figures of RFC 7143 §11.
func TestGolden(t *testing.T) {
	for _, tc := range []struct {
		name  string
		build func(b BHS)
		want  string // 12 words
	}{
		{name: "SCSI Command", build: func(b BHS) { // §11.3
			b.Clear(SCSICommand)
			b.SetFlags(FlagFinal | FlagRead | AttrSimple)
			b.SetLUN(0x0001000000000000)
			b.SetITT(0x11)
			b.SetEDTL(0x1000)
			b.SetCmdSN(5)
			b.SetExpStatSN(6)
			copy(b.CDB(), []byte{0x28, 0, 0, 0, 0, 1, 0, 0, 8, 0})
		}, want: "01c10000 00000000 00010000 00000000 00000011 00001000 00000005 00000006 28000000 00010000 08000000 00000000"},
		{name: "SCSI Response", build: func(b BHS) { // §11.4
			b.Clear(SCSIResponse)
			b.SetFlags(FlagFinal | FlagUnderfl)
			b.SetResponse(RespCompleted)
			b.SetStatus(2)
			b.SetDataLen(0x14)
			b.SetITT(0x11)
			b.SetStatSN(6)
			b.SetExpCmdSN(7)
			b.SetMaxCmdSN(8)
			b.SetExpDataSN(9)
			b.SetBidiResidual(10)
			b.SetResidual(11)
		}, want: "21820002 00000014 00000000 00000000 00000011 00000000 00000006 00000007 00000008 00000009 0000000a 0000000b"},
		{name: "TMF Request", build: func(b BHS) { // §11.5
			b.Clear(TMFRequest)
			b.SetImmediate()
			b.SetFlags(FlagFinal | TMFAbortTask)
			b.SetITT(0x12)
			b.SetRefTag(0x11)
			b.SetCmdSN(6)
			b.SetExpStatSN(7)
			b.SetRefCmdSN(5)
			b.SetExpDataSN(3)
		}, want: "42810000 00000000 00000000 00000000 00000012 00000011 00000006 00000007 00000005 00000003 00000000 00000000"},
		{name: "TMF Response", build: func(b BHS) { // §11.6
			b.Clear(TMFResponse)
			b.SetFlags(FlagFinal)
			b.SetResponse(TMFNoTask)
			b.SetITT(0x12)
			b.SetStatSN(7)
		}, want: "22800100 00000000 00000000 00000000 00000012 00000000 00000007 00000000 00000000 00000000 00000000 00000000"},
		{name: "Data-Out", build: func(b BHS) { // §11.7
			b.Clear(DataOut)
			b.SetFlags(FlagFinal)
			b.SetDataLen(0x012345)
			b.SetITT(0x11)
			b.SetTTT(0x21)
			b.SetExpStatSN(7)
			b.SetDataSN(1)
			b.SetOffset(0x2000)
		}, want: "05800000 00012345 00000000 00000000 00000011 00000021 00000000 00000007 00000000 00000001 00002000 00000000"},
		{name: "Data-In with status", build: func(b BHS) { // §11.7
			b.Clear(DataIn)
			b.SetFlags(FlagFinal | FlagOverflow | FlagStatus)
			b.SetStatus(0)
			b.SetDataLen(512)
			b.SetITT(0x11)
			b.SetTTT(ReservedTag)
			b.SetStatSN(7)
			b.SetDataSN(2)
			b.SetOffset(0x200)
			b.SetResidual(4)
		}, want: "25850000 00000200 00000000 00000000 00000011 ffffffff 00000007 00000000 00000000 00000002 00000200 00000004"},
		{name: "R2T", build: func(b BHS) { // §11.8
			b.Clear(R2T)
			b.SetFlags(FlagFinal)
			b.SetITT(0x11)
			b.SetTTT(0x21)
			b.SetStatSN(7)
			b.SetDataSN(0)
			b.SetOffset(0x1000)
			b.SetDesired(0x800)
		}, want: "31800000 00000000 00000000 00000000 00000011 00000021 00000007 00000000 00000000 00000000 00001000 00000800"},
		{name: "Async Message", build: func(b BHS) { // §11.9
			b.Clear(AsyncMessage)
			b.SetFlags(FlagFinal)
			b.SetITT(ReservedTag)
			b.SetStatSN(7)
			b.SetAsync(AsyncDropConnection, 3)
			b.SetParam1(1)
			b.SetParam2(2)
			b.SetParam3(20)
		}, want: "32800000 00000000 00000000 00000000 ffffffff 00000000 00000007 00000000 00000000 02030001 00020014 00000000"},
		{name: "Text Request", build: func(b BHS) { // §11.10
			b.Clear(TextRequest)
			b.SetFlags(FlagContinue)
			b.SetITT(0x13)
			b.SetTTT(ReservedTag)
			b.SetCmdSN(9)
		}, want: "04400000 00000000 00000000 00000000 00000013 ffffffff 00000009 00000000 00000000 00000000 00000000 00000000"},
		{name: "Login Request", build: func(b BHS) { // §11.12
			b.Clear(LoginRequest)
			b.SetImmediate()
			b.SetFlags(FlagTransit | StageSecurity<<2 | StageOperational)
			b.SetVersions(0, 0)
			copy(b.ISID(), []byte{0x80, 1, 2, 3, 4, 5})
			b.SetTSIH(0x0607)
			b.SetITT(0x14)
			b.SetCID(0x0809)
			b.SetCmdSN(1)
		}, want: "43810000 00000000 80010203 04050607 00000014 08090000 00000001 00000000 00000000 00000000 00000000 00000000"},
		{name: "Login Response", build: func(b BHS) { // §11.13
			b.Clear(LoginResponse)
			b.SetFlags(FlagTransit | StageOperational<<2 | StageFullFeature)
			b.SetLoginStatus(LoginAuthFailed)
			b.SetITT(0x14)
		}, want: "23870000 00000000 00000000 00000000 00000014 00000000 00000000 00000000 00000000 02010000 00000000 00000000"},
		{name: "Logout Response", build: func(b BHS) { // §11.15
			b.Clear(LogoutResp)
			b.SetFlags(FlagFinal)
			b.SetResponse(LogoutCIDNotFound)
			b.SetTime2Wait(2)
			b.SetTime2Retain(20)
		}, want: "26800100 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00020014 00000000"},
		{name: "SNACK", build: func(b BHS) { // §11.16
			b.Clear(SNACK)
			b.SetFlags(FlagFinal | SNACKStatus)
			b.SetITT(ReservedTag)
			b.SetTTT(ReservedTag)
			b.SetBegRun(3)
			b.SetRunLength(4)
		}, want: "10810000 00000000 00000000 00000000 ffffffff ffffffff 00000000 00000000 00000000 00000000 00000003 00000004"},
		{name: "Reject", build: func(b BHS) { // §11.17
			b.Clear(Reject)
			b.SetFlags(FlagFinal)
			b.SetResponse(RejectProtocol)
			b.SetAHSLen(8)
			b.SetDataLen(HeaderLen)
			b.SetITT(ReservedTag)
			b.SetDataSN(1)
		}, want: "3f800400 02000030 00000000 00000000 ffffffff 00000000 00000000 00000000 00000000 00000001 00000000 00000000"},
		{name: "NOP-Out", build: func(b BHS) { // §11.18
			b.Clear(NopOut)
			b.SetImmediate()
			b.SetFlags(FlagFinal)
			b.SetLUN(0x0002000000000000)
			b.SetITT(ReservedTag)
			b.SetTTT(0x31)
		}, want: "40800000 00000000 00020000 00000000 ffffffff 00000031 00000000 00000000 00000000 00000000 00000000 00000000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := BHS(bytes.Repeat([]byte{0xcc}, HeaderLen)) // stale bytes must not survive
			tc.build(b)
			want, err := hex.DecodeString(strings.ReplaceAll(tc.want, " ", ""))
			if err != nil || len(want) != HeaderLen {
				t.Fatalf("bad golden: %v, %d bytes", err, len(want))
			}
			if !bytes.Equal(b, want) {
				t.Errorf("got  %x\nwant %x", []byte(b), want)
			}
		})
	}
}

// TestGetters reads a header in which every byte is its own index.
func TestGetters(t *testing.T) {
	b := make(BHS, HeaderLen)
	for i := range b {
		b[i] = byte(i)
	}
	b[0] = 0xe5 // reserved bit, I bit, opcode
	b[1] = 0xc6
	for _, tc := range []struct {
		name      string
		got, want uint64
	}{
		{"Opcode", uint64(b.Opcode()), 0x25},
		{"AHSLen", uint64(b.AHSLen()), 16},
		{"DataLen", uint64(b.DataLen()), 0x050607},
		{"PaddedDataLen", uint64(b.PaddedDataLen()), 0x050608},
		{"LUN", b.LUN(), 0x08090a0b0c0d0e0f},
		{"TSIH", uint64(b.TSIH()), 0x0e0f},
		{"ITT", uint64(b.ITT()), 0x10111213},
		{"TTT", uint64(b.TTT()), 0x14151617},
		{"CID", uint64(b.CID()), 0x1415},
		{"CmdSN", uint64(b.CmdSN()), 0x18191a1b},
		{"StatSN", uint64(b.StatSN()), 0x18191a1b},
		{"ExpStatSN", uint64(b.ExpStatSN()), 0x1c1d1e1f},
		{"ExpCmdSN", uint64(b.ExpCmdSN()), 0x1c1d1e1f},
		{"MaxCmdSN", uint64(b.MaxCmdSN()), 0x20212223},
		{"RefCmdSN", uint64(b.RefCmdSN()), 0x20212223},
		{"LoginStatus", uint64(b.LoginStatus()), 0x2425},
		{"AsyncEvent", uint64(b.AsyncEvent()), 0x24},
		{"AsyncVCode", uint64(b.AsyncVCode()), 0x25},
		{"Param1", uint64(b.Param1()), 0x2627},
		{"DataSN", uint64(b.DataSN()), 0x24252627},
		{"ExpDataSN", uint64(b.ExpDataSN()), 0x24252627},
		{"Offset", uint64(b.Offset()), 0x28292a2b},
		{"BegRun", uint64(b.BegRun()), 0x28292a2b},
		{"Param2", uint64(b.Param2()), 0x2829},
		{"Time2Wait", uint64(b.Time2Wait()), 0x2829},
		{"Param3", uint64(b.Param3()), 0x2a2b},
		{"Time2Retain", uint64(b.Time2Retain()), 0x2a2b},
		{"Residual", uint64(b.Residual()), 0x2c2d2e2f},
		{"Desired", uint64(b.Desired()), 0x2c2d2e2f},
		{"RunLength", uint64(b.RunLength()), 0x2c2d2e2f},
		{"CSG", uint64(b.CSG()), 1},
		{"NSG", uint64(b.NSG()), 2},
		{"TMF", uint64(b.TMF()), 0x46},
		{"SNACKType", uint64(b.SNACKType()), 6},
	} {
		if tc.got != tc.want {
			t.Errorf("%s = %#x, want %#x", tc.name, tc.got, tc.want)
		}
	}
	if !b.Immediate() || !b.Final() || !b.Continue() {
		t.Errorf("Immediate %v, Final %v, Continue %v", b.Immediate(), b.Final(), b.Continue())
	}
	if !bytes.Equal(b.ISID(), []byte{8, 9, 10, 11, 12, 13}) || len(b.CDB()) != 16 || b.CDB()[0] != 32 {
		t.Errorf("ISID %x, CDB %x", b.ISID(), b.CDB())
	}
}

func TestSNLess(t *testing.T) {
	for _, tc := range []struct {
		name string
		a, b uint32
		want bool
	}{
		{"equal", 5, 5, false},
		{"before", 5, 6, true},
		{"after", 6, 5, false},
		{"across the wrap", 0xffffffff, 0, true},
		{"back across the wrap", 0, 0xffffffff, false},
	} {
		if got := SNLess(tc.a, tc.b); got != tc.want {
			t.Errorf("%s: SNLess(%#x, %#x) = %v", tc.name, tc.a, tc.b, got)
		}
	}
}

var sink uint32

func BenchmarkParseCommand(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(HeaderLen)
	h := make(BHS, HeaderLen)
	h.Clear(SCSICommand)
	for b.Loop() {
		sink += uint32(h.Opcode()) + h.ITT() + h.EDTL() + h.CmdSN() + h.ExpStatSN() + h.DataLen()
	}
}

func BenchmarkPutDataIn(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(HeaderLen)
	h := make(BHS, HeaderLen)
	p := DataInHeader{ITT: 1, DataLen: 4096, Flags: FlagFinal | FlagStatus}
	for b.Loop() {
		p.StatSN++
		p.Put(h)
		sink += uint32(h[0])
	}
}
