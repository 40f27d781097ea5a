package mount

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/daybook/daybook/ledgerfs/filetree"
)

const (
	blockSize = 512 << 10 // st_blksize: what coreutils read at a time
	// cacheTime is how long the kernel may keep attributes and names; growth is notified sooner.
	cacheTime = time.Second
	// watchTime is how long a file is watched after the kernel last asked for its attributes.
	watchTime = 30 * time.Second
	pageSize  = 10_000 // names of a directory asked for at a time
	rootID    = fuse.FUSE_ROOT_ID
)

// fileSystem answers the kernel. Nothing is kept for ever: a node lives while the kernel knows it, and is found
// again by its name.
type fileSystem struct {
	fuse.RawFileSystem // ENOSYS for what is not below
	client             *filetree.Client
	log                *slog.Logger
	dl                 deadlines
	uid, gid           uint32
	server             *fuse.Server
	watch              *filetree.Watch
	ctx                context.Context // ends with close
	cancel             context.CancelFunc
	wg                 sync.WaitGroup
	downSince          atomic.Int64 // ns; 0 while the server answers

	// mu guards the tables; it is never held over a call to the server.
	mu struct {
		sync.Mutex
		nodes   map[uint64]*node
		byPath  map[string]*node
		handles map[uint64]any // *handle or *dirHandle
		nextFh  uint64
	}
}

// A node is a file or directory that the kernel knows.
type node struct {
	id   uint64 // its inode number, too
	path string
	dir  bool

	// Under fs.mu:
	lookups uint64
	handles int
	attr    filetree.Attr // as last heard
	base    int64         // the text offset that the file's first byte has; held while handles are open
	gen     uint64        // of base
	watched bool
	used    time.Time
}

func newFS(cfg Config) *fileSystem {
	f := &fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		client:        cfg.Client, log: cfg.Log, dl: cfg.deadlines,
		uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.mu.nodes = map[uint64]*node{rootID: {id: rootID, path: "/", dir: true, lookups: 1}}
	f.mu.byPath = map[string]*node{}
	f.mu.handles = map[uint64]any{}
	return f
}

// start begins what runs beside the requests.
func (f *fileSystem) start(s *fuse.Server) {
	f.server = s
	f.watch = f.client.Watch(f.grown)
	f.wg.Go(f.forgetWatches)
}

// close waits, up to a limit, for records that are under way, then gives up what still is.
func (f *fileSystem) close(drain time.Duration) {
	ctx, cancel := context.WithTimeout(f.ctx, drain)
	defer cancel()
	f.mu.Lock()
	var writers []*writer
	for _, h := range f.mu.handles {
		if h, ok := h.(*handle); ok && h.w != nil {
			writers = append(writers, h.w)
		}
	}
	f.mu.Unlock()
	for _, w := range writers {
		w.publishRest()
		_ = w.wait(ctx)
	}
	f.cancel()
	if f.watch != nil {
		f.watch.Close()
	}
	f.wg.Wait()
}

// String implements fuse.RawFileSystem.
func (f *fileSystem) String() string { return "daybook" }

// interruptGrace is how long a request goes on after its process got a signal. The kernel tells of every signal with a
// handler, also of the SIGCHLD of a shell whose background job has ended, and programs do not expect EINTR of files: bash
// took the directory it was expanding a pattern in for empty. What takes longer is worth interrupting.
const interruptGrace = 500 * time.Millisecond

// request is the context of a request: it ends with its deadline, or when its process has been interrupted and
// interruptGrace is over.
func request(cancel <-chan struct{}, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, end := context.WithTimeout(context.Background(), d)
	go func() {
		select {
		case <-cancel:
		case <-ctx.Done():
			return
		}
		grace := time.NewTimer(interruptGrace)
		defer grace.Stop()
		select {
		case <-grace.C:
			end()
		case <-ctx.Done():
		}
	}()
	return ctx, end
}

// errno is the one place where errors become the kernel's numbers. A server that cannot be reached is EIO:
// ENOTCONN means to tools that the mount itself is dead.
func errno(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if e, ok := errnos[filetree.ErrnoOf(err)]; ok {
		return fuse.Status(e)
	}
	return fuse.EIO
}

