package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// SectorSize is what Mem tears writes at.
const SectorSize = 512

// ErrCrashed is what every operation on a crashed Mem answers.
var ErrCrashed = errors.New("file system has crashed")

// Mem is a file system in memory that remembers what is not yet durable: written sectors, sizes, and entries
// of directories. A test freezes it at any operation and takes images of what a power cut could have left.
//
// The operations that change something are numbered from 1, those of both faces in one sequence; a durable
// write counts as two, the write and its sync.
type Mem struct {
	mu struct {
		sync.Mutex
		root     *node
		ops      int
		reads    int
		crashAt  int
		crashed  bool
		failAt   int
		failErr  error
		failRead int
		readErr  error
		capacity int64
		used     int64
		locks    map[string]bool
		trace    func(op int, what, name string)
	}
}

var _ FS = (*Mem)(nil)

// node is a file or a directory; two names may share one node.
type node struct {
	dir bool

	cur, dur map[string]*node // of a directory: its entries, and those that are durable

	data, durData []byte // of a file
	dirty         map[int64]struct{}
	links         int
	mod           time.Time
}

func newDir() *node { return &node{dir: true, cur: map[string]*node{}, dur: map[string]*node{}} }

// NewMem returns an empty file system without a limit on its size.
func NewMem() *Mem {
	m := &Mem{}
	m.mu.root = newDir()
	m.mu.locks = map[string]bool{}
	m.mu.capacity = 1 << 40
	return m
}

// Ops is the number of changing operations so far.
func (m *Mem) Ops() int { m.mu.Lock(); defer m.mu.Unlock(); return m.mu.ops }

// Reads is the number of reads so far.
func (m *Mem) Reads() int { m.mu.Lock(); defer m.mu.Unlock(); return m.mu.reads }

// CrashAt makes the n-th changing operation, and everything after it, fail without effect.
func (m *Mem) CrashAt(n int) { m.mu.Lock(); m.mu.crashAt = n; m.mu.Unlock() }

// Crash makes everything from now on fail without effect.
func (m *Mem) Crash() { m.mu.Lock(); m.mu.crashed = true; m.mu.Unlock() }

// Crashed reports whether the file system has crashed.
func (m *Mem) Crashed() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.mu.crashed }

// FailAt makes the n-th changing operation fail with err, once, without effect.
func (m *Mem) FailAt(n int, err error) {
	m.mu.Lock()
	m.mu.failAt, m.mu.failErr = n, err
	m.mu.Unlock()
}

// FailReadAt makes the n-th read fail with err, once.
func (m *Mem) FailReadAt(n int, err error) {
	m.mu.Lock()
	m.mu.failRead, m.mu.readErr = n, err
	m.mu.Unlock()
}

// SetCapacity sets the size of the file system in bytes.
func (m *Mem) SetCapacity(n int64) { m.mu.Lock(); m.mu.capacity = n; m.mu.Unlock() }

// Trace calls f, under Mem's lock, with each changing operation before it happens.
func (m *Mem) Trace(f func(op int, what, name string)) { m.mu.Lock(); m.mu.trace = f; m.mu.Unlock() }

// A Survival says how much of what was not durable a crash leaves.
type Survival int

// What a crash can leave of the data and directory entries that were not durable.
const (
	SurviveNone Survival = iota
	SurviveSome          // a random half, by seed, sector by sector and entry by entry
	SurviveAll
)

// CrashImage returns what a crash at this moment could leave: a new file system, all of it durable. The
// receiver is unchanged.
func (m *Mem) CrashImage(s Survival, seed uint64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	img := NewMem()
	img.mu.capacity = m.mu.capacity
	r := rand.New(rand.NewPCG(seed, 1))
	keep := func() bool { return s == SurviveAll || s == SurviveSome && r.IntN(2) == 0 }
	done := map[*node]*node{}
	var copyNode func(*node) *node
	copyNode = func(n *node) *node {
		if c := done[n]; c != nil {
			return c
		}
		var c *node
		if n.dir {
			c = newDir()
			done[n] = c
			names := map[string]bool{}
			for name := range n.cur {
				names[name] = true
			}
			for name := range n.dur {
				names[name] = true
			}
			for _, name := range slices.Sorted(maps.Keys(names)) {
				child := n.dur[name]
				if n.cur[name] != child && keep() {
					child = n.cur[name]
				}
				if child != nil {
					c.cur[name] = copyNode(child)
				}
			}
			c.dur = maps.Clone(c.cur)
			return c
		}
		size := len(n.durData)
		if len(n.data) != size && keep() {
			size = len(n.data)
		}
		c = &node{data: make([]byte, size), mod: n.mod}
		copy(c.data, n.durData)
		for _, sec := range slices.Sorted(maps.Keys(n.dirty)) {
			if lo := sec * SectorSize; keep() && lo < int64(size) && lo < int64(len(n.data)) {
				copy(c.data[lo:min(lo+SectorSize, int64(size))], n.data[lo:])
			}
		}
		c.durData = slices.Clone(c.data)
		img.mu.used += int64(size)
		done[n] = c
		return c
	}
	img.mu.root = copyNode(m.mu.root)
	return img
}

