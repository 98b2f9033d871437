package main

import (
	"slices"

	"spindle/internal/testbed"
)

// form is a way to make the LUN that the conformance suite is run on.
type form struct {
	name string
	lun  testbed.LUN
	// paths is how many portal groups lead to it; the suite is given all.
	paths int
	// size in MiB; 100 when 0.
	size int
	// only is the one suite to run; all when empty.
	only string
	// always: part of `make test`, not of `make conformance` alone. These are
	// chosen so that every test of the suite passes on one of them.
	always bool
}

// forms are all that are tested, by module and by what is different.
func forms() []form {
	type set = map[string]any
	kinds := []form{
		{name: "", always: true},
		{name: "thick", lun: testbed.LUN{LUN: set{"thick": true}}},
		{name: "removable", lun: testbed.LUN{LUN: set{"removable": true}}},
		{name: "readonly", lun: testbed.LUN{LUN: set{"read_only": true}}},
		{name: "4k", lun: testbed.LUN{Block: 4096}},
		{name: "paths", paths: 2},
	}
	var all []form
	for _, module := range []struct{ name, method string }{{"malloc", "malloc"}, {"file", "aio"}} {
		for _, f := range kinds {
			f.lun.Module = module.method
			f.always = f.always || module.name == "malloc"
			f.name = joinName(module.name, f.name)
			all = append(all, f)
		}
	}
	return append(all,
		form{name: "malloc-aligned", lun: testbed.LUN{Module: "malloc", Bdev: set{"physical_block_size": 4096}}, always: true},
		form{name: "malloc-protected", lun: testbed.LUN{Module: "malloc", Bdev: set{"md_size": 8, "dif_type": 1}}},
		// A LUN on which EXTENDED COPY of half of it, with 4 KiB blocks, takes a
		// WRITE that the block limits page allows.
		form{name: "malloc-4k-small", lun: testbed.LUN{Module: "malloc", Block: 4096}, size: 7, only: "ExtendedCopy.Simple", always: true},
	)
}

func joinName(module, kind string) string {
	if kind == "" {
		return module
	}
	return module + "-" + kind
}

// some are the forms of `make test`.
func some() []form {
	return slices.DeleteFunc(forms(), func(f form) bool { return !f.always })
}
