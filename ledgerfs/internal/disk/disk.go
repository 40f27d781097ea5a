// Package disk is the few file operations that the bookie's store uses, with the promises it relies on, over
// the operating system and, for tests, over a file system in memory that can crash.
//
// # Promises
//
// A write to a file opened with Durable is on the device when WriteAt returns. A file or directory that was
// created, renamed or removed is durably so once SyncDir of its directory has returned; MkdirAll syncs the
// parent of each directory that it creates. Any error of WriteAt or Sync leaves the file's contents unknown:
// the caller must not try again as if they were clean.
//
// The twin in memory, Mem, has two faces over one tree, FS for the store and pebble's vfs.FS for what pebble
// keeps, so that one crash image holds both at the same instant.
package disk

import (
	"errors"
	"io"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// BlockSize is the alignment, in bytes, of offset, length and memory of writes to a Durable file.
const BlockSize = 4096

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("locked by another process")

// An FS is a file system. All methods may be called by any goroutine.
type FS interface {
	// MkdirAll creates the directory and its parents, durably.
	MkdirAll(dir string) error
	// Open opens a file; see Flag.
	Open(name string, flags Flag) (File, error)
	// Rename moves a file, replacing what was there.
	Rename(from, to string) error
	Remove(name string) error
	// List returns the names in a directory, sorted.
	List(dir string) ([]string, error)
	// Exists reports whether the name exists.
	Exists(name string) (bool, error)
	// SyncDir makes what was created, renamed or removed in the directory durable.
	SyncDir(dir string) error
	// Usage reports the room on the file system of dir.
	Usage(dir string) (Usage, error)
	// Lock takes an exclusive lock for this process, writing its process id into the file; the lock ends
	// with the process. Fails with ErrLocked, naming the holder.
	Lock(name string) (io.Closer, error)
	// Pebble is the face of the same tree for pebble.
	Pebble() vfs.FS
}

// A Flag says how to open a file.
type Flag uint8

const (
	// Create creates the file if it does not exist. The caller syncs the directory.
	Create Flag = 1 << iota
	// Write allows writing; without it the file is only read.
	Write
	// Durable makes every write reach the device before it returns, past the page cache where that
	// works. Offsets, lengths and buffers must be aligned to BlockSize. Implies Write.
	Durable
)

// A File is an open file. ReadAt may be called by any goroutine, the other methods by one at a time.
type File interface {
	io.ReaderAt
	io.Closer
	// WriteAt writes all of p. Unless the file is Durable, only Sync makes it so.
	WriteAt(p []byte, off int64) error
	// Sync makes the file's data and size durable.
	Sync() error
	// Allocate makes the file at least size bytes long and takes the room for it; where the file system
	// cannot, by writing zeroes. It fails with ENOSPC where there is no room.
	Allocate(size int64) error
	Size() (int64, error)
}

// Usage is the room on a file system, in bytes.
type Usage struct {
	Total int64
	Free  int64 // for this process
}

// AlignedBlock returns n zero bytes, n a multiple of BlockSize, at an address aligned to BlockSize.
func AlignedBlock(n int) []byte {
	b := make([]byte, n+BlockSize)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (BlockSize - 1))
	return b[skip : skip+n : skip+n]
}

// ReadFull reads len(p) bytes at off; a file that ends before is io.ErrUnexpectedEOF.
func ReadFull(f File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// WriteFileAtomic replaces a small file, durably: after a crash it is either as before or as given.
func WriteFileAtomic(fs FS, dir, name string, data []byte) error {
	tmp := dir + "/" + name + ".tmp"
	f, err := fs.Open(tmp, Create|Write)
	if err != nil {
		return err
	}
	err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(tmp, dir+"/"+name)
	}
	if err == nil {
		err = fs.SyncDir(dir)
	}
	return err
}

// ReadFile reads a file of at most limit bytes.
func ReadFile(fs FS, name string, limit int64) ([]byte, error) {
	f, err := fs.Open(name, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, errors.New(name + ": file too large")
	}
	b := make([]byte, n)
	return b, ReadFull(f, b, 0)
}
