//go:build race

package iscsi_test

// raceEnabled: the race detector allocates on its own account.
const raceEnabled = true