var errnos = map[filetree.Errno]syscall.Errno{
	filetree.EACCES: syscall.EACCES, filetree.EAGAIN: syscall.EAGAIN, filetree.ECANCELED: syscall.EINTR,
	filetree.EDQUOT: syscall.EDQUOT, filetree.EEXIST: syscall.EEXIST, filetree.EFBIG: syscall.EFBIG,
	filetree.EILSEQ: syscall.EILSEQ, filetree.EINVAL: syscall.EINVAL, filetree.EIO: syscall.EIO,
	filetree.EISDIR: syscall.EISDIR, filetree.EMSGSIZE: syscall.EMSGSIZE, filetree.ENOENT: syscall.ENOENT,
	filetree.ENOSPC: syscall.ENOSPC, filetree.ENOTCONN: syscall.EIO, filetree.ENOTDIR: syscall.ENOTDIR,
	filetree.EOPNOTSUPP: syscall.EOPNOTSUPP, filetree.EPERM: syscall.EPERM, filetree.EPROTO: syscall.EPROTO,
	filetree.EROFS: syscall.EROFS, filetree.ESTALE: syscall.ESTALE, filetree.ETIMEDOUT: syscall.ETIMEDOUT,
}

// reach runs fn, and again while the server is away for a moment: a restart takes less than that. Once the
// server has been away for longer, calls fail at once.
func (f *fileSystem) reach(ctx context.Context, fn func() error) error {
	delay := 20 * time.Millisecond
	for {
		err := fn()
		if e := filetree.ErrnoOf(err); e != filetree.ENOTCONN && e != filetree.EAGAIN {
			f.downSince.Store(0)
			return err
		}
		now := time.Now()
		f.downSince.CompareAndSwap(0, now.UnixNano())
		if now.Sub(time.Unix(0, f.downSince.Load())) > f.dl.retry {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-f.ctx.Done():
			return err
		case <-time.After(delay):
		}
		delay = min(2*delay, 200*time.Millisecond)
	}
}

func (f *fileSystem) stat(ctx context.Context, path string) (a filetree.Attr, err error) {
	err = f.reach(ctx, func() error {
		a, err = f.client.Stat(ctx, path)
		return err
	})
	return a, err
}

func (f *fileSystem) node(id uint64) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.nodes[id]
}

func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// heard takes in attributes from the server. Under a lock of the tables.
func (n *node) heardLocked(a filetree.Attr) {
	if n.handles == 0 || n.gen == 0 {
		n.base, n.gen = a.Base, a.Gen
	}
	if a.Gen == n.attr.Gen && a.End < n.attr.End {
		a.End = n.attr.End // answers may overtake each other
	}
	n.attr = a
	n.used = time.Now()
}

// size is what stat shows: all text from the base on that is held.
func (n *node) sizeLocked() uint64 {
	if n.gen != n.attr.Gen {
		return 0 // other text: reads of it are ESTALE
	}
	return uint64(max(n.attr.End-n.base, 0))
}

// fill makes the kernel's form of a node's attributes.
func (f *fileSystem) fillLocked(n *node, out *fuse.Attr) {
	*out = fuse.Attr{Ino: n.id, Nlink: 1, Blksize: blockSize, Owner: fuse.Owner{Uid: f.uid, Gid: f.gid}}
	switch {
	case n.dir:
		out.Mode = syscall.S_IFDIR | 0o755
	case n.attr.Writable:
		out.Mode = syscall.S_IFREG | 0o644
	default:
		out.Mode = syscall.S_IFREG | 0o444
	}
	if !n.dir {
		out.Size = n.sizeLocked()
		out.Blocks = (out.Size + 511) / 512
	}
	if t := n.attr.Mtime; !t.IsZero() {
		out.Mtime, out.Mtimensec = uint64(t.Unix()), uint32(t.Nanosecond())
		out.Atime, out.Atimensec, out.Ctime, out.Ctimensec = out.Mtime, out.Mtimensec, out.Mtime, out.Mtimensec
	}
}

