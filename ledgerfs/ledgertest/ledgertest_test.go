package ledgertest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/ledgerfs"
)

func TestFakePassesSuite(t *testing.T) {
	Suite(t, func(t *testing.T) ledgerfs.Bookie { return NewBookie("b") })
}

func TestHangHoldsUntilHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBookie("b")
		ok(t, "Install", b.Install(t.Context(), 1))
		b.Hang()
		done := make(completer, 2)
		a := NewAdd(1, 0, 1, []byte("x"))
		a.Done = done
		b.Add(a)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.LastAdd(ctx, 1, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("LastAdd = %v, want the deadline", err)
		}
		synctest.Wait()
		if len(done) != 0 {
			t.Fatal("a hanging bookie completed an add")
		}
		b.Heal()
		ok(t, "held add", <-done)
		readAll(t, b, 1, 0, 1)
	})
}

func TestWipedBookieAnswersIncarnation(t *testing.T) {
	c := NewCluster(2)
	old := c.Members()[1]
	fill(t, c.At(1), 1, 0, 0, 1)
	b := c.At(1)
	fresh := c.Wipe(1)
	if fresh.Member() == old || fresh.Member().Bookie != old.Bookie {
		t.Fatalf("wiped %v came back as %v", old, fresh.Member())
	}
	for _, x := range []ledgerfs.Bookie{b, c.Dial(old)} {
		wantIs(t, "Add", Await(x, NewAdd(1, 1, 1, []byte("x"))), ledgerfs.ErrIncarnation)
		_, err := x.LastAdd(t.Context(), 1, true)
		wantIs(t, "LastAdd", err, ledgerfs.ErrIncarnation)
	}
	_, err := c.Dial(fresh.Member()).LastAdd(t.Context(), 1, false)
	wantIs(t, "LastAdd", err, ledgerfs.ErrNoLedger)
}

func TestFaults(t *testing.T) {
	b := NewBookie("b")
	fill(t, b, 1, 0, 3, 10)
	b.Fail(ledgerfs.ErrIO)
	wantIs(t, "Add", Await(b, NewAdd(1, 4, 1, nil)), ledgerfs.ErrIO)
	b.Heal()
	b.FailAdds(1, ledgerfs.ErrIO)
	wantIs(t, "Add", Await(b, NewAdd(1, 4, 1, nil)), ledgerfs.ErrIO)
	ok(t, "Add", Await(b, NewAdd(1, 4, 1, nil)))
	b.Full()
	wantIs(t, "Add", Await(b, NewAdd(1, 5, 1, nil)), ledgerfs.ErrNoSpace)
	a := NewAdd(1, 5, 1, nil)
	a.Flags = ledgerfs.AddHighPriority
	ok(t, "high-priority add", Await(b, a))
	b.Heal()
	b.Corrupt(1, 2)
	_, err := b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 1, First: 2, MaxEntries: 1, MaxBytes: 1})
	wantIs(t, "Read", err, ledgerfs.ErrCorrupt)
	r, err := b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 1, First: 0, MaxEntries: 9, MaxBytes: 1000})
	if err != nil || len(r.Entries) != 2 {
		t.Fatalf("Read up to the damage = %d entries, %v", len(r.Entries), err)
	}
	b.DropReplies()
	a = NewAdd(1, 6, 1, nil)
	a.Done = make(completer, 1)
	b.Add(a)
	b.Heal()
	readAll(t, b, 1, 6, 1)
}
