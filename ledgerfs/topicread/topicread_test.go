package topicread_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
	"github.com/daybook/daybook/raftmeta/metatest"
	"pgregory.net/rapid"
)

type world struct {
	store *metatest.Store
	b     *ledgertest.Bookie
	c     *ledger.Client
	f     *mledger.Factory
	l     *mledger.Ledger
	name  topicname.Name
	ps    []ledgerfs.Position
}

func newWorld(t *testing.T, entries int) *world {
	w := &world{store: metatest.New(), b: ledgertest.NewBookie("b")}
	log := slog.New(slog.DiscardHandler)
	w.c = ledger.New(ledger.Config{Store: w.store, Bookies: ledger.Single(w.b.Member(), w.b), Logger: log})
	w.f = mledger.New(mledger.Config{Client: w.c, Store: w.store, Logger: log})
	t.Cleanup(func() {
		w.f.Close(context.Background())
		w.c.Close()
		w.store.Close()
	})
	var err error
	if w.name, err = topicname.Parse("topic"); err != nil {
		t.Fatal(err)
	}
	if w.l, err = w.f.OpenOrCreate(t.Context(), w.name, mledger.Options{MaxEntries: 7, MinRollover: -1, RetainTime: -1, RetainBytes: -1}); err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		w.publish(t, fmt.Sprint(i))
	}
	return w
}

type done chan error

func (d done) AppendCompleted(_ *mledger.Append, err error) { d <- err }

func (w *world) publish(t *testing.T, s string) {
	d := make(done, 1)
	a := mledger.Append{Payload: []byte(s), Messages: 1, Done: d}
	w.l.Append(&a)
	if err := <-d; err != nil {
		t.Fatal(err)
	}
	w.ps = append(w.ps, a.Position)
}

func position(e ledgerfs.Entry) ledgerfs.Position {
	return ledgerfs.Position{Ledger: e.Ledger, Entry: e.Entry}
}

func TestReaderFollowsTheChainUpToTheFence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 50)
	f := w.l.Fence()
	for i := range 10 {
		w.publish(t, fmt.Sprint("after the fence ", i))
	}
	c := topicread.New(w.c)
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.IntRange(0, 60).Draw(t, "from")
		to := rapid.IntRange(from, 60).Draw(t, "to")
		at := func(i int) ledgerfs.Position {
			if i == len(w.ps) {
				return w.ps[i-1].Next()
			}
			return w.ps[i]
		}
		run := topicread.Run{From: at(from), To: at(to)}
		o := topicread.Options{
			BatchEntries: rapid.IntRange(0, 9).Draw(t, "batch"), BatchBytes: rapid.IntRange(0, 100).Draw(t, "bytes"),
			NoReadAhead: rapid.Bool().Draw(t, "no read-ahead"),
		}
		want := w.ps[min(from, 50):min(to, 50)]
		var forth, back, split []ledgerfs.Position
		for e, err := range c.Entries(context.Background(), f, run, o) {
			if err != nil {
				t.Fatal(err)
			}
			forth = append(forth, position(e))
		}
		for e, err := range c.Backwards(context.Background(), f, run, o) {
			if err != nil {
				t.Fatal(err)
			}
			back = append(back, position(e))
		}
		slices.Reverse(back)
		n := rapid.IntRange(1, 8).Draw(t, "splits")
		runs := topicread.Splits(f, run, n)
		least, most := int64(1<<62), int64(0)
		for _, r := range runs {
			k := topicread.Entries(f, r)
			least, most = min(least, k), max(most, k)
			for e, err := range c.Entries(context.Background(), f, r, o) {
				if err != nil {
					t.Fatal(err)
				}
				split = append(split, position(e))
			}
		}
		if len(runs) > n || len(runs) > 0 && (least < 1 || most-least > 1) {
			t.Fatalf("%d splits of %d to %d entries", len(runs), least, most)
		}
		for _, got := range [][]ledgerfs.Position{forth, back, split} {
			if !slices.Equal(got, want) {
				t.Fatalf("got %v\nwant %v", got, want)
			}
		}
		if n := topicread.Entries(f, run); n != int64(len(want)) {
			t.Fatalf("%d entries, want %d", n, len(want))
		}
	})
}

func TestUnreadableEntryIsReportedAndPassed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	bad := w.ps[9]
	w.b.Corrupt(bad.Ledger, bad.Entry)
	f := w.l.Fence()
	c := topicread.New(w.c)
	var got []ledgerfs.Position
	for e, err := range c.Entries(t.Context(), f, topicread.All(f), topicread.Options{}) {
		if ee, ok := errors.AsType[*topicread.EntryError](err); ok {
			if ee.Position != bad || !errors.Is(err, ledgerfs.ErrCorrupt) {
				t.Fatal(err)
			}
			got = append(got, ee.Position)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, position(e))
	}
	if !slices.Equal(got, w.ps) {
		t.Errorf("got %v", got)
	}
}

func TestBookieThatIsDownIsNoLoss(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	f := w.l.Fence()
	r := topicread.New(w.c).Read(f, topicread.All(f), topicread.Options{})
	defer r.Close()
	w.b.Fail(ledgerfs.ErrClosed)
	for range 2 {
		_, err := r.Next(t.Context())
		if _, lost := errors.AsType[*topicread.EntryError](err); lost || !errors.Is(err, ledger.ErrUnreadable) {
			t.Fatal(err)
		}
	}
	w.b.Heal()
	if es, err := r.Next(t.Context()); err != nil || position(es[0]) != w.ps[0] {
		t.Fatal(es, err)
	}
}

func TestStoredFenceEndsWithTheLastClosedLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	src := topicread.Stored(w.store)
	f, err := src.Fence(t.Context(), w.name)
	if err != nil {
		t.Fatal(err)
	}
	if !f.Last.Less(w.ps[19]) {
		t.Errorf("the fence %v includes the open ledger", f.Last)
	}
	if err := w.l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f, err = src.Fence(t.Context(), w.name); err != nil || f.Last != w.ps[19] || f.Entries() != 20 {
		t.Errorf("after a clean close: %v, %v", f.Last, err)
	}
	gone, _ := topicname.Parse("gone")
	if _, err := src.Fence(t.Context(), gone); !errors.Is(err, topicread.ErrNotFound) {
		t.Errorf("no such topic: %v", err)
	}
}

func TestNextGivesUpWithItsContextAndGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	f := w.l.Fence()
	r := topicread.New(w.c).Read(f, topicread.All(f), topicread.Options{BatchEntries: 3})
	defer r.Close()
	if _, err := r.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.b.Hang()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for { // what was read ahead already may still come
		_, err := r.Next(ctx)
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	at := r.Position()
	w.b.Heal()
	es, err := r.Next(t.Context())
	if err != nil || position(es[0]) != f.Next(at.Prev()) {
		t.Fatalf("%v, want the entry at %v: %v", es, at, err)
	}
}

func TestEmptyTopicEndsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	for _, f := range []chain.Fence{w.l.Fence()} {
		if _, err := topicread.New(w.c).Read(f, topicread.All(f), topicread.Options{}).Next(t.Context()); err != io.EOF {
			t.Errorf("%v", err)
		}
		if s := topicread.Splits(f, topicread.All(f), 4); len(s) != 0 {
			t.Errorf("splits %v", s)
		}
	}
}
