package mledger

import (
	"context"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"pgregory.net/rapid"
)

// fenceOf is a topic of closed ledgers 1, 3, 5, … with that many entries, and an open one with the last number.
func fenceOf(entries ...int) chain.Fence {
	r := &chain.Record{}
	f := chain.Fence{Record: r, Last: chain.None}
	for i, n := range entries {
		id := ledgerfs.LedgerID(2*i + 1)
		r.Ledgers = append(r.Ledgers, chain.Ledger{ID: id, Closed: i < len(entries)-1, Entries: int64(n)})
		if n > 0 {
			f.Last = ledgerfs.Position{Ledger: id, Entry: ledgerfs.EntryID(n - 1)}
		}
	}
	if n := len(entries); n > 0 && entries[n-1] == 0 {
		r.Ledgers[n-1].Entries = 0
	}
	return f
}

func positions(f chain.Fence) []ledgerfs.Position {
	var ps []ledgerfs.Position
	for p, _, ok := f.At(chain.None); ok; p, _, ok = f.At(p.Next()) {
		ps = append(ps, p)
	}
	return ps
}

func TestAcksAgreeWithTheObviousModel(t *testing.T) {
	t.Parallel()
	const batch = 70 // two words; the model follows the first 64 bits only in whole-entry terms
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 6), 1, 4).Draw(t, "sizes")
		f := fenceOf(sizes...)
		all := positions(f)
		model := map[ledgerfs.Position]map[int]bool{} // acknowledged batch indexes
		for _, p := range all {
			model[p] = map[int]bool{}
		}
		whole := func(p ledgerfs.Position) bool { return len(model[p]) == batch }
		ackWhole := func(p ledgerfs.Position) {
			for i := range batch {
				model[p][i] = true
			}
		}
		a := acks{markDelete: chain.None}
		anywhere := rapid.Custom(func(t *rapid.T) ledgerfs.Position {
			return ledgerfs.Position{
				Ledger: ledgerfs.LedgerID(rapid.IntRange(-1, 2*len(sizes)+1).Draw(t, "ledger")),
				Entry:  ledgerfs.EntryID(rapid.IntRange(-1, 7).Draw(t, "entry")),
			}
		})
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			p := anywhere.Draw(t, "position")
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0, 1:
				_, exists := model[p]
				want := exists && !whole(p)
				if got := a.ack(f, p); got != want {
					t.Fatalf("ack %v = %v, want %v", p, got, want)
				}
				if exists {
					ackWhole(p)
				}
			case 2:
				remaining := make([]int64, 2)
				acked := map[int]bool{}
				for i := range batch {
					if rapid.IntRange(0, 2).Draw(t, "bit") == 0 {
						remaining[i/64] |= 1 << (i % 64)
					} else {
						acked[i] = true
					}
				}
				_, exists := model[p]
				before := exists && whole(p)
				got, _ := a.ackBatch(f, p, remaining)
				if exists {
					maps.Copy(model[p], acked)
				}
				if want := exists && !before && whole(p); got != want {
					t.Fatalf("ackBatch %v = %v, want %v", p, got, want)
				}
			case 3:
				a.ackAll(f, p)
				for _, q := range all {
					if !p.Less(q) {
						ackWhole(q)
					}
				}
			}
			backlog, firstUnacked := int64(0), ledgerfs.Position{}
			for _, q := range slices.Backward(all) {
				if !whole(q) {
					backlog++
					firstUnacked = q
				}
				if a.has(q) != whole(q) {
					t.Fatalf("has(%v) = %v", q, a.has(q))
				}
				n := 0
				for _, w := range a.batches[q] {
					n += bits.OnesCount64(uint64(w))
				}
				if want := batch - len(model[q]); want < batch && want > 0 && n != want {
					t.Fatalf("%v: %d indexes remain, want %d", q, n, want)
				}
			}
			if got := a.backlog(f); got != backlog {
				t.Fatalf("backlog %d, want %d: %+v", got, backlog, a)
			}
			if got := f.Next(a.markDelete); backlog > 0 && got != firstUnacked {
				t.Fatalf("first unacked %v, want %v: %+v", got, firstUnacked, a)
			}
			for _, q := range all {
				next := q
				for slices.Contains(all, next) && whole(next) {
					next = f.Next(next)
				}
				if got := a.next(f, q); got != next && (slices.Contains(all, next) || slices.Contains(all, got)) {
					t.Fatalf("next(%v) = %v, want %v", q, got, next)
				}
			}
			var count int64
			for i, r := range a.ranges {
				count += int64(r.Last-r.First) + 1
				if i > 0 && !end(a.ranges[i-1]).Less(start(r)) || !a.markDelete.Less(start(r)) {
					t.Fatalf("ranges out of order: %+v", a)
				}
			}
			if count != a.count {
				t.Fatalf("count %d, want %d", a.count, count)
			}
		}
		// What the whole state says is the same again.
		var b acks
		st := a.state(7)
		b.merge(&st)
		b.absorb(f)
		if fmt.Sprint(a.markDelete, a.ranges, a.count, a.batches) != fmt.Sprint(b.markDelete, b.ranges, b.count, b.batches) {
			t.Fatalf("restored %+v from %+v", b, a)
		}
	})
}

