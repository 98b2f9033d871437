package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"spindle/iscsi/pdu"
)

var be = binary.BigEndian

// Initiator is the name every session uses; their ISIDs tell them apart.
const Initiator = "iqn.2026-11.io.spindle:bench"

const (
	loginTimeout = 15 * time.Second
	loginRounds  = 8
	maxText      = 16 << 10
	attempts     = 10 // of TEST UNIT READY, past the unit attentions of a new nexus
)

// ErrLogin: the target refused the session.
var ErrLogin = errors.New("login refused")

// ErrTarget: the target answered what it should not, or nothing.
var ErrTarget = errors.New("target misbehaves")

// params are the negotiated values that matter here (RFC 7143 §13).
type params struct {
	segment    uint32 // the target's MaxRecvDataSegmentLength; over iSER TargetRecvDataSegmentLength
	firstBurst uint32
	initialR2T bool
	immediate  bool
	header     bool
	data       bool
	rdma       bool
}

// session logs in over a path, before a link takes it over.
type session struct {
	o       *Options
	path    path
	p       params
	cmdSN   uint32
	maxCmd  uint32
	expStat uint32
	blocks  uint64 // capacity
	block   uint32 // bytes
}

// dial connects and logs session number id in.
func (g *generator) dial(ctx context.Context, id int) (*session, error) {
	p, err := g.net.dial(ctx, id)
	if err != nil {
		return nil, err
	}
	s := &session{o: g.o, path: p, cmdSN: 1}
	if err = s.login(id); err == nil {
		err = s.ready()
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("%v: %w", g.o.Address, err)
	}
	return s, nil
}

// login starts at the operational stage, which a target that wants no
// authentication accepts (RFC 7143 §6.3).
func (s *session) login(id int) error {
	s.p = params{segment: 8192, firstBurst: 64 << 10, initialR2T: true, immediate: true} // RFC 7143 §13: defaults
	text := s.offer()
	var h, r [pdu.HeaderLen]byte
	q := pdu.BHS(h[:])
	q.Clear(pdu.LoginRequest)
	q.SetImmediate()
	pid := os.Getpid()
	copy(q.ISID(), []byte{0x80, byte(pid >> 8), byte(pid), byte(id >> 8), 0, byte(id)}) // RFC 7143 §11.12.5: "random"
	q.SetCmdSN(s.cmdSN)
	for range loginRounds {
		q.SetFlags(pdu.FlagTransit | pdu.StageOperational<<2 | pdu.StageFullFeature)
		q.SetDataLen(uint32(len(text)))
		q.SetExpStatSN(s.expStat)
		if err := s.path.write(q, text); err != nil {
			return err
		}
		b := pdu.BHS(r[:])
		answer, err := s.path.read(b)
		if err != nil {
			return err
		}
		if b.Opcode() != pdu.LoginResponse {
			return fmt.Errorf("%w: opcode %#02x instead of a login response", ErrTarget, b.Opcode())
		}
		if st := b.LoginStatus(); st != pdu.LoginSuccess {
			return fmt.Errorf("%w: status %#04x (%s)", ErrLogin, uint16(st), loginReason(st))
		}
		s.expStat, s.maxCmd = b.StatSN()+1, b.MaxCmdSN()
		if err := s.agree(answer); err != nil {
			return err
		}
		if b.Flags()&pdu.FlagTransit != 0 && b.NSG() == pdu.StageFullFeature {
			return s.checkAgreed()
		}
		q.SetTSIH(b.TSIH())
		text = nil
	}
	return fmt.Errorf("%w: no full feature phase after %d rounds", ErrLogin, loginRounds)
}

func (s *session) offer() []byte {
	w := pdu.NewTextWriter(nil, maxText)
	w.Add(pdu.KeyInitiatorName, Initiator)
	w.Add(pdu.KeyTargetName, s.o.Address.Target)
	w.Add(pdu.KeySessionType, pdu.ValueSessionNormal)
	s.path.offer(&w)
	w.Add(pdu.KeyImmediateData, pdu.ValueYes)
	w.AddNumber(pdu.KeyMaxBurst, 16776192)
	w.AddNumber(pdu.KeyFirstBurst, 256<<10)
	w.AddNumber(pdu.KeyDefaultTime2Wait, 2)
	w.AddNumber(pdu.KeyDefaultTime2Retain, 0)
	w.AddNumber(pdu.KeyMaxOutstandingR2T, 1)
	w.AddNumber(pdu.KeyMaxConnections, 1)
	w.AddNumber(pdu.KeyErrorRecoveryLevel, 0)
	w.Add(pdu.KeyDataPDUInOrder, pdu.ValueYes)
	w.Add(pdu.KeyDataSequenceInOrder, pdu.ValueYes)
	return w.Bytes()
}

