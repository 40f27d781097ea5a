package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
	"unsafe"
)

// A device is a file that was written in full once, opened for writes that are durable when they return.
// One device sync is the p50 of such writes, one in flight, of a given size.
type device struct {
	f    *os.File
	size int64
	off  int64
	buf  []byte
}

const (
	deviceFile  = 256 << 20
	deviceAlign = 4096
	// oDirect is O_DIRECT of linux/amd64 and, shifted, of the others; syscall has it where it exists.
	oDirect = syscall.O_DIRECT
)

// openDevice makes and fills the file, so that no write allocates blocks.
func openDevice(dir string, maxWrite int) (*device, error) {
	name := filepath.Join(dir, "device.bench")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC|oDirect, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s without the page cache: %w", name, err)
	}
	_ = os.Remove(name)
	fill := aligned(1 << 20)
	for off := int64(0); off < deviceFile; off += int64(len(fill)) {
		if _, err := f.WriteAt(fill, off); err != nil {
			return nil, fmt.Errorf("fill %s: %w", name, err)
		}
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	// The same file again, now with O_DSYNC, through /proc: it has no name any more.
	d, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR|oDirect|syscall.O_DSYNC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s for synchronous writes: %w", name, err)
	}
	f.Close()
	buf := aligned((maxWrite + deviceAlign - 1) / deviceAlign * deviceAlign)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	return &device{f: d, size: deviceFile, buf: buf}, nil
}

func aligned(n int) []byte {
	b := make([]byte, n+deviceAlign)
	skip := deviceAlign - int(uintptr(unsafe.Pointer(&b[0]))%deviceAlign)
	return b[skip : skip+n : skip+n]
}

func (d *device) close() { d.f.Close() }

// times writes size bytes count times, one after the other, and answers the sorted durations.
func (d *device) times(ctx context.Context, size, count int) ([]time.Duration, error) {
	size = (size + deviceAlign - 1) / deviceAlign * deviceAlign
	out := make([]time.Duration, 0, count)
	for range count {
		if d.off+int64(size) > d.size {
			d.off = 0
		}
		start := time.Now()
		if _, err := d.f.WriteAt(d.buf[:size], d.off); err != nil {
			return nil, err
		}
		out = append(out, time.Since(start))
		d.off += int64(size)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	slices.Sort(out)
	return out, nil
}

func runDevice(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("bench device", flag.ContinueOnError)
	dir := fs.String("dir", ".", "a directory on the device")
	count := fs.Int("count", 2000, "writes of each size")
	if err := fs.Parse(args); err != nil {
		return err
	}
	d, err := openDevice(*dir, 1<<20)
	if err != nil {
		return err
	}
	defer d.close()
	fmt.Printf("O_DIRECT|O_DSYNC writes, one in flight, to a file that was already written, in %s\n", *dir)
	fmt.Printf("%9s  %9s  %9s  %9s  %9s\n", "bytes", "p50 µs", "p99 µs", "max µs", "MB/s")
	for _, size := range []int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20} {
		t, err := d.times(ctx, size, max(1, min(*count, (512<<20)/size)))
		if err != nil {
			return err
		}
		var sum time.Duration
		for _, x := range t {
			sum += x
		}
		us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
		fmt.Printf("%9d  %9.0f  %9.0f  %9.0f  %9.0f\n", size, us(quantile(t, 0.5)), us(quantile(t, 0.99)), us(t[len(t)-1]),
			float64(size*len(t))/1e6/sum.Seconds())
	}
	return nil
}