// watchLocked has growth of a file reported whose attributes the kernel has.
func (f *fileSystem) watchLocked(n *node) {
	if !n.dir && !n.watched {
		n.watched = true
		f.watch.Add(n.path, n.attr.End, n.attr.Gen)
	}
}

// enter makes the node of a name known to the kernel.
func (f *fileSystem) enter(path string, a filetree.Attr, out *fuse.EntryOut) (*node, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.mu.nodes[a.Ino]
	if n == nil {
		n = &node{id: a.Ino, path: path, dir: a.Dir}
		f.mu.nodes[n.id] = n
	}
	if n.path != path || n.dir != a.Dir {
		f.log.Error("two files have one inode number", "inode", a.Ino, "path", path, "other", n.path)
		return nil, fuse.EIO
	}
	f.mu.byPath[path] = n
	n.lookups++
	n.heardLocked(a)
	f.watchLocked(n)
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(cacheTime)
	out.SetAttrTimeout(cacheTime)
	f.fillLocked(n, &out.Attr)
	return n, fuse.OK
}

// Lookup implements fuse.RawFileSystem.
func (f *fileSystem) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	parent := f.node(h.NodeId)
	if parent == nil {
		return fuse.Status(syscall.ESTALE)
	}
	ctx, done := request(cancel, f.dl.lookup)
	defer done()
	path := join(parent.path, name)
	a, err := f.stat(ctx, path)
	if err != nil {
		return errno(err)
	}
	_, st := f.enter(path, a, out)
	return st
}

// Forget implements fuse.RawFileSystem.
func (f *fileSystem) Forget(id, lookups uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.mu.nodes[id]
	if n == nil || id == rootID {
		return
	}
	if n.lookups -= min(lookups, n.lookups); n.lookups > 0 {
		return
	}
	delete(f.mu.nodes, id)
	if f.mu.byPath[n.path] == n {
		delete(f.mu.byPath, n.path)
		if n.watched {
			f.watch.Remove(n.path)
		}
	}
}

// refresh asks the server for a node's attributes. A file that is open keeps those that were last heard while
// the server is away, so that who follows it does not lose it.
func (f *fileSystem) refresh(ctx context.Context, n *node) error {
	a, err := f.stat(ctx, n.path)
	if err == nil && n.id != rootID && a.Ino != n.id {
		err = filetree.ESTALE // another topic has the name now
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		if n.handles > 0 && filetree.ErrnoOf(err) == filetree.ENOTCONN {
			return nil
		}
		return err
	}
	n.heardLocked(a)
	f.watchLocked(n)
	return nil
}

// GetAttr implements fuse.RawFileSystem.
func (f *fileSystem) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if n.id != rootID { // the root is always there, even without a server
		ctx, done := request(cancel, f.dl.lookup)
		defer done()
		if err := f.refresh(ctx, n); err != nil {
			return errno(err)
		}
	}
	f.answerAttr(n, out)
	return fuse.OK
}

func (f *fileSystem) answerAttr(n *node, out *fuse.AttrOut) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out.SetTimeout(cacheTime)
	f.fillLocked(n, &out.Attr)
}

// SetAttr implements fuse.RawFileSystem: nothing may change but the times, which are ignored.
func (f *fileSystem) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	ctx, done := request(cancel, f.dl.lookup)
	defer done()
	f.mu.Lock()
	known := n.sizeLocked()
	f.mu.Unlock()
	if n.id != rootID {
		if err := f.refresh(ctx, n); err != nil {
			return errno(err)
		}
	}
	var now fuse.Attr
	f.mu.Lock()
	f.fillLocked(n, &now)
	f.mu.Unlock()
	if size, ok := in.GetSize(); ok && (n.dir || size != now.Size && size != known) {
		return fuse.EPERM
	}
	if mode, ok := in.GetMode(); ok && mode&0o7777 != now.Mode&0o7777 {
		return fuse.EPERM
	}
	if uid, ok := in.GetUID(); ok && uid != now.Uid {
		return fuse.EPERM
	}
	if gid, ok := in.GetGID(); ok && gid != now.Gid {
		return fuse.EPERM
	}
	f.answerAttr(n, out)
	return fuse.OK
}

