// Package journal is the loop that makes batches durable: it writes one after the other, each as soon as the
// one before has returned, and hands them on in order.
//
// The loop does nothing but write: batches come encoded and checksummed, and whoever waits for them is
// answered elsewhere. What gathers while a write is under way is the next batch; so groups form by
// themselves and no timer is needed.
//
// # Goroutines
//
// One goroutine writes and one hands on what was written, so that the next write does not wait for the
// callers of the last. Both end after Source.Next has reported the end.
package journal

import (
	"sync"

	"github.com/daybook/daybook/ledgerfs/internal/disk"
)

// A Write is a batch and its place. A Write without Data needs no writing and only keeps its place in the
// order.
type Write[T any] struct {
	File disk.File
	Data []byte
	Off  int64
	Tag  T
}

// A Source gives the batches and takes them back.
type Source[T any] interface {
	// Next waits for a batch; false ends the journal.
	Next() (Write[T], bool)
	// Written is told, in order, that the batch is durable or why it is not. After the first error
	// nothing is written any more, and every later batch comes back with the same error.
	Written(w Write[T], err error)
}

// A Journal is a running loop.
type Journal struct{ wg sync.WaitGroup }

// depth bounds the batches that are durable and not yet handed on.
const depth = 8

// Start starts the loop.
func Start[T any](s Source[T]) *Journal {
	type result struct {
		w   Write[T]
		err error
	}
	j := &Journal{}
	done := make(chan result, depth)
	j.wg.Go(func() {
		defer close(done)
		var failed error
		for {
			w, ok := s.Next()
			if !ok {
				return
			}
			if failed == nil && w.Data != nil {
				failed = w.File.WriteAt(w.Data, w.Off)
			}
			done <- result{w, failed}
		}
	})
	j.wg.Go(func() {
		for r := range done {
			s.Written(r.w, r.err)
		}
	})
	return j
}

// Wait returns when the source has ended and the last batch has been handed on.
func (j *Journal) Wait() { j.wg.Wait() }
