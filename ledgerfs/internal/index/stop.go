package index

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// stopper ends the index where pebble would end the process: it tells the owner, who decides, and lets the
// goroutine that met the error go no further.
type stopper struct {
	fatal func(error)

	mu      sync.Mutex
	opening bool
	failed  bool
	over    chan struct{} // closed when failed
}

func (s *stopper) opened() {
	s.mu.Lock()
	s.opening = false
	s.mu.Unlock()
}

// end does not return. While the index is being opened, it panics, for Open to recover.
func (s *stopper) end(err error) {
	s.mu.Lock()
	opening, first := s.opening, !s.failed
	if first {
		s.failed = true
		close(s.over)
	}
	s.mu.Unlock()
	if opening {
		panic(err)
	}
	if first {
		s.fatal(fmt.Errorf("index: %w", err))
	}
	select {}
}

// stopFS ends the index when a directory cannot be synced: pebble panics then.
type stopFS struct {
	vfs.FS
	stop *stopper
}

func (f stopFS) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return stopDir{d, f.stop}, nil
}

func (f stopFS) Unwrap() vfs.FS { return f.FS }

type stopDir struct {
	vfs.File
	stop *stopper
}

func (d stopDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.stop.end(errors.Join(errors.New("sync directory"), err))
	}
	return nil
}
