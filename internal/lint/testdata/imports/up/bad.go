// Package up is a block module that reaches up, sideways and out.
//
//lint:room bdev
package up

import (
	_ "errors"

	_ "spindle/bdev/malloc" // want
	_ "spindle/internal/invariants"
	_ "spindle/iscsi" // want
	_ "spindle/iscsi/pdu"
	_ "spindle/reactor/mem"
)
