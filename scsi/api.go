package scsi

import "spindle/reactor"

// placeholder declarations of the engine-facing API; replaced as the room is built.

// Nexus is one I_T nexus.
type Nexus struct{}

// View is one reactor's side of a logical unit.
type View struct{}

// ITL is one I_T_L nexus.
type ITL struct{}
type opcode struct{}

var _ reactor.Caller
