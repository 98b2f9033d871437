// Package pcap writes iSCSI byte streams as packet captures, so that a dialogue
// can be judged by a dissector that shares no code with this project. Ethernet,
// IP and TCP headers are made up; checksums are left 0, as captures taken before
// checksum offload have them.
//
// Threading: a Writer and its Streams belong to one goroutine. Memory: a frame
// is built in a buffer of the Writer and reused.
package pcap

import (
	"encoding/binary"
	"io"
	"net/netip"
)

const (
	magicMicro  = 0xa1b2c3d4
	linkEther   = 1
	snapLen     = 65535
	segmentMax  = 32768 // bytes of TCP payload a frame
	tcpLen      = 20
	flagFIN     = 0x01
	flagSYN     = 0x02
	flagPSH     = 0x08
	flagACK     = 0x10
	protocolTCP = 6
)

var be = binary.BigEndian

// Writer writes a capture file.
type Writer struct {
	w     io.Writer
	err   error
	ticks uint32 // microseconds; a frame each, since nothing here has a clock
	frame []byte
}

// NewWriter starts a capture on w. Errors are kept: see Err.
func NewWriter(w io.Writer) *Writer {
	h := binary.LittleEndian.AppendUint32(nil, magicMicro)
	h = binary.LittleEndian.AppendUint16(h, 2) // version 2.4
	h = binary.LittleEndian.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...) // time zone, accuracy
	h = binary.LittleEndian.AppendUint32(h, snapLen)
	h = binary.LittleEndian.AppendUint32(h, linkEther)
	pw := &Writer{w: w}
	pw.write(h)
	return pw
}

// Frames is how many frames there are: the number of the last.
func (w *Writer) Frames() int { return int(w.ticks) }

// Err is the first error of the underlying writer.
func (w *Writer) Err() error { return w.err }

func (w *Writer) write(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

// Stream is one TCP connection of a capture.
type Stream struct {
	w     *Writer
	ends  [2]netip.AddrPort // initiator, target
	seq   [2]uint32
	ended bool
}

// Stream opens a connection from initiator to target, handshake included.
// Preconditions: both addresses are of one family.
func (w *Writer) Stream(initiator, target netip.AddrPort) *Stream {
	s := &Stream{w: w, ends: [2]netip.AddrPort{initiator, target}, seq: [2]uint32{1000, 2000}}
	s.segment(0, flagSYN, nil)
	s.segment(1, flagSYN|flagACK, nil)
	s.segment(0, flagACK, nil)
	return s
}

// FromInitiator writes bytes the initiator sent; they may hold any number of PDUs.
func (s *Stream) FromInitiator(b []byte) { s.data(0, b) }

// FromTarget writes bytes the target sent.
func (s *Stream) FromTarget(b []byte) { s.data(1, b) }

// Close ends the connection from the initiator's side.
func (s *Stream) Close() {
	if s.ended {
		return
	}
	s.ended = true
	s.segment(0, flagFIN|flagACK, nil)
	s.segment(1, flagFIN|flagACK, nil)
	s.segment(0, flagACK, nil)
}

func (s *Stream) data(from int, b []byte) {
	for len(b) > 0 {
		n := min(len(b), segmentMax)
		s.segment(from, flagPSH|flagACK, b[:n])
		b = b[n:]
	}
}

// segment writes one frame and moves the sender's sequence number.
func (s *Stream) segment(from int, flags byte, payload []byte) {
	src, dst := s.ends[from], s.ends[1-from]
	f := append(s.w.frame[:0], 2, 0, 0, 0, 0, byte(2-from), 2, 0, 0, 0, 0, byte(from+1))
	if src.Addr().Is4() {
		f = be.AppendUint16(f, 0x0800)
		f = append(f, 0x45, 0)
		f = be.AppendUint16(f, uint16(20+tcpLen+len(payload)))
		f = append(f, 0, 0, 0x40, 0, 64, protocolTCP, 0, 0)
	} else {
		f = be.AppendUint16(f, 0x86dd)
		f = append(f, 0x60, 0, 0, 0)
		f = be.AppendUint16(f, uint16(tcpLen+len(payload)))
		f = append(f, protocolTCP, 64)
	}
	f = append(f, src.Addr().AsSlice()...)
	f = append(f, dst.Addr().AsSlice()...)
	f = be.AppendUint16(f, src.Port())
	f = be.AppendUint16(f, dst.Port())
	f = be.AppendUint32(f, s.seq[from])
	ack := uint32(0)
	if flags&flagACK != 0 {
		ack = s.seq[1-from]
	}
	f = be.AppendUint32(f, ack)
	f = append(f, tcpLen/4<<4, flags)
	f = be.AppendUint16(f, 65535)
	f = append(f, 0, 0, 0, 0) // checksum, urgent pointer
	f = append(f, payload...)
	s.w.frame = f
	s.seq[from] += uint32(len(payload))
	if flags&(flagSYN|flagFIN) != 0 {
		s.seq[from]++
	}
	s.w.packet(f)
}

func (w *Writer) packet(f []byte) {
	w.ticks++
	h := binary.LittleEndian.AppendUint32(make([]byte, 0, 16), w.ticks/1e6)
	h = binary.LittleEndian.AppendUint32(h, w.ticks%1e6)
	h = binary.LittleEndian.AppendUint32(h, uint32(len(f)))
	h = binary.LittleEndian.AppendUint32(h, uint32(len(f)))
	w.write(h)
	w.write(f)
}
