package chain

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"pgregory.net/rapid"
)

func full() *Record {
	return &Record{
		Incarnation: Incarnation{1, 2, 3}, Created: 5, State: Terminated, StateSince: 6,
		TerminatedAt: ledgerfs.Position{Ledger: 9, Entry: -1},
		Ledgers: []Ledger{
			{
				ID: 3, Closed: true, FirstIndex: 10, Messages: 20, Entries: 15, Bytes: 1000, Created: 1, ClosedAt: 2,
				Text: [NumViews]Text{{Known: true, Base: 0, Length: 7}, {Known: true, Base: 5}}, RenderVersion: 2,
				TimesKnown: true, LeastPublishTime: 0, GreatestPublishTime: 44,
				Offload: &Offload{Driver: "s3", UUID: [16]byte{4}, Location: map[string]string{"a": "b"}, Complete: true, BookieDeleted: true},
			},
			{ID: 7, FirstIndex: 30, Created: 3},
			{ID: 9, FirstIndex: 30, Created: 4},
		},
		CursorLedger: 8, NextCursorLedger: 11, NextIndex: 30, Properties: map[string]string{"k": "v"}, ReplicatedFrom: "west",
		Range: &KeyRange{Start: 0, End: 1<<32 - 1, Parents: []uint64{1}, Children: []uint64{2, 3}, Segment: 4},
		Epoch: 0, EpochSet: true, Owner: [16]byte{9}, Seq: 12,
	}
}

func TestRecordSurvivesItsStoredForm(t *testing.T) {
	for _, r := range []*Record{{}, full()} {
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("got  %+v\nwant %+v\n%v", got, r, err)
		}
	}
}

func TestRecordsThatBreakTheRulesAreRefused(t *testing.T) {
	for name, change := range map[string]func(r *Record){
		"ids do not ascend":    func(r *Record) { r.Ledgers[1].ID = 3 },
		"id zero":              func(r *Record) { r.Ledgers[0].ID = 0 },
		"open in the middle":   func(r *Record) { r.Ledgers[0].Closed = false },
		"negative entries":     func(r *Record) { r.Ledgers[0].Entries = -1 },
		"text of no length":    func(r *Record) { r.Ledgers[0].Text[0].Length = -1 },
		"index overflow":       func(r *Record) { r.Ledgers[0].FirstIndex = 1<<63 - 1 },
		"state":                func(r *Record) { r.State = 9 },
		"key range":            func(r *Record) { r.Range.Start, r.Range.End = 2, 1 },
		"indexes that overlap": func(r *Record) { r.Ledgers[1].Closed, r.Ledgers[1].FirstIndex = true, 29 },
	} {
		r := full()
		change(r)
		if _, err := r.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
	b, _ := full().Encode()
	if _, err := Decode(append(slices.Clone(b), 0x08, 99)); !errors.Is(err, ErrCorrupt) { // format 99
		t.Errorf("newer format: %v", err)
	}
	if _, err := Decode(nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("no format: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	b, _ := full().Encode()
	f.Add(b)
	f.Add([]byte{})
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatalf("decoded, but not encoded again: %v", err)
		}
		r2, err := Decode(again)
		if err != nil || !reflect.DeepEqual(r.Ledgers, r2.Ledgers) || r.NextIndex != r2.NextIndex {
			t.Fatalf("%+v became %+v: %v", r, r2, err)
		}
	})
}

func FuzzDecodeCursor(f *testing.F) {
	b, _ := (&Cursor{ID: 7, Created: 3, MarkDelete: ledgerfs.Position{Ledger: -1, Entry: -1}, Properties: map[string]string{"a": ""}}).Encode()
	f.Add(b)
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCursor(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if c2, err := DecodeCursor(again); err != nil || c2.ID != c.ID || c2.MarkDelete != c.MarkDelete {
			t.Fatalf("%+v became %+v: %v", c, c2, err)
		}
	})
}

func logSeed() *CursorLog {
	return &CursorLog{Cursors: []CursorState{
		{ID: 1, Reset: true, MarkDelete: ledgerfs.Position{Ledger: 3, Entry: 4}},
		{
			ID: 1 << 63, MarkDelete: ledgerfs.Position{Ledger: -1, Entry: -1},
			Acked:   []Range{{3, 6, 6}, {3, 8, 1000}, {7, 0, 1}},
			Batches: []BatchAck{{ledgerfs.Position{Ledger: 3, Entry: 7}, []int64{-1, 5}}},
		},
	}}
}

