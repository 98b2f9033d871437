// Package testonly lets a test's helper into the product.
//
//lint:room cmd/spindle
package testonly

import (
	_ "spindle/iscsi"
	_ "spindle/reactor/ring/simring" // want
)
