// Package chance leaves things to it.
//
//lint:room scsi
package chance

import (
	_ "crypto/rand" // want
	"math/rand/v2"
	"sync"
	"time"
)

var pool sync.Pool // want

func all(a, b chan int) {
	go pool.Get()    // want
	_ = time.Now()   // want
	_ = rand.IntN(3) // want
	_ = rand.New(rand.NewPCG(1, 2)).IntN(3)
	select { // want
	case <-a:
	case <-b:
	}
	select {
	case <-a:
	default:
	}
	_ = time.Second
	_ = time.Now() //spindle:edge the process's start, for a person to read
}

//spindle:edge production's own thread
func thread() { go all(nil, nil) }

//spindle:edge
func noReason() { go thread() } // want