// Corrupt changes bytes of a file behind its user's back, durably.
func (m *Mem) Corrupt(name string, change func(data []byte)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findLocked(name)
	if err != nil {
		return err
	}
	change(n.data)
	n.durData = slices.Clone(n.data)
	n.dirty = nil
	return nil
}

// changeLocked counts a changing operation and answers the error that it meets.
func (m *Mem) changeLocked(what, name string) error {
	if m.mu.crashed {
		return ErrCrashed
	}
	m.mu.ops++
	if m.mu.trace != nil {
		m.mu.trace(m.mu.ops, what, name)
	}
	if m.mu.ops == m.mu.crashAt {
		m.mu.crashed = true
		return ErrCrashed
	}
	if m.mu.ops == m.mu.failAt {
		return &fs.PathError{Op: what, Path: name, Err: m.mu.failErr}
	}
	return nil
}

func split(name string) []string {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil
	}
	return strings.Split(name[1:], "/")
}

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

func (m *Mem) findLocked(name string) (*node, error) {
	n := m.mu.root
	for _, part := range split(name) {
		if !n.dir || n.cur[part] == nil {
			return nil, notExist("open", name)
		}
		n = n.cur[part]
	}
	return n, nil
}

// parentLocked finds the directory of a name.
func (m *Mem) parentLocked(name string) (*node, string, error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	d, err := m.findLocked(strings.Join(parts[:len(parts)-1], "/"))
	if err != nil || !d.dir {
		return nil, "", notExist("open", name)
	}
	return d, parts[len(parts)-1], nil
}

// MkdirAll is FS's.
func (m *Mem) MkdirAll(dir string) error { return m.mkdirAll(dir, true) }

func (m *Mem) mkdirAll(dir string, sync bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.mu.root
	for _, part := range split(dir) {
		c := n.cur[part]
		if c == nil {
			if err := m.changeLocked("mkdir", dir); err != nil {
				return err
			}
			c = newDir()
			n.cur[part] = c
			if sync {
				if err := m.changeLocked("syncdir", dir); err != nil {
					return err
				}
				n.dur[part] = c
			}
		} else if !c.dir {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		n = c
	}
	return nil
}

// Open is FS's.
func (m *Mem) Open(name string, flags Flag) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.openLocked(name, flags&Create != 0)
	if err != nil {
		return nil, err
	}
	return &memFile{m: m, n: n, name: name, durable: flags&Durable != 0, write: flags&(Write|Durable) != 0}, nil
}

func (m *Mem) openLocked(name string, create bool) (*node, error) {
	if m.mu.crashed {
		return nil, ErrCrashed
	}
	n, err := m.findLocked(name)
	if err == nil || !create {
		return n, err
	}
	d, base, err := m.parentLocked(name)
	if err != nil {
		return nil, err
	}
	if err := m.changeLocked("create", name); err != nil {
		return nil, err
	}
	n = &node{links: 1, mod: time.Unix(0, 0)}
	d.cur[base] = n
	return n, nil
}

// Rename is FS's.
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	fd, fb, err := m.parentLocked(from)
	if err != nil {
		return err
	}
	td, tb, err := m.parentLocked(to)
	if err != nil {
		return err
	}
	n := fd.cur[fb]
	if n == nil {
		return notExist("rename", from)
	}
	if err := m.changeLocked("rename", from); err != nil {
		return err
	}
	if old := td.cur[tb]; old != nil && old != n {
		m.unlinkedLocked(old)
	}
	delete(fd.cur, fb)
	td.cur[tb] = n
	return nil
}

func (m *Mem) unlinkedLocked(n *node) {
	if n.links--; n.links <= 0 {
		m.mu.used -= int64(len(n.data))
	}
}

