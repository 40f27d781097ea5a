package mount

import (
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/daybook/daybook/ledgerfs/filetree"
)

// openFlags of every file: direct I/O, because a page cache shows NUL bytes where a file grows; KEEP_CACHE spares the
// kernel from dropping pages that it does not have.
const openFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_KEEP_CACHE

// A handle is an open file.
type handle struct {
	n    *node
	base int64 // the text offset of the file's first byte
	gen  uint64
	r    *reader // nil: not open for reading
	w    *writer // nil: not open for writing
}

// Open implements fuse.RawFileSystem.
func (f *fileSystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := f.node(in.NodeId)
	switch {
	case n == nil:
		return fuse.Status(syscall.ESTALE)
	case n.dir:
		return fuse.Status(syscall.EISDIR)
	}
	ctx, done := request(cancel, f.dl.lookup)
	defer done()
	if err := f.refresh(ctx, n); err != nil {
		return errno(err)
	}
	return f.open(n, in.Flags, out)
}

// open makes a handle of a file whose attributes are fresh.
func (f *fileSystem) open(n *node, flags uint32, out *fuse.OpenOut) fuse.Status {
	h := &handle{n: n}
	f.mu.Lock()
	defer f.mu.Unlock()
	mode := flags & syscall.O_ACCMODE
	if mode != syscall.O_RDONLY {
		switch {
		case strings.HasSuffix(n.path, "@/ndjson"):
			return fuse.EPERM
		case !n.attr.Writable:
			return fuse.EROFS
		case flags&syscall.O_TRUNC != 0 && n.sizeLocked() > 0:
			return fuse.EPERM
		}
		h.w = newWriter(f, n.path, flags, int64(n.sizeLocked()))
	}
	n.handles++
	h.base, h.gen = n.base, n.gen
	if mode != syscall.O_WRONLY {
		h.r = newReader(f, n.path, h.gen)
	}
	f.mu.nextFh++
	f.mu.handles[f.mu.nextFh] = h
	out.Fh, out.OpenFlags = f.mu.nextFh, openFlags
	return fuse.OK
}

// Create implements fuse.RawFileSystem: a new name makes a topic, where topics may be made by use.
func (f *fileSystem) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	parent := f.node(in.NodeId)
	if parent == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if filetree.JunkName(name) {
		return fuse.EPERM
	}
	ctx, done := request(cancel, f.dl.lookup)
	defer done()
	path := join(parent.path, name)
	var a filetree.Attr
	err := f.reach(ctx, func() (err error) {
		a, err = f.client.Create(ctx, path)
		return err
	})
	if err != nil {
		return errno(err)
	}
	n, st := f.enter(path, a, &out.EntryOut)
	if !st.Ok() {
		return st
	}
	if st := f.open(n, in.Flags, &out.OpenOut); !st.Ok() {
		f.Forget(n.id, 1)
		return st
	}
	return fuse.OK
}

func (f *fileSystem) handle(fh uint64) *handle {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, _ := f.mu.handles[fh].(*handle)
	return h
}

// Read implements fuse.RawFileSystem.
func (f *fileSystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, dest []byte) (fuse.ReadResult, fuse.Status) {
	h := f.handle(in.Fh)
	if h == nil || h.r == nil {
		return nil, fuse.EBADF
	}
	ctx, done := request(cancel, f.dl.read)
	defer done()
	n := min(int(in.Size), len(dest))
	b, err := h.r.read(ctx, h.base+int64(in.Offset), n)
	if err != nil {
		if filetree.ErrnoOf(err) == filetree.ETIMEDOUT {
			err = filetree.EIO
		}
		return nil, errno(err)
	}
	return fuse.ReadResultData(b), fuse.OK
}

// Write implements fuse.RawFileSystem.
func (f *fileSystem) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h := f.handle(in.Fh)
	if h == nil || h.w == nil {
		return 0, fuse.EBADF
	}
	ctx, done := request(cancel, f.dl.write)
	defer done()
	n, err := h.w.write(ctx, data, int64(in.Offset), in.Flags, in.LockOwner)
	return uint32(n), errno(err)
}

// Writev implements fuse.RawFileSystem.
func (f *fileSystem) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS // Write is called
}

// Flush implements fuse.RawFileSystem. It comes for every descriptor that is closed, of any process: what lacks a
// newline is published if the one that wrote it last is closing.
func (f *fileSystem) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h := f.handle(in.Fh)
	if h == nil || h.w == nil {
		return fuse.OK
	}
	ctx, done := request(cancel, f.dl.write)
	defer done()
	if h.w.ownedBy(in.LockOwner) {
		h.w.publishRest()
	}
	return errno(h.w.wait(ctx))
}

// Fsync implements fuse.RawFileSystem: it waits until all records are acknowledged.
func (f *fileSystem) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := f.handle(in.Fh)
	if h == nil || h.w == nil {
		return fuse.OK
	}
	ctx, done := request(cancel, f.dl.write)
	defer done()
	return errno(h.w.wait(ctx))
}

// Release implements fuse.RawFileSystem: the last descriptor is closed; nobody hears of errors any more.
func (f *fileSystem) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	h := f.handle(in.Fh)
	if h == nil {
		return
	}
	if h.r != nil {
		h.r.close()
	}
	if h.w != nil {
		ctx, done := request(cancel, f.dl.write)
		defer done()
		h.w.publishRest()
		if err := h.w.wait(ctx); err != nil {
			f.log.Warn("records of a closed file are not acknowledged", "path", h.n.path, "err", err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.mu.handles, in.Fh)
	if h.n.handles--; h.n.handles == 0 && h.n.gen == h.n.attr.Gen {
		h.n.base = h.n.attr.Base
	}
}

// Lseek implements fuse.RawFileSystem: without it the kernel has no holes in the file.
func (f *fileSystem) Lseek(<-chan struct{}, *fuse.LseekIn, *fuse.LseekOut) fuse.Status {
	return fuse.ENOSYS
}
