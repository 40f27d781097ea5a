package conn

import (
	"sync"
	"sync/atomic"
)

// A Budget bounds the bytes of messages on their way to storage over many connections: while it is
// used up, none of them is read. A nil Budget has no bound.
type Budget struct {
	limit  int64
	used   atomic.Int64
	waited atomic.Bool // mu.waiting may hold connections
	mu     struct {
		sync.Mutex
		waiting map[*connection]bool
	}
}

// NewBudget makes a budget of so many bytes.
func NewBudget(bytes int64) *Budget {
	b := &Budget{limit: bytes}
	b.mu.waiting = map[*connection]bool{}
	return b
}

// Used is the bytes that are taken now.
func (b *Budget) Used() int64 { return b.used.Load() }

func (b *Budget) take(bytes int64) {
	if b != nil {
		b.used.Add(bytes)
	}
}

// give returns bytes, and has the connections that wait look again when half of the budget is free.
func (b *Budget) give(bytes int64) {
	if b == nil {
		return
	}
	if left := b.used.Add(-bytes); left > b.limit/2 || !b.waited.Load() {
		return
	}
	b.mu.Lock()
	b.waited.Store(false)
	waiting := b.mu.waiting
	b.mu.waiting = map[*connection]bool{}
	b.mu.Unlock()
	for c := range waiting {
		c.notify()
	}
}

// over reports whether the budget is used up; then c is notified when it is not any more.
func (b *Budget) over(c *connection) bool {
	if b == nil || b.used.Load() <= b.limit {
		return false
	}
	b.mu.Lock()
	b.mu.waiting[c] = true
	b.waited.Store(true)
	b.mu.Unlock()
	return b.used.Load() > b.limit // bytes may have come back before c waited
}

// forget takes c, which has ended, from those that wait.
func (b *Budget) forget(c *connection) {
	if b != nil {
		b.mu.Lock()
		delete(b.mu.waiting, c)
		b.mu.Unlock()
	}
}
