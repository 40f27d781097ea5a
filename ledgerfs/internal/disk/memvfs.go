package disk

import (
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// memVFS is Mem's face for pebble.
type memVFS struct{ m *Mem }

var _ vfs.FS = memVFS{}

func (v memVFS) open(name string, create, write bool) (vfs.File, error) {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	n, err := v.m.openLocked(name, create)
	if err != nil {
		return nil, err
	}
	return &memVFile{memFile{m: v.m, n: n, name: name, write: write}}, nil
}

func (v memVFS) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if ok, _ := v.m.Exists(name); ok {
		if err := v.m.Remove(name); err != nil {
			return nil, err
		}
	}
	return v.open(name, true, true)
}

func (v memVFS) Link(oldname, newname string) error {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	n, err := v.m.findLocked(oldname)
	if err != nil {
		return err
	}
	d, base, err := v.m.parentLocked(newname)
	if err != nil {
		return err
	}
	if d.cur[base] != nil {
		return &fs.PathError{Op: "link", Path: newname, Err: fs.ErrExist}
	}
	if err := v.m.changeLocked("link", newname); err != nil {
		return err
	}
	n.links++
	d.cur[base] = n
	return nil
}

func (v memVFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return v.open(name, false, false)
}

func (v memVFS) OpenReadWrite(name string, _ vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return v.open(name, true, true)
}

func (v memVFS) OpenDir(name string) (vfs.File, error)    { return v.open(name, false, false) }
func (v memVFS) Remove(name string) error                 { return v.m.Remove(name) }
func (v memVFS) Rename(oldname, newname string) error     { return v.m.Rename(oldname, newname) }
func (v memVFS) MkdirAll(dir string, _ os.FileMode) error { return v.m.mkdirAll(dir, false) }
func (v memVFS) Lock(name string) (io.Closer, error)      { return v.m.Lock(name) }
func (v memVFS) List(dir string) ([]string, error)        { return v.m.List(dir) }
func (v memVFS) PathBase(p string) string                 { return path.Base(p) }
func (v memVFS) PathJoin(elem ...string) string           { return path.Join(elem...) }
func (v memVFS) PathDir(p string) string                  { return path.Dir(p) }
func (v memVFS) Unwrap() vfs.FS                           { return nil }

func (v memVFS) RemoveAll(name string) error {
	names, err := v.m.List(name)
	if err == nil {
		for _, c := range names {
			if err := v.RemoveAll(path.Join(name, c)); err != nil {
				return err
			}
		}
	}
	if err := v.m.Remove(name); err != nil && !strings.Contains(err.Error(), fs.ErrNotExist.Error()) {
		return err
	}
	return nil
}

func (v memVFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := v.m.Rename(oldname, newname); err != nil {
		return nil, err
	}
	return v.OpenReadWrite(newname, c)
}

func (v memVFS) Stat(name string) (vfs.FileInfo, error) {
	f, err := v.open(name, false, false)
	if err != nil {
		return nil, err
	}
	return f.Stat()
}

func (v memVFS) GetDiskUsage(p string) (vfs.DiskUsage, error) {
	u, err := v.m.Usage(p)
	return vfs.DiskUsage{
		AvailBytes: uint64(u.Free), TotalBytes: uint64(u.Total), UsedBytes: uint64(u.Total - u.Free)}, err
}

// memVFile is an open file as pebble sees it.
type memVFile struct{ memFile }

func (f *memVFile) Read(p []byte) (int, error) {
	n, err := f.memFile.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *memVFile) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *memVFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if !f.write {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: syscall.EBADF}
	}
	if err := f.writeLocked(p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *memVFile) Preallocate(offset, length int64) error { return nil }
func (f *memVFile) SyncData() error                        { return f.Sync() }
func (f *memVFile) SyncTo(int64) (bool, error)             { return true, f.Sync() }
func (f *memVFile) Prefetch(int64, int64) error            { return nil }
func (f *memVFile) Fd() uintptr                            { return vfs.InvalidFd }

func (f *memVFile) Stat() (vfs.FileInfo, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.mu.crashed {
		return nil, ErrCrashed
	}
	return memInfo{path.Base(f.name), int64(len(f.n.data)), f.n.dir, f.n.mod}, nil
}

type memInfo struct {
	name string
	size int64
	dir  bool
	mod  time.Time
}

func (i memInfo) Name() string           { return i.name }
func (i memInfo) Size() int64            { return i.size }
func (i memInfo) IsDir() bool            { return i.dir }
func (i memInfo) ModTime() time.Time     { return i.mod }
func (i memInfo) Sys() any               { return nil }
func (i memInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
func (i memInfo) Mode() os.FileMode {
	if i.dir {
		return os.ModeDir | 0o755
	}
	return 0o644
}
