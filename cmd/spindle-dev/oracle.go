package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"spindle/internal/rig"
)

// oracleTest are the dialogues as a program, for the guest.
const oracleTest = "bin/dialogue.test"

// runOracle plays the dialogues against another target, a fresh one for each, and
// holds what it does to what it is known to do: STGT on this machine, which wants
// root and Debian's package, LIO in the guest.
func runOracle(ctx context.Context, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "stgt":
		with, err := filepath.Abs("scripts/oracle/stgt.sh")
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, "go", "test", "./iscsi/dialogue", "-run", "TestForeign", "-count", "1", "-v",
			"-dialogue.patience", "1s", "-dialogue.with", with, "-dialogue.expect", filepath.Join(filepath.Dir(with), "stgt.expected"))
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return cmd.Run()
	case len(args) == 1 && args[0] == "lio":
		return lioOracle(ctx)
	}
	return errors.New("oracle: name one, stgt or lio")
}

func lioOracle(ctx context.Context) error {
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", oracleTest, "./iscsi/dialogue")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the guest's libraries are its own
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go test -c ./iscsi/dialogue: %w\n%s", err, out)
	}
	img, err := guest(ctx)
	if err != nil {
		return err
	}
	files, err := filepath.Glob("iscsi/dialogue/testdata/*.txt")
	if err != nil {
		return err
	}
	return img.Run(ctx, rig.Job{
		Script: rigDir + "oracle.sh", Limit: 20 * time.Minute, Silence: 3 * time.Minute,
		Files: append(files, rigDir+"lib.sh", oracleTest, "scripts/oracle/lio.sh", "scripts/oracle/lio.expected"),
	}, os.Stdout)
}