// Remove is FS's.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parentLocked(name)
	if err != nil {
		return err
	}
	n := d.cur[base]
	if n == nil {
		return notExist("remove", name)
	}
	if n.dir && len(n.cur) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	if err := m.changeLocked("remove", name); err != nil {
		return err
	}
	m.unlinkedLocked(n)
	delete(d.cur, base)
	return nil
}

// List is FS's.
func (m *Mem) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.crashed {
		return nil, ErrCrashed
	}
	n, err := m.findLocked(dir)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: syscall.ENOTDIR}
	}
	return slices.Sorted(maps.Keys(n.cur)), nil
}

// Exists is FS's.
func (m *Mem) Exists(name string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.crashed {
		return false, ErrCrashed
	}
	_, err := m.findLocked(name)
	return err == nil, nil
}

// SyncDir is FS's.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findLocked(dir)
	if err != nil {
		return err
	}
	return m.syncLocked(n, "syncdir", dir)
}

func (m *Mem) syncLocked(n *node, what, name string) error {
	if err := m.changeLocked(what, name); err != nil {
		return err
	}
	if n.dir {
		n.dur = maps.Clone(n.cur)
		return nil
	}
	if d := len(n.data) - len(n.durData); d > 0 {
		n.durData = append(n.durData, make([]byte, d)...)
	} else {
		n.durData = n.durData[:len(n.data)]
	}
	for sec := range n.dirty {
		if lo := sec * SectorSize; lo < int64(len(n.data)) {
			copy(n.durData[lo:min(lo+SectorSize, int64(len(n.data)))], n.data[lo:])
		}
	}
	n.dirty = nil
	return nil
}

// Usage is FS's.
func (m *Mem) Usage(string) (Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.crashed {
		return Usage{}, ErrCrashed
	}
	return Usage{Total: m.mu.capacity, Free: max(m.mu.capacity-m.mu.used, 0)}, nil
}

// Lock is FS's.
func (m *Mem) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.openLocked(name, true); err != nil {
		return nil, err
	}
	if m.mu.locks[name] {
		return nil, fmt.Errorf("%s: %w (pid 0)", name, ErrLocked)
	}
	m.mu.locks[name] = true
	return memLock{m, name}, nil
}

type memLock struct {
	m    *Mem
	name string
}

func (l memLock) Close() error {
	l.m.mu.Lock()
	delete(l.m.mu.locks, l.name)
	l.m.mu.Unlock()
	return nil
}

// Pebble is FS's.
func (m *Mem) Pebble() vfs.FS { return memVFS{m} }

type memFile struct {
	m       *Mem
	n       *node
	name    string
	durable bool
	write   bool
	pos     int64 // of Read and Write, the face for pebble
}

func (f *memFile) Close() error { return nil }

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.mu.crashed {
		return 0, ErrCrashed
	}
	f.m.mu.reads++
	if f.m.mu.reads == f.m.mu.failRead {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: f.m.mu.readErr}
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if !f.write {
		return &fs.PathError{Op: "write", Path: f.name, Err: syscall.EBADF}
	}
	if f.durable && (off%BlockSize != 0 || len(p)%BlockSize != 0) {
		return &fs.PathError{Op: "write", Path: f.name, Err: syscall.EINVAL}
	}
	if err := f.writeLocked(p, off); err != nil {
		return err
	}
	if f.durable {
		return f.m.syncLocked(f.n, "sync", f.name)
	}
	return nil
}

func (f *memFile) writeLocked(p []byte, off int64) error {
	if err := f.m.changeLocked("write", f.name); err != nil {
		return err
	}
	if err := f.growLocked(off + int64(len(p))); err != nil {
		return err
	}
	copy(f.n.data[off:], p)
	if f.n.dirty == nil {
		f.n.dirty = map[int64]struct{}{}
	}
	for sec := off / SectorSize; sec*SectorSize < off+int64(len(p)); sec++ {
		f.n.dirty[sec] = struct{}{}
	}
	return nil
}

func (f *memFile) growLocked(size int64) error {
	d := size - int64(len(f.n.data))
	if d <= 0 {
		return nil
	}
	if f.m.mu.used+d > f.m.mu.capacity {
		return &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	f.m.mu.used += d
	f.n.data = append(f.n.data, make([]byte, d)...)
	return nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.m.syncLocked(f.n, "sync", f.name)
}

func (f *memFile) Allocate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if size <= int64(len(f.n.data)) {
		return nil
	}
	if err := f.m.changeLocked("allocate", f.name); err != nil {
		return err
	}
	return f.growLocked(size)
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.n.data)), nil
}
