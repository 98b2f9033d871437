// Package pdu is the wire formats growing a dependency.
//
//lint:room iscsi/pdu
package pdu

import (
	_ "encoding/binary"

	_ "spindle/reactor/mem" // want
)
