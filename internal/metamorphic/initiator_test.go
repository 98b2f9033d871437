package metamorphic

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"

	"spindle/iscsi/dialogue"
	"spindle/iscsi/pdu"
)

// terms are what a session negotiates.
type terms struct {
	name string
	keys []string
}

var allTerms = []terms{
	{"defaults", nil},
	{"no digests, everything solicited", []string{"InitialR2T=Yes", "ImmediateData=No", "MaxOutstandingR2T=1"}},
	{"digests, everything unsolicited", []string{"HeaderDigest=CRC32C", "DataDigest=CRC32C", "InitialR2T=No", "ImmediateData=Yes", "FirstBurstLength=65536", "MaxBurstLength=262144"}},
	{"header digest, shortest bursts and segments", []string{"HeaderDigest=CRC32C", "DataDigest=None", "InitialR2T=Yes", "ImmediateData=Yes", "FirstBurstLength=512", "MaxBurstLength=1024", "MaxOutstandingR2T=4", "MaxRecvDataSegmentLength=512"}},
	{"data digest, unsolicited but not immediate", []string{"DataDigest=CRC32C", "InitialR2T=No", "ImmediateData=No", "FirstBurstLength=4096", "MaxBurstLength=8192", "MaxOutstandingR2T=2", "MaxRecvDataSegmentLength=262144"}},
	{"immediate and unsolicited, odd lengths", []string{"InitialR2T=No", "ImmediateData=Yes", "FirstBurstLength=1537", "MaxBurstLength=2051", "MaxRecvDataSegmentLength=1023"}},
}

// outcome is what a command came to.
type outcome struct {
	status   byte
	flags    byte // O and U
	residual uint32
	sense    string
	data     []byte
}

func (o outcome) String() string {
	return fmt.Sprintf("status %02x flags %02x residual %d sense % x data of %d bytes, CRC %08x", o.status, o.flags, o.residual, o.sense, len(o.data), crc32.ChecksumIEEE(o.data))
}

// initiator runs commands one by one.
type initiator struct {
	link dialogue.Link
	rx   []byte
	lun  uint16

	headerDigest, dataDigest bool
	initialR2T, immediate    bool
	firstBurst, sendMax      uint32
	itt, cmdSN, expStatSN    uint32
}

// login opens a session on these terms and takes its unit attention.
func login(l dialogue.Link, target string, lun uint16, t terms) (*initiator, error) {
	i := &initiator{link: l, lun: lun, initialR2T: true, immediate: true, firstBurst: 65536, sendMax: 8192, cmdSN: 1}
	b := make(pdu.BHS, pdu.HeaderLen)
	b.Clear(pdu.LoginRequest)
	b.SetImmediate()
	b.SetFlags(pdu.FlagTransit | pdu.StageOperational<<2 | pdu.StageFullFeature)
	copy(b.ISID(), []byte{0x80, 9, 9, 9, 9, byte(lun)})
	b.SetCmdSN(i.cmdSN)
	var text []byte
	for _, kv := range append([]string{"InitiatorName=iqn.2026-11.dev.spindle:metamorphic", "TargetName=" + target, "SessionType=Normal"}, t.keys...) {
		text = append(append(text, kv...), 0)
	}
	if err := i.send(b, text); err != nil {
		return nil, err
	}
	b, data, err := i.receive()
	if err != nil {
		return nil, err
	}
	if b.Opcode() != pdu.LoginResponse || b.LoginStatus() != 0 || b.NSG() != pdu.StageFullFeature {
		return nil, fmt.Errorf("login: % x %q", []byte(b), data)
	}
	i.expStatSN = b.StatSN() + 1
	for w := pdu.ParseText(data); w.Next(); {
		n, _ := pdu.ParseNumber(w.Value())
		yes := string(w.Value()) == pdu.ValueYes
		switch string(w.Key()) {
		case pdu.KeyHeaderDigest:
			i.headerDigest = string(w.Value()) == pdu.ValueCRC32C
		case pdu.KeyDataDigest:
			i.dataDigest = string(w.Value()) == pdu.ValueCRC32C
		case pdu.KeyInitialR2T:
			i.initialR2T = yes
		case pdu.KeyImmediateData:
			i.immediate = yes
		case pdu.KeyFirstBurst:
			i.firstBurst = uint32(n)
		case pdu.KeyMaxRecvData:
			i.sendMax = uint32(n)
		}
	}
	return i, takeAttentions(i)
}

// runner runs commands one by one.
type runner interface {
	run(o op) (outcome, error)
}

// takeAttentions takes the unit attentions of a new session.
func takeAttentions(i runner) error {
	for range 4 {
		o, err := i.run(op{cdb: make([]byte, 6)})
		if err != nil || o.status == 0 {
			return err
		}
	}
	return errors.New("unit attentions without end")
}

func (i *initiator) send(b pdu.BHS, data []byte) error {
	b.SetDataLen(uint32(len(data)))
	w := append([]byte(nil), b...)
	if i.headerDigest {
		w = append(w, 0, 0, 0, 0)
		pdu.PutDigest(w[pdu.HeaderLen:], pdu.Digest(b))
	}
	at := len(w)
	w = append(append(w, data...), pdu.PadBytes(uint32(len(data)))...)
	if i.dataDigest && len(data) > 0 {
		w = append(w, 0, 0, 0, 0)
		pdu.PutDigest(w[len(w)-4:], pdu.Digest(w[at:len(w)-4]))
	}
	return i.link.Write(w)
}

