package memverbs

// Faults are probabilities, each drawn whenever its fault could happen; zero
// switches it off. They may be changed between any two calls on the World.
type Faults struct {
	// Queue pairs, drawn for each request.
	Delay        float64 // takes up to 16 latencies
	RNR          float64 // a send is answered RNR although a receive is posted
	LateRead     float64 // an RDMA READ takes up to 64 latencies
	RemoteAccess float64 // an RDMA WRITE or READ is answered "remote access error"
	Fatal        float64 // the queue pair fails by itself
	LateReceive  float64 // a receive posted to a failed queue pair waits for the next flush: another Fail

	// Completion queues.
	ShortPoll float64 // Poll returns a part of what is there
	Spurious  float64 // an armed queue is announced without a completion

	// The connection manager.
	EarlyReceive float64 // ESTABLISHED is up to 64 latencies late, so that messages overtake it
	EventDelay   float64 // any other event is up to 64 latencies late
	DupEvent     float64 // DISCONNECTED comes twice
	LostRequest  float64 // a connection request is lost for good: its sender hears UNREACHABLE
	LostReply    float64 // likewise its acceptance: whoever accepted hears REJECTED in the end
}

// AllFaults is every fault at a rate that leaves runs able to progress.
func AllFaults() Faults {
	return Faults{
		Delay: 0.1, RNR: 0.01, LateRead: 0.2, RemoteAccess: 0.0005, Fatal: 0.0002, LateReceive: 0.5,
		ShortPoll: 0.2, Spurious: 0.05,
		EarlyReceive: 0.3, EventDelay: 0.2, DupEvent: 0.2, LostRequest: 0.02, LostReply: 0.02,
	}
}

// Lossless is f without the faults that end a connection.
func (f Faults) Lossless() Faults {
	f.RemoteAccess, f.Fatal, f.LostRequest, f.LostReply = 0, 0, 0, 0
	return f
}

// Counts tells how often each fault of the same name was injected, and how
// often the caller brought the others about.
type Counts struct {
	Delay, RNR, LateRead, RemoteAccess, Fatal, LateReceive uint64
	ShortPoll, Spurious                                    uint64
	EarlyReceive, EventDelay, DupEvent                     uint64
	LostRequest, LostReply                                 uint64

	NoReceive     uint64 // sends that found no receive: RNR in earnest
	ReadStalls    uint64 // times a full read depth held up a send queue
	EarlyMessages uint64 // messages that arrived before ESTABLISHED was taken
	Flushed       uint64 // requests
	AccessDenied  uint64 // remote operations without a valid key, range or right
	Removals      uint64 // devices
}

// Each calls f for every counter, in a fixed order.
func (c *Counts) Each(f func(name string, n uint64)) {
	for _, e := range [...]struct {
		name string
		n    uint64
	}{
		{"Delay", c.Delay}, {"RNR", c.RNR}, {"LateRead", c.LateRead}, {"RemoteAccess", c.RemoteAccess}, {"Fatal", c.Fatal}, {"LateReceive", c.LateReceive},
		{"ShortPoll", c.ShortPoll}, {"Spurious", c.Spurious},
		{"EarlyReceive", c.EarlyReceive}, {"EventDelay", c.EventDelay}, {"DupEvent", c.DupEvent},
		{"LostRequest", c.LostRequest}, {"LostReply", c.LostReply},
		{"NoReceive", c.NoReceive}, {"ReadStalls", c.ReadStalls}, {"EarlyMessages", c.EarlyMessages},
		{"Flushed", c.Flushed}, {"AccessDenied", c.AccessDenied}, {"Removals", c.Removals},
	} {
		f(e.name, e.n)
	}
}

// Never names the counters that a correct target leaves at zero with initiators
// that keep to the rules.
func (c *Counts) Never() []string { return []string{"NoReceive", "ReadStalls", "AccessDenied"} }

// Injected is the number of faults injected.
func (c *Counts) Injected() uint64 {
	return c.Delay + c.RNR + c.LateRead + c.RemoteAccess + c.Fatal + c.LateReceive + c.ShortPoll + c.Spurious +
		c.EarlyReceive + c.EventDelay + c.DupEvent + c.LostRequest + c.LostReply
}

// Add adds o to c.
func (c *Counts) Add(o *Counts) {
	c.Delay += o.Delay
	c.RNR += o.RNR
	c.LateRead += o.LateRead
	c.RemoteAccess += o.RemoteAccess
	c.Fatal += o.Fatal
	c.LateReceive += o.LateReceive
	c.ShortPoll += o.ShortPoll
	c.Spurious += o.Spurious
	c.EarlyReceive += o.EarlyReceive
	c.EventDelay += o.EventDelay
	c.DupEvent += o.DupEvent
	c.LostRequest += o.LostRequest
	c.LostReply += o.LostReply
	c.NoReceive += o.NoReceive
	c.ReadStalls += o.ReadStalls
	c.EarlyMessages += o.EarlyMessages
	c.Flushed += o.Flushed
	c.AccessDenied += o.AccessDenied
	c.Removals += o.Removals
}
