package sim

import "maps"

// Minimise leaves out actions of a run that fails, as long as it goes on to
// fail by the same rule, in at most tries runs. It returns the smallest
// configuration found and its report.
func Minimise(m *Machine, cfg Config, tries int) (Config, *Report) {
	best := Run(m, cfg)
	if best.Failure == nil {
		return cfg, best
	}
	rule := best.Failure.Rule
	for size := max(len(best.Actions)/2, 1); size > 0 && tries > 0; {
		smaller := false
		for from := 0; from < len(best.Actions) && tries > 0; tries-- {
			next := cfg
			next.Drop = maps.Clone(cfg.Drop)
			if next.Drop == nil {
				next.Drop = map[ActionID]bool{}
			}
			for _, a := range best.Actions[from:min(from+size, len(best.Actions))] {
				next.Drop[a] = true
			}
			rep := Run(m, next)
			if rep.Failure == nil || rep.Failure.Rule != rule {
				from += size
				continue
			}
			// The actions behind where it fails now are not part of it.
			cfg, best, smaller = next, rep, true
		}
		if !smaller || size > len(best.Actions) {
			size /= 2
		}
	}
	return cfg, best
}

// Keep is the configuration that makes these actions of a run and no others.
func Keep(cfg Config, list []ActionID) Config {
	cfg.Keep = map[ActionID]bool{}
	for _, a := range list {
		cfg.Keep[a] = true
	}
	cfg.Drop = nil
	return cfg
}
