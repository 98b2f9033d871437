// Command crash runs in the rig's guest:
//
//	crash work DIR SEED STEPS DEVICE         takes the steps, marks them on a log-writes device
//	crash check BEFORE LOG SEED STEPS COUNT  looks at COUNT moments of a log
//
// A check that finds something lost, or a file system that does not recover,
// ends with status 3.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"spindle/internal/rig/crash"
)

// errBroken is a file system that does not recover.
var errBroken = errors.New("the file system is broken")

func main() {
	err := run(os.Args[1:])
	switch {
	case errors.Is(err, errBroken) || errors.Is(err, crash.ErrLost):
		fmt.Println("crash:", err)
		os.Exit(3)
	case err != nil:
		fmt.Println("crash:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 5 {
		return errors.New("arguments missing")
	}
	if args[0] == "work" {
		n, err := numbers(args[2:4])
		if err != nil {
			return err
		}
		return work(args[1], uint64(n[0]), n[1], args[4])
	}
	n, err := numbers(args[3:])
	if err != nil || len(n) != 3 {
		return fmt.Errorf("three numbers: %w", err)
	}
	return check(args[1], args[2], uint64(n[0]), n[1], n[2])
}

func numbers(args []string) (n []int, err error) {
	for _, a := range args {
		v, err := strconv.Atoi(a)
		if err != nil {
			return nil, err
		}
		n = append(n, v)
	}
	return n, nil
}

func folder(seed uint64) string { return fmt.Sprintf("work%d", seed) }

func work(top string, seed uint64, steps int, device string) error {
	dir := filepath.Join(top, folder(seed))
	if err := crash.Prepare(dir); err != nil {
		return err
	}
	return crash.Work(dir, seed, steps, func(n int) error {
		return command("dmsetup", "message", device, "0", "mark", strconv.Itoa(n))
	})
}

func check(before, log string, seed uint64, steps, count int) error {
	disk, err := os.ReadFile(before)
	if err != nil {
		return err
	}
	f, err := os.Open(log)
	if err != nil {
		return err
	}
	defer f.Close()
	l, err := crash.ReadLog(f)
	if err != nil {
		return err
	}
	tell(l)
	tmp, err := os.MkdirTemp("", "crash")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	looked, last := 0, 0
	err = l.Moments(disk, count, func(m crash.Moment) error {
		looked, last = looked+1, m.Done
		return look(tmp, m, seed, steps)
	})
	fmt.Printf("%d moments, the last after step %d\n", looked, last)
	if err == nil && last != steps {
		return fmt.Errorf("the log ends with step %d of %d", last, steps)
	}
	return err
}

// tell prints what the log is made of.
func tell(l *crash.Log) {
	var writes, flushes, fuas, discards, marks int
	for _, e := range l.Entries {
		switch {
		case e.Flags&crash.Mark != 0:
			marks++
		case e.Flags&crash.Discard != 0:
			discards++
		case e.Flags&crash.FUA != 0:
			fuas++
		case e.Flags&crash.Flush != 0:
			flushes++
		default:
			writes++
		}
	}
	fmt.Printf("%d writes, %d FUA, %d flushes, %d discards, %d marks\n", writes, fuas, flushes, discards, marks)
}

// look mounts the disk, which has the kernel replay its journal, compares what
// is there and has what was recovered checked.
func look(tmp string, m crash.Moment, seed uint64, steps int) error {
	img, mnt := filepath.Join(tmp, "disk"), filepath.Join(tmp, "mnt")
	if err := writeSparse(img, m.Disk); err != nil {
		return err
	}
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		return err
	}
	if err := command("mount", "-t", "ext4", "-o", "loop", img, mnt); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	verified := crash.Verify(filepath.Join(mnt, folder(seed)), seed, m.Done, steps)
	if err := command("umount", mnt); err != nil {
		return errors.Join(verified, err)
	}
	if err := command("e2fsck", "-fn", img); err != nil {
		return errors.Join(verified, fmt.Errorf("%w: %w", errBroken, err))
	}
	return verified
}

// writeSparse writes the disk anew, leaving zeroes out.
func writeSparse(name string, disk []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(len(disk))); err != nil {
		return err
	}
	const page = 4096
	var zero [page]byte
	for at := 0; at < len(disk); at += page {
		b := disk[at:min(at+page, len(disk))]
		if string(b) == string(zero[:len(b)]) {
			continue
		}
		if _, err := f.WriteAt(b, int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// command runs a tool; its error holds what the tool said.
func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