// agree notes what the target answered.
func (s *session) agree(text []byte) error {
	t := pdu.ParseText(text)
	for t.Next() {
		key, v := string(t.Key()), string(t.Value())
		n, number := pdu.ParseNumber(t.Value())
		switch key {
		case pdu.KeyHeaderDigest:
			s.p.header = v == pdu.ValueCRC32C
		case pdu.KeyDataDigest:
			s.p.data = v == pdu.ValueCRC32C
		case pdu.KeyInitialR2T:
			s.p.initialR2T = v == pdu.ValueYes
		case pdu.KeyImmediateData:
			s.p.immediate = v == pdu.ValueYes
		case pdu.KeyRDMAExtensions:
			s.p.rdma = v == pdu.ValueYes
		case pdu.KeyMaxRecvData, pdu.KeyTargetRecvData, pdu.KeyFirstBurst:
			if !number || n < 512 || n >= 1<<24 {
				return fmt.Errorf("%w: %s=%s", ErrTarget, key, v)
			}
			if key == pdu.KeyFirstBurst {
				s.p.firstBurst = uint32(n)
			} else if (key == pdu.KeyTargetRecvData) == s.o.Address.ISER {
				s.p.segment = uint32(n)
			}
		}
	}
	return t.Err()
}

// checkAgreed: a figure measured without the digests that were asked for would mislead.
func (s *session) checkAgreed() error {
	if s.p.rdma != s.o.Address.ISER {
		return fmt.Errorf("%w: RDMAExtensions was asked for: %v, agreed to: %v", ErrLogin, s.o.Address.ISER, s.p.rdma)
	}
	if s.p.header != s.o.Header || s.p.data != s.o.Data {
		return fmt.Errorf("%w: digests asked for header %v, data %v; the target agreed to %v, %v",
			ErrLogin, s.o.Header, s.o.Data, s.p.header, s.p.data)
	}
	return nil
}

func loginReason(st pdu.LoginStatus) string {
	switch st {
	case pdu.LoginAuthFailed:
		return "it wants CHAP, which this tool does not speak"
	case pdu.LoginForbidden:
		return "this initiator name is not allowed: " + Initiator
	case pdu.LoginNotFound:
		return "there is no such target here"
	}
	switch st.Class() {
	case 1:
		return "it redirects; use the address it redirects to"
	case 2:
		return "initiator error"
	}
	return "target error"
}

// ready gets the unit attentions of a new nexus out of the way and reads the capacity.
func (s *session) ready() error {
	var err error
	for range attempts {
		if _, err = s.command(make([]byte, 16), 0); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	cdb := make([]byte, 16)
	cdb[0], cdb[1], cdb[13] = 0x9e, 0x10, 32 // READ CAPACITY(16), SBC-4 §5.20
	data, err := s.command(cdb, 32)
	if err != nil {
		return fmt.Errorf("READ CAPACITY: %w", err)
	}
	if len(data) < 12 {
		return fmt.Errorf("%w: %d bytes of READ CAPACITY data", ErrTarget, len(data))
	}
	s.blocks, s.block = be.Uint64(data)+1, be.Uint32(data[8:])
	if s.block < 512 || s.block&(s.block-1) != 0 || s.blocks == 0 {
		return fmt.Errorf("%w: %d blocks of %d bytes", ErrTarget, s.blocks, s.block)
	}
	return nil
}

// command runs a command that reads up to n bytes.
func (s *session) command(cdb []byte, n uint32) ([]byte, error) {
	var h, r [pdu.HeaderLen]byte
	q := pdu.BHS(h[:])
	q.Clear(pdu.SCSICommand)
	q.SetFlags(pdu.FlagFinal | pdu.FlagRead | pdu.AttrSimple)
	if n == 0 {
		q.SetFlags(pdu.FlagFinal | pdu.AttrSimple)
	}
	q.SetLUN(encodeLUN(s.o.Address.LUN))
	q.SetEDTL(n)
	q.SetITT(s.cmdSN)
	q.SetCmdSN(s.cmdSN)
	q.SetExpStatSN(s.expStat)
	copy(q.CDB(), cdb)
	s.cmdSN++
	if err := s.path.write(q, nil); err != nil {
		return nil, err
	}
	var data []byte
	for {
		b := pdu.BHS(r[:])
		d, err := s.path.read(b)
		if err != nil {
			return nil, err
		}
		s.maxCmd = b.MaxCmdSN()
		switch op := b.Opcode(); {
		case op == pdu.DataIn:
			data = append(data, d...)
			if b.Flags()&pdu.FlagStatus == 0 {
				continue
			}
			d = nil
		case op == pdu.NopIn && b.TTT() == pdu.ReservedTag:
			continue
		case op != pdu.SCSIResponse:
			return nil, fmt.Errorf("%w: opcode %#02x instead of a response", ErrTarget, op)
		}
		s.expStat = b.StatSN() + 1
		if b.Status() != 0 {
			return nil, statusError(b.Status(), d)
		}
		return append(data, d...), nil
	}
}

// encodeLUN is peripheral addressing below 256, flat above (SAM-5 §4.7).
func encodeLUN(lun uint16) uint64 {
	if lun > 255 {
		lun |= 1 << 14
	}
	return uint64(lun) << 48
}

// statusError describes a SCSI status; d is the data segment of its response,
// sense data behind its length (RFC 7143 §11.4.7).
func statusError(status uint8, d []byte) error {
	if status != 2 || len(d) < 2+14 {
		return fmt.Errorf("%w: SCSI status %#02x", ErrTarget, status)
	}
	sense := d[2:]
	key, asc, ascq := sense[2]&0xf, sense[12], sense[13]
	if sense[0]&0x7f >= 0x72 { // descriptor format, SPC-5 §4.4.2
		key, asc, ascq = sense[1]&0xf, sense[2], sense[3]
	}
	return fmt.Errorf("%w: CHECK CONDITION, sense %x/%02x/%02x", ErrTarget, key, asc, ascq)
}
