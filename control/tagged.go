package control

import (
	"slices"
	"sync"
	"syscall"
)

// tagged is a list of groups that are known by tags, in the order they were
// made. Transactions change it; it is replaced, never written to, so that who
// has copied it may go on reading.
type tagged[K comparable, G any] struct {
	mu   *sync.RWMutex // Control's, which guards list
	what string        // a group's name in errors
	tag  func(G) K
	list []G
}

// at finds a group; -1 is none. Preconditions: mu is held.
func (t *tagged[K, G]) at(tag K) int {
	return slices.IndexFunc(t.list, func(g G) bool { return t.tag(g) == tag })
}

// get returns a group that has to be there.
func (t *tagged[K, G]) get(tag K) (g G, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if i := t.at(tag); i >= 0 {
		return t.list[i], nil
	}
	return g, refuse(syscall.ENOENT, "there is no %s %v", t.what, tag)
}

// has tells whether there is a group.
func (t *tagged[K, G]) has(tag K) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.at(tag) >= 0
}

// vacant is an error when there is a group.
func (t *tagged[K, G]) vacant(tag K) error {
	if t.has(tag) {
		return refuse(syscall.EEXIST, "%s %v exists", t.what, tag)
	}
	return nil
}

// put adds a group, or replaces the one with its tag.
func (t *tagged[K, G]) put(g G) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.Clone(t.list)
	if i := t.at(t.tag(g)); i >= 0 {
		t.list[i] = g
		return
	}
	t.list = append(t.list, g)
}

// drop takes a group out.
func (t *tagged[K, G]) drop(tag K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := t.at(tag); i >= 0 {
		t.list = slices.Delete(slices.Clone(t.list), i, i+1)
	}
}

// all is a copy of the list.
func (t *tagged[K, G]) all() []G {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Clone(t.list)
}
