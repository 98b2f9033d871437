package rpc

import "io"

// ServeStream answers the requests of one stream, as Listen does for each
// connection.
func (s *Server) ServeStream(rw io.ReadWriter) { s.serve(rw) }

// ParsedLen is the length of the JSON value at the front of in; false when it
// is incomplete or malformed.
func ParsedLen(in []byte) (int, bool) {
	_, n, err := parse(in)
	return n, err == nil
}

// ParseInteger is how numbers become integers.
var ParseInteger = parseInteger