// grown is told by the server's stream that a file has changed. It holds no lock while it talks to the kernel.
func (f *fileSystem) grown(g filetree.Growth) {
	f.mu.Lock()
	n := f.mu.byPath[g.Path]
	if n == nil {
		f.mu.Unlock()
		return
	}
	used := n.used
	if g.Gone {
		n.watched = false
	} else if g.Attr.Ino == n.id {
		n.heardLocked(g.Attr)
		n.used = used // nobody has asked
	}
	f.mu.Unlock()
	// Attributes only: with an offset it would wait for reads that are under way. ENOENT: not cached.
	f.server.InodeNotify(n.id, -1, 0)
}

// forgetWatches ends the watching of files whose attributes the kernel has not asked for in a while.
func (f *fileSystem) forgetWatches() {
	tick := time.NewTicker(watchTime / 3)
	defer tick.Stop()
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-tick.C:
		}
		old := time.Now().Add(-watchTime)
		f.mu.Lock()
		for _, n := range f.mu.byPath {
			if n.watched && n.handles == 0 && n.used.Before(old) {
				n.watched = false
				f.watch.Remove(n.path)
			}
		}
		f.mu.Unlock()
	}
}

// A dirHandle is an open directory: what it lists is asked for once.
type dirHandle struct {
	mu      sync.Mutex
	entries []filetree.DirEntry
	more    bool
	begun   bool
}

// OpenDir implements fuse.RawFileSystem.
func (f *fileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := f.node(in.NodeId)
	switch {
	case n == nil:
		return fuse.Status(syscall.ESTALE)
	case !n.dir:
		return fuse.ENOTDIR
	}
	out.Fh = f.addHandle(&dirHandle{})
	return fuse.OK
}

func (f *fileSystem) addHandle(h any) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.nextFh++
	f.mu.handles[f.mu.nextFh] = h
	return f.mu.nextFh
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *fileSystem) ReleaseDir(in *fuse.ReleaseIn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.mu.handles, in.Fh)
}

// ReadDir implements fuse.RawFileSystem.
func (f *fileSystem) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(cancel, in, out.AddDirEntry)
}

// ReadDirPlus implements fuse.RawFileSystem. It brings no attributes: the kernel asks for those that it needs, and
// most readers need none.
func (f *fileSystem) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(cancel, in, func(e fuse.DirEntry) bool { return out.AddDirLookupEntry(e) != nil })
}

func (f *fileSystem) readDir(cancel <-chan struct{}, in *fuse.ReadIn, add func(fuse.DirEntry) bool) fuse.Status {
	f.mu.Lock()
	n, h := f.mu.nodes[in.NodeId], f.mu.handles[in.Fh]
	f.mu.Unlock()
	d, ok := h.(*dirHandle)
	if n == nil || !ok {
		return fuse.Status(syscall.EBADF)
	}
	ctx, done := request(cancel, f.dl.lookup)
	defer done()
	d.mu.Lock()
	defer d.mu.Unlock()
	if in.Offset == 0 && d.begun {
		d.entries, d.begun = nil, false // rewound: a new listing
	}
	for i := in.Offset; ; i++ {
		e := fuse.DirEntry{Off: i + 1, Mode: syscall.S_IFDIR}
		switch {
		case i == 0:
			e.Name, e.Ino = ".", n.id
		case i == 1:
			e.Name = ".."
		default:
			j := int(i - 2)
			for j >= len(d.entries) && (d.more || !d.begun) {
				if err := f.list(ctx, n.path, d); err != nil {
					return errno(err)
				}
			}
			if j >= len(d.entries) {
				return fuse.OK
			}
			e.Name = d.entries[j].Name
			if !d.entries[j].Dir {
				e.Mode = syscall.S_IFREG
			}
		}
		if !add(e) {
			return fuse.OK
		}
	}
}

// list asks for the next page of a directory.
func (f *fileSystem) list(ctx context.Context, path string, d *dirHandle) error {
	after := ""
	if len(d.entries) > 0 {
		after = d.entries[len(d.entries)-1].Name
	}
	return f.reach(ctx, func() error {
		es, more, err := f.client.List(ctx, path, after, pageSize)
		if err != nil {
			return err
		}
		d.entries, d.more, d.begun = append(d.entries, es...), more && len(es) > 0, true
		return nil
	})
}

