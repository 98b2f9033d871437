package rpc

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
)

// Client calls a server, one request at a time. One goroutine only.
type Client struct {
	conn net.Conn
	in   *bufio.Reader
	id   int
}

// Dial connects to the socket at path.
func Dial(path string) (*Client, error) {
	c, err := net.Dial("unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("nothing serves on %s: start it with \"spindle serve\", or name its socket with --rpc-socket: %w", path, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s belongs to another user: only its user and root may connect: %w", path, err)
	case err != nil:
		return nil, err
	}
	return &Client{conn: c, in: bufio.NewReader(c)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Call runs a method; params is nil or marshals to an object. An error of the
// method is an *Error.
func (c *Client) Call(method string, params any) (json.RawMessage, error) {
	c.id++
	request := obj{{"jsonrpc", "2.0"}, {"id", c.id}, {"method", method}}
	if params != nil {
		request = append(request, member{"params", params})
	}
	if _, err := c.conn.Write(marshal(request)); err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	line, err := c.in.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the server closed the connection without an answer; its log says why: %w", err)
	}
	var response struct {
		Result json.RawMessage `json:"result"`
		Error  *Error          `json:"error"`
	}
	if err := json.Unmarshal(line, &response); err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	if response.Error != nil {
		return nil, response.Error
	}
	return response.Result, nil
}

// ParseArgs turns key=value arguments into parameters, by the method's
// specification: a value is JSON when its parameter wants more than a string,
// and text when it wants one. What the server would refuse is refused here, in
// words.
func (m *Method) ParseArgs(args []string) (map[string]json.RawMessage, error) {
	params := map[string]json.RawMessage{}
	for _, a := range args {
		name, text, found := strings.Cut(a, "=")
		if !found {
			return nil, fmt.Errorf("argument %q is not key=value; usage: %s", a, m.Usage())
		}
		if _, twice := params[name]; twice {
			return nil, fmt.Errorf("parameter %q is given twice", name)
		}
		params[name] = m.argument(name, text)
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	v, _, err := parseFile(raw)
	if err != nil {
		return nil, err
	}
	if _, err := decode(&v, m.Params); err != nil {
		return nil, fmt.Errorf("%w\nusage: spindle rpc %s", err, m.Usage())
	}
	return params, nil
}

// argument encodes one value. Text that is no JSON stands for itself; a list of
// strings may be given as a,b,c.
func (m *Method) argument(name, text string) json.RawMessage {
	kind := Calls
	for _, p := range m.Params {
		if p.Name == name {
			kind = p.Type
		}
	}
	quoted := json.RawMessage(marshal(text))
	isJSON := json.Valid([]byte(text))
	switch {
	case kind == String || kind == UUID:
		if isJSON && strings.HasPrefix(text, `"`) {
			return json.RawMessage(text)
		}
		return quoted
	case isJSON:
		return json.RawMessage(text)
	case kind == Strings:
		return json.RawMessage(marshal(strings.Split(text, ",")))
	}
	return quoted
}
