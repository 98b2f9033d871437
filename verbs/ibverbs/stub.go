//go:build !cgo || !linux

package ibverbs

import "spindle/verbs"

// Open cannot do anything in this build.
func Open() (verbs.Provider, error) { return nil, verbs.ErrNotBuilt }
