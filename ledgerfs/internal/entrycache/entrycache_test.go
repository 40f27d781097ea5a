package entrycache

import (
	"bytes"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"pgregory.net/rapid"
)

func TestCacheIsAFIFOWithinItsBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(1, 5000).Draw(t, "limit")
		c := New(limit)
		type entry struct {
			pos     ledgerfs.Position
			payload []byte
		}
		var model []entry
		var size int64
		next, newest := map[ledgerfs.LedgerID]ledgerfs.EntryID{}, map[ledgerfs.LedgerID]ledgerfs.EntryID{}
		skipped := map[ledgerfs.Position]bool{}
		for range rapid.IntRange(0, 200).Draw(t, "puts") {
			id := ledgerfs.LedgerID(rapid.IntRange(1, 3).Draw(t, "ledger"))
			e := entry{ledgerfs.Position{Ledger: id, Entry: next[id]}, bytes.Repeat([]byte{byte(next[id])}, rapid.IntRange(0, 400).Draw(t, "size"))}
			next[id]++
			c.Put(e.pos, e.payload)
			if int64(len(e.payload))+overhead > limit {
				skipped[e.pos] = true
				continue
			}
			newest[id] = e.pos.Entry
			model = append(model, e)
			size += int64(len(e.payload)) + overhead
			for size > limit {
				size -= int64(len(model[0].payload)) + overhead
				model = model[1:]
			}
		}
		if c.Size() != size {
			t.Fatalf("size %d, want %d", c.Size(), size)
		}
		for id, n := range next {
			for e := range n {
				got := c.Read(nil, id, e, e, 1, 0)
				var want []byte
				has := false
				for _, m := range model {
					if m.pos == (ledgerfs.Position{Ledger: id, Entry: e}) {
						want, has = m.payload, true
					}
				}
				// An entry that was too large to be kept hides those before it.
				for later := e + 1; later <= newest[id]; later++ {
					has = has && !skipped[ledgerfs.Position{Ledger: id, Entry: later}]
				}
				if has != (len(got) == 1) || has && !bytes.Equal(got[0].Payload, want) {
					t.Fatalf("%d:%d: got %v, want %v %v", id, e, got, has, want)
				}
			}
		}
	})
}

func TestReadStopsAtGapsAndLimits(t *testing.T) {
	c := New(1 << 20)
	for _, e := range []ledgerfs.EntryID{0, 1, 2} {
		c.Put(ledgerfs.Position{Ledger: 1, Entry: e}, make([]byte, 100))
	}
	for _, tc := range []struct {
		first, last     ledgerfs.EntryID
		entries, bytes_ int
		want            int
	}{{0, 9, 10, 1000, 3}, {0, 1, 10, 1000, 2}, {0, 9, 2, 1000, 2}, {0, 9, 10, 250, 2}, {0, 9, 10, 1, 1}, {3, 9, 10, 1000, 0}, {2, 9, 10, 1000, 1}} {
		if got := c.Read(nil, 1, tc.first, tc.last, tc.entries, tc.bytes_); len(got) != tc.want {
			t.Errorf("%+v: %d entries", tc, len(got))
		}
	}
	if New(0).Read(nil, 1, 0, 9, 9, 9) != nil {
		t.Error("no cache has entries")
	}
}

func BenchmarkPut(b *testing.B) {
	c := New(64 << 20)
	p := make([]byte, 1024)
	b.ReportAllocs()
	var e ledgerfs.EntryID
	for b.Loop() {
		c.Put(ledgerfs.Position{Ledger: 1, Entry: e}, p)
		e++
	}
}
