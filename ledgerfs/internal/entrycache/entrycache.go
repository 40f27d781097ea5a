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
	at   map[ledgerfs.Position]uint64 // number of the entry's slot
	ring []slot                       // the slots first to last-1, by number modulo len(ring), a power of two
	// first <= last; slots are numbered from 0 on for ever.
	first, last uint64
}

type slot struct {
	pos     ledgerfs.Position
	payload []byte
}

// overhead is what an entry costs beside its payload.
const overhead = 128

// New is a cache of at most limit bytes, nil if that is less than one.
func New(limit int64) *Cache {
	if limit < 1 {
		return nil
	}
	return &Cache{max: limit, at: make(map[ledgerfs.Position]uint64), ring: make([]slot, 1024)}
}

// Put adds an entry that is not in the cache; its payload must never change.
func (c *Cache) Put(pos ledgerfs.Position, payload []byte) {
	if c == nil || int64(len(payload))+overhead > c.max {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, twice := c.at[pos]; twice {
		return
	}
	c.size += int64(len(payload)) + overhead
	for c.size > c.max {
		s := c.slot(c.first)
		delete(c.at, s.pos)
		c.size -= int64(len(s.payload)) + overhead
		*s = slot{}
		c.first++
	}
	if c.last-c.first == uint64(len(c.ring)) {
		old := c.ring
		c.ring = make([]slot, 2*len(old))
		for n := c.first; n < c.last; n++ {
			*c.slot(n) = old[n&uint64(len(old)-1)]
		}
	}
	*c.slot(c.last) = slot{pos, payload}
	c.at[pos] = c.last
	c.last++
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
	n, size := 0, 0
	for e := first; e <= last && n < max(maxEntries, 1); e++ {
		at, ok := c.at[ledgerfs.Position{Ledger: id, Entry: e}]
		if !ok {
			break
		}
		p := c.slot(at).payload
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
