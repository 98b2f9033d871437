package rpc

import (
	"io"
	"net"
	"time"
)

// ServeStream answers the requests of one stream, as Listen does for each
// connection.
func (s *Server) ServeStream(rw io.ReadWriter) { s.serve(rw) }

// Accept serves what comes by l, until Close ends it.
func (s *Server) Accept(l net.Listener) {
	s.listener = l
	s.wg.Add(1)
	go s.accept(l)
}

// SetSendTimeout has clients take answers faster.
func (s *Server) SetSendTimeout(d time.Duration) { s.sendTimeout = d }

// SetBatchAnswer bounds the answers of a batch, in bytes.
func (s *Server) SetBatchAnswer(n int64) { s.batchAnswer = n }

// ParsedLen is the length of the JSON value at the front of in; false when it
// is incomplete or malformed.
func ParsedLen(in []byte) (int, bool) {
	_, n, err := parse(in)
	return n, err == nil
}

// ParseInteger is how numbers become integers.
var ParseInteger = parseInteger
