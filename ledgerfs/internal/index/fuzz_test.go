package index

import (
	"errors"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/segment"
)

func FuzzRecords(f *testing.F) {
	s := Segment{Size: 64 << 20, End: 8192, First: segment.Chain{Seq: 1, CRC: 7}, Last: segment.Chain{Seq: 9, CRC: 8}, LiveRuns: 3, LiveBytes: 1 << 20}
	f.Add(make([]byte, 25), s.encode())
	f.Add(make([]byte, 25), appendFields(nil, 0, 1, 4096))
	f.Add(make([]byte, 25), appendFields(nil, 0, 1<<40, 4096))
	f.Add([]byte{}, []byte{0x80})
	f.Fuzz(func(t *testing.T, k, v []byte) {
		if s, err := decodeSegment(3, v); err == nil {
			if again, err := decodeSegment(3, s.encode()); err != nil || again != s {
				t.Fatalf("%+v became %+v, %v", s, again, err)
			}
		} else if !errors.Is(err, segment.ErrFormat) {
			t.Fatal(err)
		}
		if _, err := decodeLedger(ledgerfs.LedgerID(7), v); err != nil && !errors.Is(err, segment.ErrFormat) {
			t.Fatal(err)
		}
		r, _, err := decodeRun(k, v)
		if err != nil {
			if !errors.Is(err, segment.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		if r.Count < 1 || r.Count > segment.RunEntries {
			t.Fatalf("run of %d entries", r.Count)
		}
		next := r.First
		r.Places(r.First, func(e ledgerfs.EntryID, _ int64, payload int) bool {
			if e != next || e > r.Last() || payload < 0 || payload > segment.MaxPayload {
				t.Fatalf("entry %d of %d bytes, want entry %d of a run to %d", e, payload, next, r.Last())
			}
			next++
			return true
		})
	})
}