func TestCursorPositions(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	p := w.start()
	l := p.open("a", small)
	_, created, err := l.OpenCursor(ctx, "earliest", Earliest, map[string]string{"k": "v"})
	if err != nil || !created {
		t.Fatal(created, err)
	}
	var ps []ledgerfs.Position
	for i := range 25 {
		ps = append(ps, mustPublish(t, l, fmt.Sprint(i)))
	}
	l.OpenCursor(ctx, "latest", Latest, nil)
	at, _, _ := l.OpenCursor(ctx, "at", At(ps[12]), nil)
	if again, created, err := l.OpenCursor(ctx, "at", Latest, nil); again != at || created || err != nil {
		t.Fatal("opening a cursor that exists makes another")
	}
	check := func(l *Ledger) {
		t.Helper()
		for name, want := range map[string]struct {
			backlog int64
			first   ledgerfs.Position
		}{"earliest": {25, ps[0]}, "latest": {0, l.Next(ps[24])}, "at": {13, ps[12]}} {
			c := l.Cursor(name)
			if c == nil {
				t.Fatalf("no cursor %q", name)
			}
			if c.Backlog() != want.backlog || c.FirstUnacked() != want.first {
				t.Errorf("%s: backlog %d, first %v; want %+v", name, c.Backlog(), c.FirstUnacked(), want)
			}
		}
		if got := l.Cursor("earliest").Properties(); got["k"] != "v" {
			t.Errorf("properties %v", got)
		}
	}
	check(l)
	p.crash()
	p = w.start()
	l = p.open("a", small)
	check(l)
	if err := l.Cursor("earliest").SetProperties(ctx, map[string]string{"k": "w"}); err != nil {
		t.Fatal(err)
	}
	if err := l.DeleteCursor(ctx, "at"); err != nil {
		t.Fatal(err)
	}
	if err := l.Cursor("latest").Reset(ctx, At(ps[20])); err != nil {
		t.Fatal(err)
	}
	p.crash()
	l = w.start().open("a", small)
	if l.Cursor("at") != nil || len(l.Cursors()) != 2 || l.Cursor("earliest").Properties()["k"] != "w" {
		t.Error("the crash undid what was done")
	}
	if c := l.Cursor("latest"); c.Backlog() != 5 || c.FirstUnacked() != ps[20] {
		t.Errorf("after a reset: backlog %d, first %v", c.Backlog(), c.FirstUnacked())
	}
	// A cursor that is made anew knows nothing of its former life.
	c, _, err := l.OpenCursor(ctx, "at", Earliest, nil)
	if err != nil || c.Backlog() != 25 {
		t.Errorf("backlog %d, %v", c.Backlog(), err)
	}
	r := l.NewReaderCursor("reader", At(ps[3]))
	r.Ack(ps[3], nil)
	if r.Backlog() != 21 || r.Durable() || len(l.Cursors()) != 3 {
		t.Errorf("reader's backlog %d", r.Backlog())
	}
}

