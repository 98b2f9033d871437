package daemon

import (
	"errors"
	"fmt"

	"spindle/iser"
	"spindle/reactor"
	"spindle/reactor/mem"
	"spindle/verbs"
	"spindle/verbs/ibverbs"
)

// rdma is the iSER transport as this machine allows it. Without the libraries
// portals with iSER keep their setting and tell what is missing; TCP is served
// all the same.
func (d *Daemon) rdma(space *mem.Space) iser.Options {
	o := iser.Options{
		Reactors: d.reactors, Space: space, Offload: reactor.NewPool(1), Log: d.opt.Log.Logger("iser"),
		TOS: d.opt.RDMATOS, AckTimeout: d.opt.RDMAAckTimeout,
	}
	p, err := ibverbs.Open()
	if err != nil {
		o.Missing = missing(err)
		d.log.Debug("no RDMA", "reason", o.Missing)
		return o
	}
	o.Provider = p
	return o
}

// missing adds to an error of Open what to do about it.
func missing(err error) error {
	if errors.Is(err, verbs.ErrNotBuilt) {
		return fmt.Errorf("%w: build it with a C compiler (make build)", err)
	}
	return fmt.Errorf("%w: apt install libibverbs1 librdmacm1 ibverbs-providers, then restart", err)
}
