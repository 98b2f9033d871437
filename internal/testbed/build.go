package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build compiles spindle into dir and returns the program's path.
//
// The go command repeats a test's last result while nothing has changed that the
// test has looked at ("go help test"), and it does not see what a compiler does that
// a test runs. So this looks at the folder of each package of the program.
func Build(dir string, env ...string) (bin string, err error) {
	const program = "spindle/cmd/spindle"
	list := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.Dir}}{{end}}", program)
	list.Env = append(os.Environ(), env...)
	folders, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	for folder := range strings.FieldsSeq(string(folders)) {
		if _, err := os.ReadDir(folder); err != nil {
			return "", err
		}
	}
	bin = filepath.Join(dir, "spindle")
	build := exec.Command("go", "build", "-o", bin, program)
	build.Env = append(os.Environ(), env...)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
}
