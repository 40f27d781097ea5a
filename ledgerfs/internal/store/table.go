package store

import (
	"sort"
	"unsafe"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
)

// ledger is what is known of a ledger: a flat record, since there may be millions.
type ledger struct {
	id     ledgerfs.LedgerID
	last   ledgerfs.EntryID // highest durable entry
	lac    ledgerfs.EntryID // highest durable last-add-confirmed
	length int64            // carried by last
	tail   ledgerfs.EntryID // highest entry that was ever admitted: a higher one is new
	flags  uint8
}

const (
	ledgerKnown         = 1 << iota // an Install or Fence is durable
	ledgerFenced                    // only recovery may add; the Fence may still be under way
	ledgerFencedDurably             //
	ledgerDeleting                  // a Delete is under way
)

// table is the ledgers by id. Pointers into it stay valid until the ledger is removed.
type table struct {
	byID   map[ledgerfs.LedgerID]uint32
	chunks [][]ledger
	free   []uint32
}

const tableChunk = 256

func newTable() table { return table{byID: map[ledgerfs.LedgerID]uint32{}} }

func (t *table) get(id ledgerfs.LedgerID) *ledger {
	i, ok := t.byID[id]
	if !ok {
		return nil
	}
	return &t.chunks[i/tableChunk][i%tableChunk]
}

func (t *table) add(id ledgerfs.LedgerID) *ledger {
	if len(t.free) == 0 {
		base := uint32(len(t.chunks)) * tableChunk
		t.chunks = append(t.chunks, make([]ledger, tableChunk))
		for i := range uint32(tableChunk) {
			t.free = append(t.free, base+tableChunk-1-i)
		}
	}
	i := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	t.byID[id] = i
	l := &t.chunks[i/tableChunk][i%tableChunk]
	*l = ledger{id: id, last: ledgerfs.NoEntry, lac: ledgerfs.NoEntry, tail: ledgerfs.NoEntry}
	return l
}

func (t *table) remove(id ledgerfs.LedgerID) {
	if i, ok := t.byID[id]; ok {
		delete(t.byID, id)
		t.free = append(t.free, i)
	}
}

// cache keeps the newest batches in memory as they were written, so that tailing reads touch no disk. Its parts
// are in the order of the log.
type cache struct {
	max   int64
	bytes int64
	parts []part
}

type part struct {
	segment uint64
	off     int64
	data    []byte
}

func newSlab(n int) []byte { return disk.AlignedBlock(n) }

func (c *cache) put(segment uint64, off int64, data []byte) {
	c.bytes += int64(len(data))
	if k := len(c.parts) - 1; k >= 0 {
		// Batches that lie side by side in the file and in memory are one part.
		p := &c.parts[k]
		if n := len(p.data); p.segment == segment && p.off+int64(n) == off && cap(p.data) >= n+len(data) &&
			unsafe.SliceData(p.data[n:n+len(data)]) == unsafe.SliceData(data) {
			p.data = p.data[:n+len(data)]
			c.trim()
			return
		}
	}
	// The capacity tells where the slab ends: it is what makes the test above possible.
	c.parts = append(c.parts, part{segment, off, data})
	c.trim()
}

func (c *cache) trim() {
	n := 0
	for c.bytes > c.max && n < len(c.parts)-1 {
		c.bytes -= int64(len(c.parts[n].data))
		c.parts[n] = part{}
		n++
	}
	c.parts = c.parts[n:]
}

// get returns n bytes of a segment, or nil.
func (c *cache) get(segment uint64, off int64, n int) []byte {
	i := sort.Search(len(c.parts), func(i int) bool {
		p := &c.parts[i]
		return p.segment > segment || p.segment == segment && p.off > off
	}) - 1
	if i < 0 {
		return nil
	}
	p := &c.parts[i]
	if p.segment != segment || off+int64(n) > p.off+int64(len(p.data)) {
		return nil
	}
	at := off - p.off
	return p.data[at : at+int64(n) : at+int64(n)]
}
