package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"spindle/control"
)

// Error codes of JSON-RPC 2.0, and the one SPDK adds. Handlers also answer raw
// negative errnos.
const (
	codeInvalidRequest = -32600
	codeNoMethod       = -32601
	codeInvalidParams  = -32602
	codeInternal       = -32603
	codeWrongState     = -1
)

// Error is an error answer.
type Error struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	// Data says what happened in words. It is sent only to clients that asked
	// for it (rpc_set_error_detail), because SPDK's answers have no such member.
	Data string `json:"data,omitempty"`
}

func (e *Error) Error() string {
	if e.Data != "" {
		return e.Data
	}
	return e.Message
}

// answer is a fixed way in which a method reports a class of errors.
type answer struct {
	code int
	text string
}

func (a answer) because(err error) *Error { return &Error{a.code, a.text, err.Error()} }

// What SPDK's methods answer to parameters that do not decode; which one is a
// fact of each method.
var (
	invalidParams  = answer{codeInvalidParams, "Invalid parameters"}
	decodeInternal = answer{codeInternal, "spdk_json_decode_object failed"}
	decodeInvalid  = answer{codeInvalidParams, "spdk_json_decode_object failed"}
)

// asErrno reports err as a raw negative errno with the C library's text for it.
func asErrno(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	errno := control.Errno(err)
	return &Error{-int(errno), strerror(errno), err.Error()}
}

// strerror is the C library's text: Go's, with a capital.
func strerror(e syscall.Errno) string {
	s := e.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

// message is one request, decoded.
type message struct {
	id     *value // nil or null: a notification
	method string
	params *value
	// refused is why the request is not looked at; nil: it is.
	refused *Error
}

// decodeMessage reads a request object. Anything odd about it is an invalid
// request, answered with a null id even when it has one.
func decodeMessage(v *value) (message, bool) {
	var m message
	if v.kind != kindObject {
		return m, false
	}
	for i, key := range v.keys {
		item := &v.items[i]
		for _, before := range v.keys[:i] {
			if before == key {
				return m, false
			}
		}
		switch key {
		case "jsonrpc":
			if item.kind != kindString || item.text != "2.0" {
				return m, false
			}
		case "id":
			if item.kind != kindString && item.kind != kindNumber && item.kind != kindNull {
				return m, false
			}
			m.id = item
		case "method":
			if item.kind != kindString {
				return m, false
			}
			m.method = item.text
		case "params":
			m.params = item
		default:
			return m, false
		}
	}
	return m, v.get("method") != nil
}

// paramsBad tells whether params are of a type that no request may have; this
// is answered with the request's own id.
func (m *message) paramsBad() bool {
	return m.params != nil && m.params.kind != kindNull && m.params.kind != kindObject && m.params.kind != kindArray
}

func (m *message) notification() bool { return m.id == nil || m.id.kind == kindNull }

// response is the answer on the wire, without the line end; nil when a
// notification succeeded.
func (m *message) response(result any, e *Error) []byte {
	if m.notification() && e == nil {
		return nil
	}
	var b bytes.Buffer
	b.WriteString(`{"jsonrpc":"2.0","id":`)
	switch {
	case m.notification():
		b.WriteString("null")
	case m.id.kind == kindString:
		b.Write(marshal(m.id.text))
	default:
		b.WriteString(m.id.text) // as it came: 2.5 stays 2.5
	}
	if e != nil {
		b.WriteString(`,"error":`)
		b.Write(marshal(e))
	} else {
		b.WriteString(`,"result":`)
		b.Write(marshal(result))
	}
	b.WriteByte('}')
	return b.Bytes()
}

// marshal encodes without escaping what only HTML needs escaped, but escapes what a
// terminal might obey: initiators choose their names.
func marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // results are plain values made in this package
	}
	text := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if !bytes.ContainsFunc(text, obeyed) {
		return text
	}
	var out []byte
	for _, r := range string(text) {
		if !obeyed(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, u := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, u)
		}
	}
	return out
}

// obeyed tells whether a character that JSON lets through in a string is not one to
// print: DEL, the controls behind ASCII, what turns the direction of writing.
func obeyed(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }

var (
	errInvalidRequest = &Error{Code: codeInvalidRequest, Message: "Invalid request"}
	errWaiting        = &Error{-int(syscall.EBUSY), strerror(syscall.EBUSY), fmt.Sprintf("%d requests of this connection wait already", MaxWaiting)}
	errTooLarge       = &Error{codeInternal, "Response too large", fmt.Sprintf("done, but the answers of a batch are %d MiB at most: ask for this by itself", MaxBatchAnswer>>20)}
)
