package rig

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The partitions of a disk that boots, in blocks of 512 bytes. The loader is
// told at its installation where it will lie.
const (
	block      = 512
	bootAt     = 2048
	bootBlocks = 64 << 11
	partAlign  = 2048
	mbrCode    = 440 // bytes; the disk's signature and the table follow
	mbrTable   = 446
	typeFAT    = 0x0e
	typeLinux  = 0x83
	activeFlag = 0x80
	diskArgs   = "rigroot=/dev/sda2 rigjob=/dev/sda3"
)

// bootPartition makes the file system that the loader finds the kernel in.
func (i *Image) bootPartition(ctx context.Context, release string) error {
	config := "DEFAULT rig\nPROMPT 0\nTIMEOUT 0\nSERIAL 0 115200\nLABEL rig\n  LINUX vmlinuz\n  INITRD initrd\n  APPEND " +
		diskArgs + " " + kernelArgs() + "\n"
	if err := os.WriteFile(i.path("syslinux.cfg"), []byte(config), 0o644); err != nil {
		return err
	}
	defer os.Remove(i.path("syslinux.cfg"))
	// The loader's installer calls mtools by their names.
	const script = `export PATH="$1/root/usr/bin:$PATH" MTOOLS_SKIP_CHECK=1
rm -f "$1/boot.fat"
mformat -i "$1/boot.fat" -C -F -T "$3" -H "$4" -h 64 -s 32 :: &&
    mcopy -i "$1/boot.fat" "$1/kernel/boot/vmlinuz-$2" ::vmlinuz &&
    mcopy -i "$1/boot.fat" "$1/initrd" "$1/syslinux.cfg" :: &&
    syslinux --install "$1/boot.fat" && cp "$1/root/usr/lib/syslinux/mbr/mbr.bin" "$1/mbr"`
	return i.run(ctx, "sh", "-c", script, "sh", i.Dir, release, fmt.Sprint(bootBlocks), fmt.Sprint(bootAt))
}

// BootDisk writes a disk that firmware starts by itself, from the first SCSI
// disk, to do the job; its console is the first serial port.
func (i *Image) BootDisk(job Job, name string) error {
	dir, err := os.MkdirTemp(filepath.Dir(name), "job")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tar := filepath.Join(dir, "tar")
	if err := job.pack(tar); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	mbr := make([]byte, block)
	code, err := os.ReadFile(i.path("mbr"))
	if err != nil {
		return err
	}
	copy(mbr[:mbrCode], code)
	mbr[block-2], mbr[block-1] = 0x55, 0xaa
	at := int64(bootAt)
	for n, p := range []struct {
		file      string
		flag, typ byte
	}{{i.path("boot.fat"), activeFlag, typeFAT}, {i.path("root.ext4"), 0, typeLinux}, {tar, 0, typeLinux}} {
		size, err := copySparse(f, at*block, p.file)
		if err != nil {
			return err
		}
		blocks := (size + block - 1) / block
		e := mbr[mbrTable+16*n:]
		e[0], e[4] = p.flag, p.typ
		binary.LittleEndian.PutUint32(e[8:], uint32(at))
		binary.LittleEndian.PutUint32(e[12:], uint32(blocks))
		at = (at + blocks + partAlign - 1) / partAlign * partAlign
	}
	_, err = f.WriteAt(mbr, 0)
	return errors.Join(err, f.Truncate(at*block), f.Close())
}

// copySparse copies a file to a place in another, leaving zeroes out.
func copySparse(to io.WriterAt, at int64, name string) (size int64, err error) {
	from, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(from, buf)
		if string(buf[:n]) != string(zero[:n]) {
			if _, err := to.WriteAt(buf[:n], at+size); err != nil {
				return size, err
			}
		}
		size += int64(n)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = nil
			}
			return size, err
		}
	}
}
