package control

// MaxEvents is how many notifications are kept for notify_get_notifications;
// older ones are forgotten.
const MaxEvents = 1024

// EventTypes are the notifications there are.
var EventTypes = []string{"bdev_register", "bdev_unregister", "bdev_resize"}

// Event is one notification.
type Event struct {
	Type    string `json:"type"`
	Context string `json:"ctx"`
	ID      uint64 `json:"id"`
}

// events is a ring of the latest notifications; their ids only grow.
type events struct {
	ring [MaxEvents]Event
	next uint64 // id of the next
}

func (e *events) add(kind, context string) {
	e.ring[e.next%MaxEvents] = Event{kind, context, e.next}
	e.next++
}

// since returns up to limit events with an id of at least id.
func (e *events) since(id, limit uint64) []Event {
	out := []Event{}
	if e.next > MaxEvents {
		id = max(id, e.next-MaxEvents)
	}
	for ; id < e.next && uint64(len(out)) < limit; id++ {
		out = append(out, e.ring[id%MaxEvents])
	}
	return out
}

// Events returns up to limit notifications with an id of at least id.
func (c *Control) Events(id, limit uint64) []Event {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.events.since(id, limit)
}
