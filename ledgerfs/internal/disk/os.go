package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// OS is the operating system's file system.
type OS struct {
	// Direct says that Durable files go past the page cache (O_DIRECT|O_DSYNC); without it each write is
	// followed by a sync.
	Direct bool
}

// NewOS tests, in dir, which kind of durable write works there.
func NewOS(dir string) (*OS, error) {
	if err := (&OS{}).MkdirAll(dir); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, "probe.tmp")
	defer os.Remove(name)
	fs := &OS{Direct: true}
	if err := fs.probe(name); err != nil {
		fs.Direct = false
		if err := fs.probe(name); err != nil {
			return nil, fmt.Errorf("self-test of %s: %w", dir, err)
		}
	}
	return fs, nil
}

func (o *OS) probe(name string) error {
	f, err := o.Open(name, Create|Durable)
	if err != nil {
		return err
	}
	defer f.Close()
	b := AlignedBlock(BlockSize)
	copy(b, "daybook self-test")
	if err := f.WriteAt(b, 0); err != nil {
		return err
	}
	got := AlignedBlock(BlockSize)
	if err := ReadFull(f, got, 0); err != nil {
		return err
	}
	if string(got) != string(b) {
		return errors.New("a block read back differs from what was written")
	}
	return nil
}

// MkdirAll is FS's.
func (o *OS) MkdirAll(dir string) error {
	dir = filepath.Clean(dir)
	if st, err := os.Stat(dir); err == nil {
		if !st.IsDir() {
			return &os.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := o.MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return o.SyncDir(parent)
}

// Open is FS's.
func (o *OS) Open(name string, flags Flag) (File, error) {
	mode := os.O_RDONLY
	if flags&(Write|Durable) != 0 {
		mode = os.O_RDWR
	}
	if flags&Create != 0 {
		mode |= os.O_CREATE
	}
	direct := flags&Durable != 0 && o.Direct
	if direct {
		mode |= directFlags
	}
	f, err := os.OpenFile(name, mode, 0o644)
	if err != nil {
		return nil, err
	}
	if direct {
		if err := setDirect(f); err != nil {
			f.Close()
			return nil, err
		}
	}
	return &osFile{f: f, syncEach: flags&Durable != 0 && !direct}, nil
}

type osFile struct {
	f        *os.File
	syncEach bool
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }
func (f *osFile) Close() error                            { return f.f.Close() }

func (f *osFile) WriteAt(p []byte, off int64) error {
	if _, err := f.f.WriteAt(p, off); err != nil {
		return err
	}
	if f.syncEach {
		return f.Sync()
	}
	return nil
}

func (f *osFile) Sync() error { return dataSync(f.f) }

func (f *osFile) Size() (int64, error) {
	st, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *osFile) Allocate(size int64) error {
	have, err := f.Size()
	if err != nil || have >= size {
		return err
	}
	switch err := allocate(f.f, size); {
	case err == nil:
		return nil
	case !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS):
		return &os.PathError{Op: "allocate", Path: f.f.Name(), Err: err}
	}
	zero := AlignedBlock(256 << 10)
	for off := have &^ (BlockSize - 1); off < size; off += int64(len(zero)) {
		if _, err := f.f.WriteAt(zero[:min(int64(len(zero)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// Rename is FS's.
func (o *OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove is FS's.
func (o *OS) Remove(name string) error { return os.Remove(name) }

// List is FS's.
func (o *OS) List(dir string) ([]string, error) {
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(es))
	for i, e := range es {
		names[i] = e.Name()
	}
	slices.Sort(names)
	return names, nil
}

// Exists is FS's.
func (o *OS) Exists(name string) (bool, error) {
	_, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// SyncDir is FS's.
func (o *OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // some file systems refuse, having nothing to do
		return err
	}
	return nil
}

// Usage is FS's.
func (o *OS) Usage(dir string) (Usage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Usage{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	bs := int64(st.Bsize)
	return Usage{Total: int64(st.Blocks) * bs, Free: int64(st.Bavail) * bs}, nil
}

// Lock is FS's.
func (o *OS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &os.PathError{Op: "lock", Path: name, Err: err}
		}
		var pid [32]byte
		n, _ := f.ReadAt(pid[:], 0)
		holder := strings.TrimSpace(string(pid[:n]))
		if holder == "" {
			holder = "unknown"
		}
		return nil, fmt.Errorf("%s: %w (pid %s)", name, ErrLocked, holder)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Pebble is FS's.
func (o *OS) Pebble() vfs.FS { return vfs.Default }
