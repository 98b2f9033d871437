// Package cold breaks what a hot function is held to.
//
//lint:room iscsi
package cold

import (
	"fmt"
	"sync"
	"time"
)

type big struct{ a, b uint64 }

func (big) Error() string { return "" }

type conn struct {
	mu  sync.Mutex
	m   map[int]int
	ch  chan int
	buf []byte
}

func take(error)              {}
func takes(...any)            {}
func (c *conn) Error() string { return "" }

//spindle:hot
func (c *conn) all(x int, a any) error {
	defer c.mu.Unlock()       // want
	c.mu.Lock()               // want
	f := func() {}            // want
	f()                       //
	c.m[x] = 1                // want
	c.ch <- 1                 // want
	x = <-c.ch                // want
	fmt.Println()             // want
	_ = time.Now()            // want
	go f()                    // want
	_ = a.(int)               // want
	takes(x)                  // want
	take(big{})               // want
	_ = error(big{})          // want
	take(c)                   // a pointer needs no box
	takes("constant", nil, c) //
	delete(c.m, 1)            // want
	c.buf = append(c.buf, 1)  // want
	c.buf = append(c.buf, 1)  // capacity: one a slot, sized by New
	if x > 3 {
		panic(fmt.Sprintf("x is %d", x))
	}
	return nil
}

func (c *conn) unmarked() { defer c.mu.Unlock() }
