package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

var mdLink = regexp.MustCompile(`\]\(([^)\s#]+)(#[^)]*)?\)`)

// deadLinks are the relative links of a document that lead nowhere.
func deadLinks(name string) (dead []string, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	for _, m := range mdLink.FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
			dead = append(dead, name+": "+m[1])
		}
	}
	return dead, nil
}

func runDocs(ctx context.Context, _ []string) error {
	out, err := exec.CommandContext(ctx, "git", "ls-files", "-co", "--exclude-standard", "*.md").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	bad := 0
	for _, name := range strings.Fields(string(out)) {
		dead, err := deadLinks(name)
		if err != nil {
			return err
		}
		for _, d := range dead {
			fmt.Println("dead link in", d)
		}
		bad += len(dead)
	}
	if bad > 0 {
		return fmt.Errorf("%d dead links", bad)
	}
	return nil
}
