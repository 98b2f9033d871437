// Package room uses unsafe where it may not.
//
//lint:room reactor/mem
package room

import _ "unsafe" // want