// What was flushed before a crash is never delivered again; what was not, may be. What was not acknowledged is never
// taken for acknowledged.
func TestFlushedAcknowledgementsSurviveCrashes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		w := newWorld(t, 1)
		p := w.start()
		l := p.open("a", small)
		names := []string{"one", "two", "three"}
		safe := map[string]map[ledgerfs.Position]bool{}
		done := map[string]map[ledgerfs.Position]bool{}
		for _, n := range names {
			if _, _, err := l.OpenCursor(ctx, n, Earliest, nil); err != nil {
				rt.Fatal(err)
			}
			safe[n], done[n] = map[ledgerfs.Position]bool{}, map[ledgerfs.Position]bool{}
		}
		var ps []ledgerfs.Position
		batches := map[string]map[ledgerfs.Position]int64{"one": {}, "two": {}, "three": {}}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			n := rapid.SampledFrom(names).Draw(rt, "cursor")
			c := l.Cursor(n)
			switch rapid.IntRange(0, 9).Draw(rt, "kind") {
			case 0, 1:
				for i := range rapid.IntRange(1, 8).Draw(rt, "publish") {
					ps = append(ps, mustPublish(t, l, fmt.Sprint(i)))
				}
			case 2, 3, 4:
				if len(ps) > 0 {
					p := rapid.SampledFrom(ps).Draw(rt, "ack")
					c.Ack(p, nil)
					done[n][p] = true
				}
			case 5:
				if len(ps) > 0 {
					p := rapid.SampledFrom(ps).Draw(rt, "batch")
					if !done[n][p] {
						rem := int64(0b111)
						if old, ok := batches[n][p]; ok {
							rem = old
						}
						rem &^= 1 << rapid.IntRange(0, 2).Draw(rt, "index")
						c.Ack(p, []int64{rem})
						batches[n][p] = rem
						if rem == 0 {
							done[n][p] = true
						}
					}
				}
			case 6:
				if len(ps) > 0 {
					to := rapid.SampledFrom(ps).Draw(rt, "all")
					c.AckAll(to, nil)
					for _, p := range ps {
						if !to.Less(p) {
							done[n][p] = true
						}
					}
				}
			case 7:
				if err := c.Flush(ctx); err != nil {
					rt.Fatal(err)
				}
				for _, n := range names {
					safe[n] = maps.Clone(done[n])
				}
			case 8:
				clean := rapid.Bool().Draw(rt, "clean")
				if clean {
					if err := p.Close(ctx); err != nil {
						rt.Fatal(err)
					}
					for _, n := range names {
						safe[n] = maps.Clone(done[n])
					}
				}
				p.crash()
				p = w.start()
				l = p.open("a", small)
				for _, n := range names {
					for _, p := range ps {
						got := l.Cursor(n).IsAcked(p)
						if safe[n][p] && !got {
							rt.Fatalf("cursor %s has lost its acknowledgement of %v", n, p)
						}
						if got && !done[n][p] {
							rt.Fatalf("cursor %s has %v, which nobody acknowledged", n, p)
						}
						if got {
							safe[n][p] = true
						}
						if rem := l.Cursor(n).Remaining(p); rem != nil && !got {
							if old, ok := batches[n][p]; !ok || rem[0]&old != old {
								rt.Fatalf("cursor %s has %b of %v remaining, acknowledged but for %b", n, rem, p, old)
							}
							batches[n][p] = rem[0]
						} else {
							delete(batches[n], p)
						}
						if clean && !got && done[n][p] {
							rt.Fatalf("a clean close has lost the acknowledgement of %v", p)
						}
					}
					done[n] = maps.Clone(safe[n])
				}
			case 9:
				if len(ps) > 0 {
					to := rapid.SampledFrom(ps).Draw(rt, "reset")
					if err := c.Reset(ctx, At(to)); err != nil {
						rt.Fatal(err)
					}
					clear(batches[n])
					done[n] = map[ledgerfs.Position]bool{}
					for _, p := range ps {
						if p.Less(to) {
							done[n][p] = true
						}
					}
					for _, n := range names {
						safe[n] = maps.Clone(done[n])
					}
				}
			}
		}
		p.crash()
	})
}

