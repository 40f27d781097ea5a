// Package entrycache keeps the entries appended last, of all topics together, within a bound of bytes: first
// in, first out. Readers at the tail find everything there and never ask a bookie.
package entrycache

import (
	"sync"

	"github.com/daybook/daybook/ledgerfs"
)

// A Cache may be used by any goroutine. A nil Cache is always empty.
type Cache struct {
	max int64

	mu   sync.Mutex
	size int64
	ring []slot // the slots first to last-1, by number modulo len(ring), a power of two
	// first <= last; slots are numbered from 0 on for ever.
	first, last uint64
	runs        map[ledgerfs.LedgerID]*run // of the ledgers that have entries here
	recent      *run                       // the one used last, or nil
	recentID    ledgerfs.LedgerID
}

type slot struct {
	pos     ledgerfs.Position
	payload []byte
}

// A run is the cached entries of one ledger: first, first+1, … Entries come in order and go in order, so that a
// queue of slot numbers does, and no map by entry is needed.
type run struct {
	first ledgerfs.EntryID
	slots []uint64 // from head on
	head  int
}

func (r *run) len() int { return len(r.slots) - r.head }

func (r *run) push(n uint64) {
	if r.head > 0 && len(r.slots) == cap(r.slots) && r.head >= len(r.slots)/2 {
		r.slots = r.slots[:copy(r.slots, r.slots[r.head:])]
		r.head = 0
	}
	r.slots = append(r.slots, n)
}

// overhead is what an entry costs beside its payload.
const overhead = 128

// New is a cache of at most limit bytes, nil if that is less than one.
func New(limit int64) *Cache {
	if limit < 1 {
		return nil
	}
	return &Cache{max: limit, runs: make(map[ledgerfs.LedgerID]*run), ring: make([]slot, 1024)}
}

func (c *Cache) run(id ledgerfs.LedgerID) *run {
	if c.recent == nil || c.recentID != id {
		c.recent, c.recentID = c.runs[id], id
	}
	return c.recent
}

// Put adds an entry; its payload must never change. Entries of a ledger come in order: one that leaves a gap hides those before
// it, one that is not new is ignored.
func (c *Cache) Put(pos ledgerfs.Position, payload []byte) {
	if c == nil || int64(len(payload))+overhead > c.max {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.run(pos.Ledger); r != nil && pos.Entry < r.first+ledgerfs.EntryID(r.len()) {
		return
	}
	c.size += int64(len(payload)) + overhead
	for c.size > c.max {
		c.evict()
	}
	if c.last-c.first == uint64(len(c.ring)) {
		old := c.ring
		c.ring = make([]slot, 2*len(old))
		for n := c.first; n < c.last; n++ {
			*c.slot(n) = old[n&uint64(len(old)-1)]
		}
	}
	r := c.run(pos.Ledger)
	if r == nil {
		r = &run{first: pos.Entry}
		c.runs[pos.Ledger], c.recent = r, r
	} else if pos.Entry != r.first+ledgerfs.EntryID(r.len()) {
		r.first, r.slots, r.head = pos.Entry, r.slots[:0], 0
	}
	r.push(c.last)
	*c.slot(c.last) = slot{pos, payload}
	c.last++
}

// evict removes the oldest entry.
func (c *Cache) evict() {
	s := c.slot(c.first)
	if r := c.run(s.pos.Ledger); r != nil && r.slots[r.head] == c.first { // else it is hidden
		r.head++
		r.first++
		if r.len() == 0 {
			delete(c.runs, s.pos.Ledger)
			c.recent = nil
		}
	}
	c.size -= int64(len(s.payload)) + overhead
	*s = slot{}
	c.first++
}

func (c *Cache) slot(n uint64) *slot { return &c.ring[n&uint64(len(c.ring)-1)] }

// Read appends to dst the entries first, first+1, … of the ledger as far as they are cached, none after last,
// at most maxEntries of maxBytes payload bytes, but at least one however large.
func (c *Cache) Read(dst []ledgerfs.Entry, id ledgerfs.LedgerID, first, last ledgerfs.EntryID, maxEntries, maxBytes int) []ledgerfs.Entry {
	if c == nil {
		return dst
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.runs[id]
	if r == nil || first < r.first {
		return dst
	}
	last = min(last, r.first+ledgerfs.EntryID(r.len()-1))
	n, size := 0, 0
	for e := first; e <= last && n < max(maxEntries, 1); e++ {
		p := c.slot(r.slots[r.head+int(e-r.first)]).payload
		if n > 0 && size+len(p) > maxBytes {
			break
		}
		n++
		size += len(p)
		dst = append(dst, ledgerfs.Entry{Ledger: id, Entry: e, Payload: p})
	}
	return dst
}

// Size is the bytes that the cache holds, its own overhead included.
func (c *Cache) Size() int64 {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}
