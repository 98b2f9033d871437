package rig

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// version changes whenever this package builds a different image from the same lists.
const version = "3"

// keep is how many images the cache holds: work on several branches at once
// shall not build each other's away.
const keep = 4

// Image is a built guest.
type Image struct {
	Dir   string // of the image
	cache string // of what all images share
	log   io.Writer
}

// CacheDir is where images live by default.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "spindle-rig"), nil
}

// Build makes the image in a folder of dir that its content names, or finds it
// there. initScript becomes the guest's first process. Progress goes to log.
func Build(ctx context.Context, dir, initScript string, log io.Writer) (*Image, error) {
	script, err := os.ReadFile(initScript)
	if err != nil {
		return nil, err
	}
	stamp := fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%s %q %q %q %s", version, packages, bootModules, modules, script)))
	img := &Image{Dir: filepath.Join(dir, "image-"+stamp[:12]), cache: dir, log: log}
	if err := os.MkdirAll(img.Dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	now := time.Now()
	if have, err := os.ReadFile(img.path("stamp")); err == nil && string(have) == stamp {
		return img, os.Chtimes(img.path("stamp"), now, now) // in use: the last to go
	}
	if err := img.build(ctx, script); err != nil {
		return nil, fmt.Errorf("rig: %w", err)
	}
	if err := os.WriteFile(img.path("stamp"), []byte(stamp), 0o644); err != nil {
		return nil, err
	}
	return img, prune(dir, keep)
}

// prune removes all images but those used last. A guest that runs keeps what it
// has opened.
func prune(dir string, keep int) error {
	stamps, err := filepath.Glob(filepath.Join(dir, "image-*", "stamp"))
	if err != nil {
		return err
	}
	used := map[string]time.Time{}
	for _, s := range stamps {
		info, err := os.Stat(s)
		if err != nil {
			return err
		}
		used[s] = info.ModTime()
	}
	slices.SortFunc(stamps, func(a, b string) int { return used[b].Compare(used[a]) })
	for _, s := range stamps[min(keep, len(stamps)):] {
		if err := os.RemoveAll(filepath.Dir(s)); err != nil {
			return err
		}
	}
	return nil
}

func (i *Image) path(elem ...string) string {
	return filepath.Join(append([]string{i.Dir}, elem...)...)
}

// apt is a path of apt's private state, which all images share.
func (i *Image) apt(elem ...string) string {
	return filepath.Join(append([]string{i.cache, "apt"}, elem...)...)
}

func (i *Image) say(format string, args ...any) { fmt.Fprintf(i.log, "rig: "+format+"\n", args...) }

func (i *Image) build(ctx context.Context, script []byte) error {
	debs, err := i.download(ctx)
	if err != nil {
		return err
	}
	i.say("unpacking %d packages", len(debs))
	release, err := i.unpack(ctx, debs)
	if err != nil {
		return err
	}
	if err := i.modules(ctx, release); err != nil {
		return err
	}
	if err := i.unpackKernel(ctx, release); err != nil {
		return err
	}
	if err := i.configure(ctx, script); err != nil {
		return err
	}
	i.say("making the images")
	if err := i.initrd(ctx, release); err != nil {
		return err
	}
	if err := i.bootPartition(ctx, release); err != nil {
		return err
	}
	// No journal: a guest's writes live as long as the guest.
	err = i.run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-m", "0",
		"-d", i.path("root"), i.path("root.ext4"), "1300M")
	if err != nil {
		return err
	}
	i.say("kernel %s in %s", release, i.Dir)
	return errors.Join(os.RemoveAll(i.path("root")), os.RemoveAll(i.path("kernel")), os.RemoveAll(i.path("boot")))
}