func TestBatchAcknowledgementsSurviveRestart(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	p := w.start()
	l := p.open("a", small)
	c, _, _ := l.OpenCursor(ctx, "sub", Earliest, nil)
	first, second := mustPublish(t, l, "batch of 20"), mustPublish(t, l, "batch of 3")
	c.Ack(first, []int64{1<<20 - 1 - 0b101})
	c.Ack(first, []int64{1<<20 - 1 - 0b10})
	c.AckAll(second, []int64{0b110}) // cumulative: the first entry as a whole, and index 0 of the second
	for range 2 {
		if c.MarkDelete() != first || c.Backlog() != 1 || !slices.Equal(c.Remaining(second), []int64{0b110}) {
			t.Fatalf("%+v, remaining %b", c.Stats(), c.Remaining(second))
		}
		if err := c.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		p.crash()
		p = w.start()
		l = p.open("a", small)
		c = l.Cursor("sub")
	}
	if !c.Ack(second, []int64{}) || c.Backlog() != 0 {
		t.Error("the rest of the batch does not complete the entry")
	}
}

// A long history of acknowledgements is compacted: cursor ledgers are replaced and the old ones deleted.
func TestCursorLedgersAreCompacted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	p := w.start()
	l := p.open("a", Options{})
	c, _, _ := l.OpenCursor(ctx, "sub", Earliest, nil)
	var ps []ledgerfs.Position
	for range 1000 {
		ps = append(ps, mustPublish(t, l, "x"))
	}
	seen := map[ledgerfs.LedgerID]bool{}
	for i := 0; len(seen) < 3; i++ {
		if i > 2000 {
			t.Fatal("cursor ledgers are never replaced")
		}
		// Every second entry, so that nothing merges, and back again.
		for j := 1; j < len(ps); j += 2 {
			c.Ack(ps[j], nil)
		}
		if err := c.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		seen[l.record().CursorLedger] = true
		if len(seen) < 3 {
			if err := c.Reset(ctx, Earliest); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c.Backlog() != 500 {
		t.Fatalf("backlog %d", c.Backlog())
	}
	now := l.record().CursorLedger
	p.crash()
	p = w.start()
	l = p.open("a", Options{})
	if got := l.Cursor("sub").Backlog(); got != 500 {
		t.Errorf("backlog %d after the crash", got)
	}
	if left, err := p.c.Collect(ctx); left > 0 || err != nil {
		t.Fatal(left, err)
	}
	for id := range seen {
		if id != now && len(w.At(0).Entries(id)) > 0 {
			t.Errorf("cursor ledger %d was replaced and is still there", id)
		}
	}
}

func TestAcknowledgementsSurviveFailingBookies(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	p := w.start()
	l := p.open("a", Options{})
	c, _, _ := l.OpenCursor(ctx, "sub", Earliest, nil)
	var ps []ledgerfs.Position
	for range 20 {
		ps = append(ps, mustPublish(t, l, "x"))
	}
	for i, fault := range []func(){
		func() {},
		func() { w.At(0).FailAdds(1, ledgerfs.ErrIO) },
		func() { w.At(0).FailAdds(1, ledgerfs.ErrNoSpace) },
		func() { w.At(0).FailAdds(2, ledgerfs.ErrFenced) },
		func() { w.store.LoseAnswers(3) },
	} {
		fault()
		c.Ack(ps[2*i+1], nil)
		for w.now.Add(maxBackoff); ; w.now.Add(maxBackoff) {
			short, cancel := context.WithTimeout(ctx, 50e6)
			err := c.Flush(short)
			cancel()
			if err == nil {
				break
			}
		}
	}
	p.crash()
	l = w.start().open("a", Options{})
	if got := l.Cursor("sub").Backlog(); got != 15 {
		t.Errorf("backlog %d, want 15: %+v", got, l.Cursor("sub").Stats())
	}
}

// How much a crash costs does not depend on when an acknowledgement comes: the first is written at once, and one that
// was due while another was being written follows right behind it.
func TestAcknowledgementsAreWrittenWhenDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const interval, disk = 50 * time.Millisecond, 80 * time.Millisecond
		w := newWorld(t, 1)
		l := w.start(func(c *Config) { c.FlushInterval = interval }).open("a", Options{})
		c, _, err := l.OpenCursor(t.Context(), "sub", Earliest, nil)
		if err != nil {
			t.Fatal(err)
		}
		var ps []ledgerfs.Position
		for i := range 4 {
			ps = append(ps, mustPublish(t, l, fmt.Sprint(i)))
		}
		w.At(0).Slow(disk)
		durable := func(within time.Duration, what string) {
			t.Helper()
			began := time.Now()
			for c.Stats().Dirty {
				time.Sleep(time.Millisecond)
			}
			if d := time.Since(began); d > within+time.Millisecond {
				t.Errorf("%s is durable after %v, want %v", what, d, within)
			}
		}
		c.AckAll(ps[0], nil)
		durable(2*disk, "the first one") // the ledger is installed, and written to
		c.AckAll(ps[1], nil)
		durable(interval+disk, "a later one")
		c.AckAll(ps[2], nil)
		time.Sleep(interval + time.Millisecond) // it is being written
		c.AckAll(ps[3], nil)
		durable(2*disk-time.Millisecond, "one behind another")
	})
}

func TestIdleCursorIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(Cursor{}); n > 200 {
		t.Errorf("a cursor takes %d bytes", n)
	}
	if n := unsafe.Sizeof(Ledger{}); n > 1000 {
		t.Errorf("a topic takes %d bytes", n)
	}
}

func TestTruncateMovesCursors(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	l := w.start().open("a", small)
	c, _, _ := l.OpenCursor(ctx, "sub", Earliest, nil)
	r := l.NewReaderCursor("reader", Earliest)
	for i := range 35 {
		p := mustPublish(t, l, fmt.Sprint(i))
		if i == 3 {
			r.Ack(p, nil)
		}
		if i%10 == 9 {
			l.Roll(ctx)
		}
	}
	if err := l.Truncate(ctx); err != nil {
		t.Fatal(err)
	}
	n := l.Entries()
	if n >= 35 || c.Backlog() != n || r.Backlog() != n {
		t.Errorf("%d entries, backlogs %d and %d", n, c.Backlog(), r.Backlog())
	}
}

// The acknowledgements that let a ledger go may be lost in a crash when single ones in that ledger were durable already.
func TestLostAcknowledgementsOfTrimmedLedgersDoNotCount(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, 1)
	p := w.start(func(c *Config) { c.FlushInterval = 1 << 40 })
	l := p.open("a", Options{})
	c, _, _ := l.OpenCursor(ctx, "sub", Earliest, nil)
	for i := range 10 {
		pos := mustPublish(t, l, fmt.Sprint(i))
		if i == 5 {
			c.Ack(pos, nil)
		}
	}
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.Roll(ctx); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, l, "after")
	c.AckAll(l.Prev(l.LastConfirmed()), nil)
	if err := l.Trim(ctx); err != nil || l.Entries() != 1 {
		t.Fatal(l.Entries(), err)
	}
	p.crash()
	l = w.start().open("a", Options{})
	if c := l.Cursor("sub"); c.Backlog() != 1 || c.FirstUnacked() != l.LastConfirmed() {
		t.Errorf("%+v", c.Stats())
	}
}
