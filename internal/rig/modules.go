package rig

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// depends is modules.dep: a module's file and those it needs, by name.
type depends struct {
	file  map[string]string
	needs map[string][]string
}

// moduleName is a module's name as the kernel has it.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func readDeps(name string) (*depends, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parseDeps(string(text)), nil
}

// parseDeps reads lines "FILE: NEEDED...".
func parseDeps(text string) *depends {
	d := &depends{file: map[string]string{}, needs: map[string][]string{}}
	for line := range strings.Lines(text) {
		file, needs, ok := strings.Cut(line, ":")
		if ok {
			d.file[moduleName(file)] = file
			d.needs[moduleName(file)] = strings.Fields(needs)
		}
	}
	return d
}

// resolve lists the files of the modules and of all they need, what is needed
// first, each once.
func (d *depends) resolve(names []string) (files []string, err error) {
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		file, ok := d.file[name]
		if !ok {
			return fmt.Errorf("the kernel has no module %s", name)
		}
		for _, n := range d.needs[name] {
			if err := visit(moduleName(n)); err != nil {
				return err
			}
		}
		files = append(files, file)
		return nil
	}
	for _, n := range names {
		if err := visit(moduleName(n)); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// modules puts the modules that are wanted into the root and indexes them.
func (i *Image) modules(ctx context.Context, release string) error {
	if err := i.run(ctx, "depmod", "-b", i.path("kernel"), release); err != nil {
		return err
	}
	from, to := i.path("kernel/lib/modules", release), i.path("root/usr/lib/modules", release)
	deps, err := readDeps(filepath.Join(from, "modules.dep"))
	if err != nil {
		return err
	}
	files, err := deps.resolve(append(append([]string{}, bootModules...), modules...))
	if err != nil {
		return err
	}
	for _, f := range append(files, "modules.builtin", "modules.builtin.modinfo", "modules.order") {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, f)), 0o755); err != nil {
			return err
		}
		if err := copyFile(filepath.Join(from, f), filepath.Join(to, f)); err != nil {
			return err
		}
	}
	return i.run(ctx, "depmod", "-b", i.path("root"), release)
}
