// Package meter counts events and says how often they happened of late, without a timer: a rate is measured between two
// looks at least a second apart.
package meter

import (
	"sync"
	"sync/atomic"
	"time"
)

// window is the least time that a rate is measured over.
const window = time.Second

// A Meter counts. Add may be called by any goroutine and costs one atomic addition. The zero Meter is ready.
type Meter struct {
	n  atomic.Int64
	mu sync.Mutex
	// from and fromN are the look from which the current measurement runs; rate is the result of the last one.
	from  time.Time
	fromN int64
	rate  float64
}

// Add counts n events.
func (m *Meter) Add(n int64) { m.n.Add(n) }

// Count is the number of events so far.
func (m *Meter) Count() int64 { return m.n.Load() }

// Rate is events a second since the last look that is at least a second ago; started is when counting began.
func (m *Meter) Rate(now, started time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.from.IsZero() {
		m.from = started
	}
	d := now.Sub(m.from)
	if d < window {
		return m.rate
	}
	n := m.n.Load()
	m.rate = float64(n-m.fromN) / d.Seconds()
	m.from, m.fromN = now, n
	return m.rate
}