// StatFs implements fuse.RawFileSystem. Topics have no common limit of space; some tools refuse to work on a file
// system that says it is full.
func (f *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const blocks = 1 << 31 // 1 PiB
	*out = fuse.StatfsOut{
		Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: 1 << 32, Ffree: 1 << 32,
		Bsize: blockSize, Frsize: blockSize, NameLen: 255,
	}
	return fuse.OK
}

// GetXAttr implements fuse.RawFileSystem. EOPNOTSUPP for what labels files has ls ask once, not for each file.
func (f *fileSystem) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if !strings.HasPrefix(attr, "user.") {
		return 0, fuse.Status(syscall.EOPNOTSUPP)
	}
	m, st := f.attributes(cancel, h)
	if !st.Ok() {
		return 0, st
	}
	v, ok := m[attr]
	if !ok {
		return 0, fuse.ENOATTR
	}
	return copyXAttr(dest, []byte(v))
}

// ListXAttr implements fuse.RawFileSystem.
func (f *fileSystem) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	m, st := f.attributes(cancel, h)
	if !st.Ok() {
		return 0, st
	}
	var names []string
	for k := range m {
		names = append(names, k+"\x00")
	}
	slices.Sort(names)
	return copyXAttr(dest, []byte(strings.Join(names, "")))
}

func copyXAttr(dest, v []byte) (uint32, fuse.Status) {
	if len(v) > len(dest) {
		return uint32(len(v)), fuse.ERANGE
	}
	return uint32(copy(dest, v)), fuse.OK
}

func (f *fileSystem) attributes(cancel <-chan struct{}, h *fuse.InHeader) (map[string]string, fuse.Status) {
	n := f.node(h.NodeId)
	if n == nil {
		return nil, fuse.Status(syscall.ESTALE)
	}
	if n.dir {
		return nil, fuse.OK
	}
	ctx, done := request(cancel, f.dl.lookup)
	defer done()
	var m map[string]string
	err := f.reach(ctx, func() (err error) {
		m, err = f.client.Attributes(ctx, n.path)
		return err
	})
	return m, errno(err)
}

// Init implements fuse.RawFileSystem.
func (f *fileSystem) Init(*fuse.Server) {}

// What is never possible on a topic, said by name: go-fuse's own answers would be success or ENOSYS, which the kernel
// remembers or programs misread.

func (f *fileSystem) SetXAttr(<-chan struct{}, *fuse.SetXAttrIn, string, []byte) fuse.Status {
	return fuse.Status(syscall.EOPNOTSUPP)
}

func (f *fileSystem) RemoveXAttr(<-chan struct{}, *fuse.InHeader, string) fuse.Status {
	return fuse.Status(syscall.EOPNOTSUPP)
}

func (f *fileSystem) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (f *fileSystem) Mkdir(<-chan struct{}, *fuse.MkdirIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (f *fileSystem) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return fuse.EPERM }

func (f *fileSystem) Rmdir(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return fuse.EPERM }

func (f *fileSystem) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return fuse.EPERM
}

func (f *fileSystem) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (f *fileSystem) Symlink(<-chan struct{}, *fuse.InHeader, string, string, *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

func (f *fileSystem) Readlink(<-chan struct{}, *fuse.InHeader) ([]byte, fuse.Status) {
	return nil, fuse.EINVAL
}

func (f *fileSystem) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status {
	return fuse.Status(syscall.EOPNOTSUPP)
}

func (f *fileSystem) Fallocate(<-chan struct{}, *fuse.FallocateIn) fuse.Status {
	return fuse.Status(syscall.EOPNOTSUPP)
}

func (f *fileSystem) CopyFileRange(<-chan struct{}, *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, fuse.Status(syscall.EOPNOTSUPP) // programs copy by reading and writing then
}

func (f *fileSystem) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// Access is never asked for: default_permissions has the kernel decide by modes.
func (f *fileSystem) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

// interrupted reports whether a call ended because its process was interrupted.
func interrupted(err error) bool { return errors.Is(err, context.Canceled) }
