// Package global has itself registered.
package global

import (
	"errors"
	"sync"
)

var modules = map[string]int{} // want

var all []string // want

var made = make(map[string]bool) // want

var shared sync.Map // want

var names = map[int]string{1: "one"}

// ErrNone is a sentinel.
var ErrNone = errors.New("none")

func init() { // want
	modules["global"] = 1
}