// download resolves the packages against an empty system and fetches them. It
// reads the host's Debian sources and changes nothing of the host's.
func (i *Image) download(ctx context.Context) ([]string, error) {
	for _, d := range []string{"lists/partial", "archives/partial", "sources"} {
		if err := os.MkdirAll(i.apt(d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(i.apt("status"), nil, 0o644); err != nil {
		return nil, err
	}
	if err := i.sources(); err != nil {
		return nil, err
	}
	conf := strings.ReplaceAll(`Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "@/sources";
Dir::State::Lists "@/lists";
Dir::State::Status "@/status";
Dir::Cache::Archives "@/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Debug::NoLocking "true";
APT::Install-Recommends "false";
APT::Sandbox::User "";
`, "@", i.apt())
	if err := os.WriteFile(i.apt("conf"), []byte(conf), 0o644); err != nil {
		return nil, err
	}
	i.say("downloading packages into %s", i.apt())
	if err := i.run(ctx, "apt-get", "update", "-qq"); err != nil {
		return nil, err
	}
	install := append([]string{"install", "-y", "-qq"}, packages...)
	// Each line: 'URI' NAME SIZE HASH. Asked of an empty archive, it names them all.
	uris, err := i.output(ctx, "apt-get", append(install, "--print-uris", "-o", "Dir::Cache::Archives="+i.apt("sources"))...)
	if err != nil {
		return nil, err
	}
	var debs []string
	for line := range strings.Lines(uris) {
		if f := strings.Fields(line); len(f) >= 2 && strings.HasPrefix(line, "'") {
			debs = append(debs, i.apt("archives", f[1]))
		}
	}
	return debs, i.run(ctx, "apt-get", append(install, "--download-only")...)
}

// sources copies the host's Debian sources, leaving out others it may have.
func (i *Image) sources() error {
	if err := clearDir(i.apt("sources")); err != nil {
		return err
	}
	if err := os.MkdirAll(i.apt("sources/partial"), 0o755); err != nil {
		return err
	}
	found := false
	for from, to := range map[string]string{
		"/etc/apt/sources.list":                  "main.list",
		"/etc/apt/sources.list.d/debian.list":    "debian.list",
		"/etc/apt/sources.list.d/debian.sources": "debian.sources",
	} {
		text, err := os.ReadFile(from)
		if err != nil || len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		found = true
		if err := os.WriteFile(i.apt("sources", to), text, 0o644); err != nil {
			return err
		}
	}
	if !found {
		return errors.New("no Debian sources under /etc/apt")
	}
	return nil
}

// unpack unpacks the kernel's package into kernel and the rest into root. It
// returns the kernel's release.
func (i *Image) unpack(ctx context.Context, debs []string) (string, error) {
	for _, d := range []string{"root", "kernel"} {
		if err := clearDir(i.path(d)); err != nil {
			return "", err
		}
	}
	// Some packages still ship /bin or /lib: give them the merged layout first.
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := errors.Join(os.MkdirAll(i.path("root/usr", d), 0o755), os.Symlink("usr/"+d, i.path("root", d))); err != nil {
			return "", err
		}
	}
	for _, deb := range debs {
		dir := "root"
		if name := filepath.Base(deb); strings.HasPrefix(name, "linux-image-") && !strings.HasPrefix(name, kernelPackage) {
			dir = "kernel"
		}
		unpack := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
		tar := exec.CommandContext(ctx, "tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", i.path(dir))
		pipe, err := unpack.StdoutPipe()
		if err != nil {
			return "", err
		}
		tar.Stdin, tar.Stderr = pipe, i.log
		if err := unpack.Start(); err != nil {
			return "", err
		}
		if err := errors.Join(tar.Run(), unpack.Wait()); err != nil {
			return "", fmt.Errorf("%s: %w", filepath.Base(deb), err)
		}
	}
	releases, err := os.ReadDir(i.path("kernel/lib/modules"))
	if err != nil || len(releases) != 1 {
		return "", fmt.Errorf("want one kernel, have %v %v", releases, err)
	}
	return releases[0].Name(), nil
}

// unpackKernel finds the compressed kernel in its boot image and writes it as
// the ELF file it is.
func (i *Image) unpackKernel(ctx context.Context, release string) error {
	boot, err := os.ReadFile(i.path("kernel/boot/vmlinuz-" + release))
	if err != nil {
		return err
	}
	at := bytes.Index(boot, []byte("\xfd7zXZ\x00"))
	if at < 0 {
		return errors.New("the kernel is not compressed with xz")
	}
	xz := exec.CommandContext(ctx, "xz", "-dc", "--single-stream")
	xz.Stdin = bytes.NewReader(boot[at:])
	elf, err := xz.Output()
	if !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return fmt.Errorf("the kernel does not unpack: %w", err)
	}
	return os.WriteFile(i.path("vmlinux"), elf, 0o644)
}

// configure does the little that the packages' scripts would have done.
func (i *Image) configure(ctx context.Context, script []byte) error {
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "mnt", "job", "root", "etc/iscsi"} {
		if err := os.MkdirAll(i.path("root", d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"var/run", "usr/share/doc", "usr/share/man", "usr/share/locale"} {
		if err := os.RemoveAll(i.path("root", d)); err != nil {
			return err
		}
	}
	for to, from := range map[string]string{
		"etc/passwd": "usr/share/base-passwd/passwd.master", "etc/group": "usr/share/base-passwd/group.master",
	} {
		text, err := os.ReadFile(i.path("root", from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(i.path("root", to), text, 0o644); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/hosts":                     "127.0.0.1 localhost rig\n::1 localhost\n",
		"etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.2026-11.io.spindle:rig\n",
	} {
		if err := os.WriteFile(i.path("root", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"usr/bin/awk": "mawk", "usr/bin/sh": "bash", "var/run": "/run", "etc/mtab": "/proc/self/mounts"} {
		if err := os.RemoveAll(i.path("root", name)); err != nil {
			return err
		}
		if err := os.Symlink(to, i.path("root", name)); err != nil {
			return err
		}
	}
	if err := os.WriteFile(i.path("root/sbin/rig-init"), script, 0o755); err != nil {
		return err
	}
	return i.run(ctx, "ldconfig", "-r", i.path("root"))
}

// initrd packs busybox and the boot modules.
func (i *Image) initrd(ctx context.Context, release string) error {
	if err := clearDir(i.path("boot")); err != nil {
		return err
	}
	for _, d := range []string{"bin", "dev", "proc", "sys", "root", "mods"} {
		if err := os.Mkdir(i.path("boot", d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(i.path("root/usr/bin/busybox"), i.path("boot/bin/busybox")); err != nil {
		return err
	}
	deps, err := readDeps(i.path("kernel/lib/modules", release, "modules.dep"))
	if err != nil {
		return err
	}
	order, err := deps.resolve(bootModules)
	if err != nil {
		return err
	}
	for n, m := range order {
		to := fmt.Sprintf("%02d-%s", n, filepath.Base(m))
		if err := copyFile(i.path("kernel/lib/modules", release, m), i.path("boot/mods", to)); err != nil {
			return err
		}
	}
	const script = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for m in /mods/*; do $b insmod $m; done
root=${rigroot:-/dev/vda} # the kernel hands over what it does not know of its command line
n=0; until [ -b $root ] || [ $n = 200 ]; do $b usleep 50000; n=$((n+1)); done
$b mount -o noatime $root /root
for d in proc sys dev; do $b mount -o move /$d /root/$d; done
exec $b switch_root /root /sbin/rig-init
`
	if err := os.WriteFile(i.path("boot/init"), []byte(script), 0o755); err != nil {
		return err
	}
	return i.run(ctx, "sh", "-c", `cd "$1/boot" && find . | bin/busybox cpio -o -H newc >"$1/initrd" 2>/dev/null`, "sh", i.Dir)
}
