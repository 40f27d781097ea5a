package metaserver

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// oneCompaction is pebble's compaction scheduler for a small database: one compaction at a time, the next when
// it is done. Pebble's own looks for work every 100 ms, also where nothing is ever written.
//
// A compaction that finds the slot taken is remembered by pebble, and asked for by whoever frees the slot: so
// after each release somebody looks, and nothing waits beside a free slot.
type oneCompaction struct {
	db pebble.DBForCompaction
	mu struct {
		sync.Mutex
		taken        bool
		unregistered bool
		calls        int // into db
		idle         sync.Cond
	}
}

func newOneCompaction() *oneCompaction {
	c := new(oneCompaction)
	c.mu.idle.L = &c.mu
	return c
}

func (c *oneCompaction) Register(_ int, db pebble.DBForCompaction) { c.db = db }

func (c *oneCompaction) Unregister() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.unregistered = true
	for c.mu.calls > 0 {
		c.mu.idle.Wait()
	}
}

// take takes the slot if it is free.
func (c *oneCompaction) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.taken || c.mu.unregistered {
		return false
	}
	c.mu.taken = true
	return true
}

func (c *oneCompaction) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.taken = false
}

func (c *oneCompaction) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	if !c.take() {
		return false, nil
	}
	return true, c
}

// UpdateGetAllowedWithoutPermission has no meaning here: what is allowed is always one.
func (c *oneCompaction) UpdateGetAllowedWithoutPermission() {}

func (c *oneCompaction) Started()                                          {}
func (c *oneCompaction) MeasureCPU(pebble.CompactionGoroutineKind)         {}
func (c *oneCompaction) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done is called at the end of a compaction.
func (c *oneCompaction) Done() {
	c.release()
	if !c.enter() {
		return
	}
	defer c.leave()
	for {
		if waiting, _ := c.db.GetWaitingCompaction(); !waiting {
			return
		}
		if !c.take() {
			return // the new holder will look again
		}
		if c.db.Schedule(c) {
			return
		}
		c.release()
	}
}

func (c *oneCompaction) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.unregistered {
		return false
	}
	c.mu.calls++
	return true
}

func (c *oneCompaction) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.calls--; c.mu.calls == 0 {
		c.mu.idle.Broadcast()
	}
}
