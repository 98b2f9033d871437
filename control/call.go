package control

import (
	"bytes"
	"encoding/json"
)

// Member is one member of an Obj.
type Member struct {
	Name  string
	Value any
}

// Obj is a JSON object whose members keep their order.
type Obj []Member

// MarshalJSON implements json.Marshaler.
func (o Obj) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(m.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.Value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Get returns the value of a member, or nil.
func (o Obj) Get(name string) any {
	for _, m := range o {
		if m.Name == name {
			return m.Value
		}
	}
	return nil
}

// set returns a copy of o with a member changed or added: objects that readers
// may hold are never changed in place.
func (o Obj) set(name string, value any) Obj {
	c := append(Obj(nil), o...)
	for i := range c {
		if c[i].Name == name {
			c[i].Value = value
			return c
		}
	}
	return append(c, Member{name, value})
}

// Call is an RPC call that makes an object again.
type Call struct {
	Method string
	Params Obj
}

// MarshalJSON implements json.Marshaler; a call without parameters has no
// "params" member, because methods that take none refuse an empty object.
func (c Call) MarshalJSON() ([]byte, error) {
	o := Obj{{"method", c.Method}}
	if len(c.Params) > 0 {
		o = append(o, Member{"params", c.Params})
	}
	return o.MarshalJSON()
}

// Subsystem is a part of a saved configuration.
type Subsystem struct {
	Name  string `json:"subsystem"`
	Calls []Call `json:"config"`
}
