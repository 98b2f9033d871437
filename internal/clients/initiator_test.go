package clients

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"spindle/internal/testbed"
	"spindle/iscsi/pdu"
)

// initiator is a session of one connection, with one command at a time: just
// enough of one to log in by the thousand and to notice a stall.
type initiator struct {
	conn           net.Conn
	cmdSN, expStat uint32
	itt            uint32
	buf            []byte
	asyncEvent     uint8 // of the last Async Message; 0xff is none
	name, node     string
}

// stall is how long any answer may take.
const stall = 10 * time.Second

// dial connects and logs in as host number n.
func dial(addr string, n int) (*initiator, error) {
	conn, err := net.DialTimeout("tcp", addr, stall)
	if err != nil {
		return nil, err
	}
	c := &initiator{conn: conn, buf: make([]byte, 1<<20), asyncEvent: 0xff, node: testbed.IQN, name: fmt.Sprintf("iqn.2026-11.io.spindle:host%d", n)}
	if err := c.login(n); err != nil {
		conn.Close()
		return nil, fmt.Errorf("login: %w", err)
	}
	return c, nil
}

func (c *initiator) login(n int) error {
	keys := strings.Join([]string{
		"InitiatorName=" + c.name, "TargetName=" + c.node, "SessionType=Normal",
		"HeaderDigest=None", "DataDigest=None", "MaxRecvDataSegmentLength=262144", "ErrorRecoveryLevel=0", "",
	}, "\x00")
	for range 5 {
		h := c.request(pdu.LoginRequest, pdu.FlagTransit|pdu.StageOperational<<2|pdu.StageFullFeature)
		h[0] |= 0x40                                                       // immediate
		h[8], h[10], h[11], h[12], h[13] = 0x80, 1, 2, byte(n>>8), byte(n) // ISID, random form
		c.expStat, c.cmdSN = 0, 1
		h.SetCmdSN(c.cmdSN)
		if err := c.send(h, []byte(keys)); err != nil {
			return err
		}
		rsp, _, err := c.receive()
		if err != nil {
			return err
		}
		switch {
		case rsp.Opcode() != pdu.LoginResponse:
			return fmt.Errorf("opcode %#x", uint8(rsp.Opcode()))
		case rsp.LoginStatus() != 0:
			return fmt.Errorf("status %#04x", rsp.LoginStatus())
		case rsp.Flags()&pdu.FlagTransit != 0:
			return nil
		}
		keys = ""
	}
	return fmt.Errorf("the target does not come to an end")
}

// request is a header with the next task tag.
func (c *initiator) request(op pdu.Opcode, flags byte) pdu.BHS {
	h := pdu.BHS(make([]byte, pdu.HeaderLen))
	h.SetOpcode(op)
	h.SetFlags(flags)
	c.itt++
	h.SetITT(c.itt)
	h.SetCmdSN(c.cmdSN)
	h.SetExpStatSN(c.expStat)
	return h
}

func (c *initiator) send(h pdu.BHS, data []byte) error {
	h.SetDataLen(uint32(len(data)))
	msg := append(append([]byte{}, h...), data...)
	for len(msg)%4 != 0 {
		msg = append(msg, 0)
	}
	_, err := c.conn.Write(msg)
	return err
}

// receive returns the next PDU that answers something: NOP-Ins are answered
// and Async Messages noted on the way.
func (c *initiator) receive() (pdu.BHS, []byte, error) {
	for {
		if err := c.conn.SetReadDeadline(time.Now().Add(stall)); err != nil {
			return nil, nil, err
		}
		h := pdu.BHS(make([]byte, pdu.HeaderLen))
		if _, err := io.ReadFull(c.conn, h); err != nil {
			return nil, nil, err
		}
		n := int(h.PaddedDataLen())
		if n > len(c.buf) || h.AHSLen() != 0 {
			return nil, nil, fmt.Errorf("a PDU of %d bytes, %d of AHS", n, h.AHSLen())
		}
		if _, err := io.ReadFull(c.conn, c.buf[:n]); err != nil {
			return nil, nil, err
		}
		switch h.Opcode() {
		case pdu.NopIn:
			if h.TTT() != pdu.ReservedTag {
				out := c.request(pdu.NopOut, pdu.FlagFinal)
				out[0] |= 0x40
				out.SetITT(pdu.ReservedTag)
				out.SetTTT(h.TTT())
				if err := c.send(out, nil); err != nil {
					return nil, nil, err
				}
			}
			continue
		case pdu.AsyncMessage:
			c.expStat = h.StatSN() + 1
			c.asyncEvent = h[36]
			continue
		case pdu.DataIn:
			if h.Flags()&pdu.FlagStatus != 0 {
				c.expStat = h.StatSN() + 1
			}
		case pdu.R2T:
		default:
			c.expStat = h.StatSN() + 1
		}
		return h, c.buf[:h.DataLen()], nil
	}
}

// read reads blocks of 512 bytes with READ (10).
func (c *initiator) read(lun uint8, lba uint32, blocks uint16) ([]byte, error) {
	cdb := make([]byte, 16)
	cdb[0] = 0x28
	binary.BigEndian.PutUint32(cdb[2:6], lba)
	binary.BigEndian.PutUint16(cdb[7:9], blocks)
	got, err := c.command(lun, cdb, nil, uint32(blocks)*512)
	if err == nil && len(got) != int(blocks)*512 {
		return nil, fmt.Errorf("%d bytes of %d", len(got), int(blocks)*512)
	}
	return got, err
}

// command runs a command that takes out as immediate data, or returns up to in bytes.
func (c *initiator) command(lun uint8, cdb, out []byte, in uint32) ([]byte, error) {
	flags := byte(pdu.FlagFinal | pdu.FlagRead | 1)
	if out != nil {
		flags, in = pdu.FlagFinal|pdu.FlagWrite|1, uint32(len(out))
	}
	h := c.request(pdu.SCSICommand, flags)
	h[9] = lun
	h.SetEDTL(in)
	copy(h.CDB(), cdb)
	c.cmdSN++
	if err := c.send(h, out); err != nil {
		return nil, err
	}
	var got []byte
	for {
		rsp, data, err := c.receive()
		if err != nil {
			return nil, err
		}
		switch rsp.Opcode() {
		case pdu.DataIn:
			got = append(got, data...)
			if rsp.Flags()&pdu.FlagStatus == 0 {
				continue
			}
		case pdu.SCSIResponse:
		default:
			return nil, fmt.Errorf("opcode %#x to CDB % x", uint8(rsp.Opcode()), cdb)
		}
		if s := rsp.Status(); s != 0 {
			return nil, fmt.Errorf("status %#02x, sense % x", s, data)
		}
		return got, nil
	}
}

// settle takes the unit attentions that a new nexus finds.
func (c *initiator) settle(lun uint8) (err error) {
	for range 4 {
		if _, err = c.read(lun, 0, 1); err == nil || !strings.Contains(err.Error(), "status 0x02") {
			return err
		}
	}
	return err
}

func (c *initiator) logout() error {
	defer c.conn.Close()
	h := c.request(pdu.LogoutReq, pdu.FlagFinal)
	h[0] |= 0x40
	if err := c.send(h, nil); err != nil {
		return err
	}
	rsp, _, err := c.receive()
	if err != nil {
		return err
	}
	if rsp.Opcode() != pdu.LogoutResp || rsp.Response() != 0 {
		return fmt.Errorf("opcode %#x, response %d to a logout", uint8(rsp.Opcode()), rsp.Response())
	}
	return nil
}