func (i *initiator) receive() (pdu.BHS, []byte, error) {
	for {
		if len(i.rx) >= pdu.HeaderLen {
			b := pdu.BHS(i.rx[:pdu.HeaderLen:pdu.HeaderLen])
			at := uint32(pdu.HeaderLen)
			if i.headerDigest {
				at += pdu.DigestLen
			}
			end := at + b.PaddedDataLen()
			n := end
			if i.dataDigest && b.DataLen() > 0 {
				n += pdu.DigestLen
			}
			if uint32(len(i.rx)) >= n {
				w := i.rx[:n:n]
				i.rx = i.rx[n:]
				if i.headerDigest && pdu.GetDigest(w[pdu.HeaderLen:]) != pdu.Digest(b) || n > end && pdu.GetDigest(w[end:]) != pdu.Digest(w[at:end]) {
					return nil, nil, errors.New("wrong digest")
				}
				return b, w[at : at+b.DataLen()], nil
			}
		}
		b, err := i.link.Read(true)
		if err != nil {
			return nil, nil, err
		}
		i.rx = append(i.rx, b...)
	}
}

// run runs a command to its end.
func (i *initiator) run(o op) (outcome, error) {
	i.itt++
	b := make(pdu.BHS, pdu.HeaderLen)
	b.Clear(pdu.SCSICommand)
	flags := o.dir | pdu.AttrSimple
	b.SetLUN(uint64(i.lun) << 48)
	b.SetITT(i.itt)
	b.SetEDTL(o.edtl)
	b.SetCmdSN(i.cmdSN)
	i.cmdSN++
	b.SetExpStatSN(i.expStatSN)
	copy(b.CDB(), o.cdb)
	sent := uint32(0)
	if o.dir == pdu.FlagWrite && i.immediate {
		sent = min(o.edtl, i.firstBurst, i.sendMax)
	}
	early := min(o.edtl, i.firstBurst) // what goes unsolicited in all
	if i.initialR2T || o.dir != pdu.FlagWrite || sent == early {
		early = sent
		flags |= pdu.FlagFinal
	}
	b.SetFlags(flags)
	if err := i.send(b, o.out[:sent]); err != nil {
		return outcome{}, err
	}
	if err := i.dataOut(o.out, i.itt, pdu.ReservedTag, sent, early); err != nil {
		return outcome{}, err
	}
	var res outcome
	for {
		b, data, err := i.receive()
		if err != nil {
			return res, err
		}
		if b.ITT() != i.itt {
			return res, fmt.Errorf("PDU of another task: % x", []byte(b))
		}
		switch b.Opcode() {
		case pdu.R2T:
			err = i.dataOut(o.out, i.itt, b.TTT(), b.Offset(), b.Offset()+b.Desired())
		case pdu.DataIn:
			if b.Offset() != uint32(len(res.data)) {
				err = fmt.Errorf("data at %d after %d bytes", b.Offset(), len(res.data))
			}
			res.data = append(res.data, data...)
			if b.Flags()&pdu.FlagStatus != 0 {
				return i.ended(b, res)
			}
		case pdu.SCSIResponse:
			if len(data) > 2 {
				res.sense = string(data[2:])
			}
			return i.ended(b, res)
		default:
			err = fmt.Errorf("% x", []byte(b))
		}
		if err != nil {
			return res, err
		}
	}
}

func (i *initiator) ended(b pdu.BHS, res outcome) (outcome, error) {
	if b.StatSN() != i.expStatSN {
		return res, fmt.Errorf("StatSN %d, want %d", b.StatSN(), i.expStatSN)
	}
	i.expStatSN++
	res.status, res.flags, res.residual = b.Status(), b.Flags()&(pdu.FlagOverflow|pdu.FlagUnderfl), b.Residual()
	return res, nil
}

func (i *initiator) dataOut(out []byte, itt, ttt, off, end uint32) error {
	for sn := uint32(0); off < end; sn++ {
		n := min(end-off, i.sendMax)
		b := make(pdu.BHS, pdu.HeaderLen)
		b.Clear(pdu.DataOut)
		if off+n == end {
			b.SetFlags(pdu.FlagFinal)
		}
		b.SetITT(itt)
		b.SetTTT(ttt)
		b.SetExpStatSN(i.expStatSN)
		b.SetDataSN(sn)
		b.SetOffset(off)
		if err := i.send(b, out[off:off+n]); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// zero writes zeroes everywhere.
func zero(i runner) error {
	o, err := i.run(op{cdb: append(cdb16(0x93, 0, blocks)[:1], append([]byte{1}, cdb16(0x93, 0, blocks)[2:]...)...)})
	if err == nil && o.status != 0 {
		err = fmt.Errorf("%v", o)
	}
	return err
}

// trace runs the list on a zeroed medium and keeps what each came to; without
// content, what was read of the medium is left out.
func trace(i runner, ops []op, content bool) ([]outcome, error) {
	if err := zero(i); err != nil {
		return nil, fmt.Errorf("clear: %w", err)
	}
	var list []outcome
	for n, o := range ops {
		res, err := i.run(o)
		if err != nil {
			return list, fmt.Errorf("operation %d, %v: %w", n, o, err)
		}
		if from, to := o.identity[0], min(o.identity[1], len(res.data)); from < to {
			copy(res.data[from:to], bytes.Repeat([]byte{'?'}, to-from))
		}
		if o.stored && !content {
			res.data = make([]byte, len(res.data))
		}
		list = append(list, res)
	}
	return list, nil
}
