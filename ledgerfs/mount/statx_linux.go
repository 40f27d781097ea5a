package mount

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Statx implements fuse.RawFileSystem: it is asked for where somebody wants the time of birth.
func (f *fileSystem) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	var attr fuse.AttrOut
	get := fuse.GetAttrIn{InHeader: in.InHeader}
	if st := f.GetAttr(cancel, &get, &attr); !st.Ok() {
		return st
	}
	n := f.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	a := &attr.Attr
	out.Mask = unix.STATX_BASIC_STATS
	out.Blksize, out.Nlink, out.Uid, out.Gid, out.Mode = a.Blksize, a.Nlink, a.Uid, a.Gid, uint16(a.Mode)
	out.Ino, out.Size, out.Blocks = a.Ino, a.Size, a.Blocks
	out.Mtime = fuse.SxTime{Sec: a.Mtime, Nsec: a.Mtimensec}
	out.Atime, out.Ctime = out.Mtime, out.Mtime
	f.mu.Lock()
	if t := n.attr.Btime; !t.IsZero() {
		out.Mask |= unix.STATX_BTIME
		out.Btime = fuse.SxTime{Sec: uint64(t.Unix()), Nsec: uint32(t.Nanosecond())}
	}
	f.mu.Unlock()
	out.SetTimeout(cacheTime)
	return fuse.OK
}