func TestCursorLogSurvivesItsStoredForm(t *testing.T) {
	b, err := logSeed().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeCursorLog(b); err != nil || !reflect.DeepEqual(got, logSeed()) {
		t.Errorf("got  %+v\nwant %+v\n%v", got, logSeed(), err)
	}
}

func FuzzDecodeCursorLog(f *testing.F) {
	b, _ := logSeed().Encode()
	f.Add(b)
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeCursorLog(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		for _, c := range l.Cursors {
			for i, r := range c.Acked {
				if r.First < 0 || r.Last < r.First || i > 0 && !(ledgerfs.Position{Ledger: c.Acked[i-1].Ledger, Entry: c.Acked[i-1].Last}).Less(ledgerfs.Position{Ledger: r.Ledger, Entry: r.First}) {
					t.Fatalf("ranges %+v", c.Acked)
				}
			}
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if l2, err := DecodeCursorLog(again); err != nil || !reflect.DeepEqual(l, l2) {
			t.Fatalf("%+v became %+v: %v", l, l2, err)
		}
	})
}

func TestKeysAreTurnedBack(t *testing.T) {
	for _, s := range []string{"persistent://t/n/a", "non-persistent://t/n/ü%x", "a-partition-3"} {
		n, err := topicname.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseKey(Key(n)); err != nil || got != n {
			t.Errorf("%v became %v: %v", n, got, err)
		}
		for _, sub := range []string{"sub", "a/b", "%", "ü"} {
			if got, err := ParseCursorKey(n, CursorKey(n, sub)); err != nil || got != sub {
				t.Errorf("%q became %q: %v", sub, got, err)
			}
		}
	}
}

// The arithmetic of positions agrees with a plain list of them.
func TestFenceArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &Record{}
		f := Fence{Record: r, Last: None}
		var all []ledgerfs.Position
		n := rapid.IntRange(0, 4).Draw(t, "ledgers")
		open := rapid.Bool().Draw(t, "open")
		for i := range n {
			id := ledgerfs.LedgerID(2*i + 1)
			k := rapid.IntRange(0, 4).Draw(t, "entries")
			l := Ledger{ID: id, Closed: i < n-1 || !open}
			if l.Closed {
				l.Entries = int64(k)
			}
			r.Ledgers = append(r.Ledgers, l)
			for e := range k {
				f.Last = ledgerfs.Position{Ledger: id, Entry: ledgerfs.EntryID(e)}
				all = append(all, f.Last)
			}
		}
		anywhere := rapid.Custom(func(t *rapid.T) ledgerfs.Position {
			return ledgerfs.Position{
				Ledger: ledgerfs.LedgerID(rapid.IntRange(-1, 2*n+1).Draw(t, "ledger")),
				Entry:  ledgerfs.EntryID(rapid.IntRange(-1, 5).Draw(t, "entry")),
			}
		})
		p, q := anywhere.Draw(t, "p"), anywhere.Draw(t, "q")
		k := rapid.IntRange(1, 6).Draw(t, "k")
		var after []ledgerfs.Position
		before, count := ledgerfs.Position{}, int64(0)
		for _, x := range all {
			if p.Less(x) {
				after = append(after, x)
				if !q.Less(x) {
					count++
				}
			}
			if x.Less(p) {
				before = x
			}
		}
		if got := f.Count(p, q); got != count {
			t.Fatalf("count(%v, %v] = %d, want %d of %v", p, q, got, count, all)
		}
		if got := f.Entries(); got != int64(len(all)) {
			t.Fatalf("%d entries, want %d", got, len(all))
		}
		if got := f.Exists(p); got != slices.Contains(all, p) {
			t.Fatalf("exists(%v) = %v", p, got)
		}
		next := f.Next(p)
		if len(after) > 0 && next != after[0] || !p.Less(next) {
			t.Fatalf("next(%v) = %v of %v", p, next, after)
		}
		if before != (ledgerfs.Position{}) && f.Prev(p) != before || before == (ledgerfs.Position{}) && f.Prev(p).Entry != -1 {
			t.Fatalf("prev(%v) = %v, want %v", p, f.Prev(p), before)
		}
		want := p
		if len(after) > 0 {
			want = after[min(k, len(after))-1]
		}
		if got := f.Advance(p, int64(k)); got != want {
			t.Fatalf("advance(%v, %d) = %v, want %v", p, k, got, want)
		}
		at, i, ok := f.At(p)
		if slices.Contains(all, p) && at != p || ok != (slices.Contains(all, p) || len(after) > 0) || ok && r.Ledgers[i].ID != at.Ledger {
			t.Fatalf("at(%v) = %v %d %v", p, at, i, ok)
		}
	})
}
