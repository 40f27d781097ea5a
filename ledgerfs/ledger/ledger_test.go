package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/ledgermeta"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/metatest"
	"pgregory.net/rapid"
)

// A world is a metadata store and bookies, with any number of clients.
type world struct {
	*ledgertest.Cluster
	store *metatest.Store
}

func newWorld(bookies int) *world {
	return &world{ledgertest.NewCluster(bookies), metatest.New()}
}

func (w *world) Candidates(context.Context) ([]Candidate, error) {
	var cs []Candidate
	for _, m := range w.Members() {
		cs = append(cs, Candidate{Member: m, Free: 1 << 30})
	}
	return cs, nil
}

func (w *world) Bookie(m ledgerfs.Member) (ledgerfs.Bookie, error) { return w.Dial(m), nil }

// member is the bookie at a place of the ledger's ensemble.
func (w *world) member(wr *Writer, i int) *ledgertest.Bookie {
	return w.Dial(wr.meta.Last().Members[i]).(*ledgertest.Bookie)
}

func (w *world) client() *Client {
	return New(Config{Store: w.store, Bookies: w, Logger: slog.New(slog.DiscardHandler), AddTimeout: 4 * time.Second, CallTimeout: time.Second})
}

type waiter struct {
	Append
	err  error
	done chan struct{}
}

func (a *waiter) AppendCompleted(_ *Append, err error) {
	a.err = err
	close(a.done)
}

func add(w *Writer, payload string) *waiter {
	a := &waiter{done: make(chan struct{})}
	a.Append = Append{Payload: []byte(payload), Done: a}
	w.Append(&a.Append)
	return a
}

func (a *waiter) wait() error {
	<-a.done
	return a.err
}

// bubble runs a test in virtual time, so that hung bookies cost nothing.
func bubble(t *testing.T, bookies int, f func(t *testing.T, w *world, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(bookies)
		defer w.store.Close()
		c := w.client()
		defer c.Close()
		f(t, w, c)
		for i := range bookies {
			w.At(i).Heal()
		}
	})
}

func create(t testing.TB, c *Client, e, qw, qa int) *Writer {
	t.Helper()
	wr, err := c.Create(t.Context(), Options{Ensemble: e, WriteQuorum: qw, AckQuorum: qa})
	if err == nil {
		err = wr.Install(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return wr
}

func contents(t testing.TB, r *Reader) []string {
	t.Helper()
	var out []string
	last := r.Info().LastEntry
	for next := ledgerfs.EntryID(0); next <= last; {
		es, err := r.Read(t.Context(), nil, next, last, 100, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			out = append(out, string(e.Payload))
		}
		next += ledgerfs.EntryID(len(es))
	}
	return out
}

func recovered(t testing.TB, c *Client, id ledgerfs.LedgerID) []string {
	t.Helper()
	r, err := c.Recover(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if r.Info().State != StateClosed {
		t.Fatalf("recovered ledger is %v", r.Info().State)
	}
	return contents(t, r)
}

func TestClosedLedgerHoldsWhatWasAcknowledged(t *testing.T) {
	for _, q := range [][3]int{{1, 1, 1}, {2, 2, 2}, {3, 3, 2}, {5, 3, 2}, {5, 2, 1}} {
		bubble(t, 5, func(t *testing.T, w *world, c *Client) {
			wr := create(t, c, q[0], q[1], q[2])
			var want []string
			var as []*waiter
			for i := range 300 {
				as = append(as, add(wr, fmt.Sprint("entry ", i)))
				want = append(want, fmt.Sprint("entry ", i))
			}
			for i, a := range as {
				if err := a.wait(); err != nil || a.Entry != ledgerfs.EntryID(i) {
					t.Fatalf("append %d: entry %d, %v", i, a.Entry, err)
				}
			}
			info, err := wr.Close(t.Context())
			if err != nil || info.LastEntry != 299 || info.Length != int64(len(fmt.Sprint(want))-301) {
				t.Fatalf("closed: %+v, %v", info, err)
			}
			if err := add(wr, "late").wait(); !errors.Is(err, ErrClosed) || !IsDefinite(err) {
				t.Errorf("append after close: %v", err)
			}
			r, err := c.Open(t.Context(), wr.ID())
			if err != nil {
				t.Fatal(err)
			}
			if got := contents(t, r); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%v: got %v", q, got)
			}
			if got := recovered(t, c, wr.ID()); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%v: recovered %v", q, got)
			}
		})
	}
}

func TestEmptyLedgerIsRecoveredEmpty(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, c *Client) {
		wr, err := c.Create(t.Context(), Options{}) // never installed
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Recover(t.Context(), wr.ID())
		if err != nil || r.Info().LastEntry != ledgerfs.NoEntry || r.Info().Length != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		if err := wr.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := add(wr, "late").wait(); !errors.Is(err, ErrFenced) {
			t.Fatalf("append to a recovered ledger: %v", err)
		}
	})
}

func TestRecoveryFencesALivingWriter(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 3, 3, 2)
		for i := range 3 {
			if err := add(wr, fmt.Sprint(i)).wait(); err != nil {
				t.Fatal(err)
			}
		}
		other := w.client()
		defer other.Close()
		if got := recovered(t, other, wr.ID()); fmt.Sprint(got) != "[0 1 2]" {
			t.Fatalf("recovered %v", got)
		}
		err := add(wr, "3").wait()
		if !errors.Is(err, ErrFenced) || IsDefinite(err) {
			t.Fatalf("append after the fence: %v", err)
		}
		if _, err := wr.Close(t.Context()); !errors.Is(err, ErrFenced) {
			t.Fatalf("close after the fence: %v", err)
		}
	})
}

func TestWriterThatLosesTheRaceToCloseLearnsIt(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 1, 1, 1)
		add(wr, "0").wait()
		recovered(t, c, wr.ID())
		// The other one has closed it at the very same entry: no harm done.
		if _, err := wr.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLostAnswerToCloseIsNoFailure(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 1, 1, 1)
		add(wr, "0").wait()
		w.store.LoseAnswers(1)
		if info, err := wr.Close(t.Context()); err != nil || info.State != StateClosed {
			t.Fatalf("%+v, %v", info, err)
		}
	})
}

// Storage defect 1: after a negative answer to a recovery's read, a member that was not fenced yet could still take the
// entry and so complete its ack quorum: the ledger was closed before an acknowledged entry. Reads fence.
func TestNegativeRecoveryReadKeepsTheEntryFromBeingAcknowledged(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 3, 3, 2)
		if err := add(wr, "0").wait(); err != nil {
			t.Fatal(err)
		}
		// Entry 1 is stored by a, lost on the way to b, and still under way to c.
		a, b, late := w.member(wr, 0), w.member(wr, 1), &lateBookie{Bookie: w.member(wr, 2)}
		wr.bookies[2] = late
		b.DropAdds()
		one := add(wr, "1")
		synctest.Wait()
		b.Heal()
		// The recovery's fence reaches a and b, which is enough; its reads reach b and c.
		other := w.client()
		defer other.Close()
		other.cfg.Bookies = &deaf{w, map[ledgerfs.BookieID]deafTo{
			a.Member().Bookie: {read: true}, late.Bookie.(*ledgertest.Bookie).Member().Bookie: {lastAdd: true},
		}}
		r, err := other.Recover(t.Context(), wr.ID())
		if err != nil {
			t.Fatal(err)
		}
		late.arrive()
		synctest.Wait()
		wr.Kill(ErrClosed)
		if err := one.wait(); err == nil && r.Info().LastEntry < 1 {
			t.Fatal("entry 1 was acknowledged after the ledger was closed before it")
		}
		if r.Info().LastEntry != 0 {
			t.Fatalf("closed at %d", r.Info().LastEntry)
		}
	})
}

// A lateBookie holds the adds back until arrive.
type lateBookie struct {
	ledgerfs.Bookie
	held []*ledgerfs.Add
}

func (b *lateBookie) Add(a *ledgerfs.Add) { b.held = append(b.held, a) }

func (b *lateBookie) arrive() {
	for _, a := range b.held {
		b.Bookie.Add(a)
	}
}

// deaf is the bookies of a world, some of which do not hear some calls.
type deaf struct {
	*world
	to map[ledgerfs.BookieID]deafTo
}

type deafTo struct{ read, lastAdd bool }

func (d *deaf) Bookie(m ledgerfs.Member) (ledgerfs.Bookie, error) {
	b, err := d.world.Bookie(m)
	return &deafBookie{b, d.to[m.Bookie]}, err
}

type deafBookie struct {
	ledgerfs.Bookie
	to deafTo
}

func (b *deafBookie) Read(ctx context.Context, req ledgerfs.ReadRequest) (ledgerfs.ReadResponse, error) {
	if b.to.read {
		<-ctx.Done()
		return ledgerfs.ReadResponse{}, ctx.Err()
	}
	return b.Bookie.Read(ctx, req)
}

func (b *deafBookie) LastAdd(ctx context.Context, id ledgerfs.LedgerID, fence bool) (ledgerfs.LastAdd, error) {
	if b.to.lastAdd {
		<-ctx.Done()
		return ledgerfs.LastAdd{}, ctx.Err()
	}
	return b.Bookie.LastAdd(ctx, id, fence)
}

// Storage defect 2: recovery must not start before the last fragment, whatever the members say they know.
func TestRecoveryStartsAtTheLastFragment(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 1, 1, 1)
		// A ledger whose second fragment, on the same bookie, has nothing yet.
		meta := *wr.meta
		meta.Fragments = append([]ledgermeta.Fragment{}, meta.Fragments[0], ledgermeta.Fragment{First: 5, LengthBefore: 77, Members: meta.Fragments[0].Members})
		b, err := meta.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Commit(t.Context(), raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put(ledgermeta.Key(wr.ID()), b)}}); err != nil {
			t.Fatal(err)
		}
		r, err := c.Recover(t.Context(), wr.ID())
		if err != nil || r.Info().LastEntry != 4 || r.Info().Length != 77 {
			t.Fatalf("%+v, %v", r.Info(), err)
		}
	})
}

// Storage defect 3: one hung member does not hold up recovery.
func TestHungMemberDoesNotHoldUpRecovery(t *testing.T) {
	for hung := range 3 {
		bubble(t, 3, func(t *testing.T, w *world, c *Client) {
			wr := create(t, c, 3, 3, 2)
			for i := range 5 {
				if err := add(wr, fmt.Sprint(i)).wait(); err != nil {
					t.Fatal(err)
				}
			}
			w.member(wr, hung).Hang()
			begin := time.Now()
			r, err := c.Recover(t.Context(), wr.ID())
			if err != nil || r.Info().LastEntry != 4 {
				t.Fatalf("recovered %+v, %v", r, err)
			}
			if d := time.Since(begin); d > 0 {
				t.Errorf("recovery waited %v for the hung member", d)
			}
		})
	}
}

// Storage defect 4: an I/O error is not "no such entry". Recovery that cannot tell fails and closes nothing.
func TestUnreadableEntryNeverTruncates(t *testing.T) {
	for name, fault := range map[string]func(w *world, wr *Writer){
		"corrupt": func(w *world, wr *Writer) {
			for i := range 3 {
				w.member(wr, i).Corrupt(wr.ID(), 2)
			}
		},
		"down": func(w *world, wr *Writer) {
			w.member(wr, 1).Fail(ledgerfs.ErrIO)
			w.member(wr, 2).Fail(ledgerfs.ErrIO)
		},
		"hung": func(w *world, wr *Writer) {
			w.member(wr, 0).Hang()
			w.member(wr, 1).Hang()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 3, func(t *testing.T, w *world, c *Client) {
				wr := create(t, c, 3, 3, 2)
				for i := range 4 {
					if err := add(wr, fmt.Sprint(i)).wait(); err != nil {
						t.Fatal(err)
					}
				}
				fault(w, wr)
				if r, err := c.Recover(t.Context(), wr.ID()); !errors.Is(err, ErrRecovery) {
					t.Fatalf("%+v, %v", r, err)
				}
				info, err := c.Info(t.Context(), wr.ID())
				if err != nil || info.State != StateInRecovery {
					t.Fatalf("%+v, %v", info, err)
				}
				if name != "corrupt" {
					for i := range 3 {
						w.member(wr, i).Heal()
					}
					if got := recovered(t, c, wr.ID()); len(got) != 4 {
						t.Fatalf("recovered %v", got)
					}
				}
			})
		})
	}
}

// An entry that members know as acknowledged and that is gone is damage, not the end of the ledger.
func TestAcknowledgedEntryThatIsGoneFailsRecovery(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 1, 1, 1)
		for i := range 3 {
			add(wr, fmt.Sprint(i)).wait()
		}
		w.At(0).Lose(wr.ID(), 1)
		if _, err := c.Recover(t.Context(), wr.ID()); !errors.Is(err, ErrRecovery) {
			t.Fatal(err)
		}
	})
}

// Storage defect 5: a bookie that comes back empty under its old name answers for another life of its storage.
func TestWipedBookieIsNotAMember(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 3, 3, 2)
		if err := add(wr, "0").wait(); err != nil {
			t.Fatal(err)
		}
		w.Wipe(0)
		w.Wipe(1)
		if err := add(wr, "1").wait(); err == nil {
			t.Fatal("acknowledged by wiped members")
		}
		if _, err := c.Recover(t.Context(), wr.ID()); !errors.Is(err, ErrRecovery) {
			t.Fatalf("recovery believes wiped members: %v", err)
		}
	})
}

func TestRecoveryCopiesToAnAckQuorum(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 3, 3, 2)
		w.member(wr, 1).DropAdds()
		w.member(wr, 2).DropAdds()
		a := add(wr, "only on one")
		synctest.Wait()
		w.member(wr, 1).Heal()
		w.member(wr, 2).Heal()
		if got := recovered(t, c, wr.ID()); len(got) == 1 {
			n := 0
			for i := range 3 {
				n += len(w.member(wr, i).Entries(wr.ID()))
			}
			if n < 2 {
				t.Errorf("the entry is on %d members", n)
			}
		}
		if a.wait() == nil {
			t.Error("acknowledged by one")
		}
	})
}

func TestHungBookieKillsTheWriterInTime(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 3, 3, 2)
		w.member(wr, 0).Hang()
		if err := add(wr, "tolerated").wait(); err != nil {
			t.Fatal(err)
		}
		w.member(wr, 1).Hang()
		begin := time.Now()
		if err := add(wr, "too much").wait(); !errors.Is(err, ErrTimeout) || IsDefinite(err) {
			t.Fatal(err)
		}
		if d := time.Since(begin); d < 4*time.Second || d > 6*time.Second {
			t.Errorf("gave up after %v", d)
		}
		if wr.Alive() {
			t.Error("the writer lives on")
		}
	})
}

func TestRefusalsRewindTheWriter(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 3, 3, 2)
		add(wr, "0").wait()
		for i := range 3 {
			w.member(wr, i).Full()
		}
		var as []*waiter
		for range 5 {
			as = append(as, add(wr, "refused"))
		}
		for _, a := range as {
			if err := a.wait(); !errors.Is(err, ErrRefused) || !errors.Is(err, ledgerfs.ErrNoSpace) || !IsDefinite(err) {
				t.Fatal(err)
			}
		}
		for i := range 3 {
			w.member(wr, i).Heal()
		}
		a := add(wr, "1")
		if err := a.wait(); err != nil || a.Entry != 1 {
			t.Fatalf("entry %d, %v", a.Entry, err)
		}
		if _, err := wr.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A caller who counts entries is refused, in its turn, where its count is wrong; the writer goes on.
func TestAppendAtAnotherEntryIsRefused(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 3, 3, 2)
		at := func(entry ledgerfs.EntryID) *waiter {
			a := &waiter{done: make(chan struct{})}
			a.Append = Append{Payload: []byte("x"), Done: a}
			wr.AppendAt(&a.Append, entry)
			return a
		}
		for _, busy := range []bool{false, true} {
			next := wr.LastConfirmed() + 1
			for i := range 3 {
				w.member(wr, i).Hang()
			}
			var first *waiter
			if busy {
				first = at(next)
				next++
			}
			wrong, behind := at(next+1), (*waiter)(nil)
			if busy {
				behind = at(next) // right, and behind the wrong one
			}
			for i := range 3 {
				w.member(wr, i).Heal()
			}
			if busy {
				if err := first.wait(); err != nil {
					t.Fatal(err)
				}
				if err := behind.wait(); !errors.Is(err, ErrRefused) || !IsDefinite(err) {
					t.Fatalf("behind a refused append: %v", err)
				}
			}
			if err := wrong.wait(); !errors.Is(err, ErrRefused) || !IsDefinite(err) {
				t.Fatalf("append at a wrong entry: %v", err)
			}
			if a := at(next); a.wait() != nil || a.Entry != next {
				t.Fatalf("entry %d, want %d: %v", a.Entry, next, a.err)
			}
		}
		if _, err := wr.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPartialRefusalIsUnknown(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 3, 3, 2)
		w.member(wr, 0).Full()
		w.member(wr, 2).Full()
		if err := add(wr, "on one").wait(); err == nil || IsDefinite(err) {
			t.Fatal(err)
		}
		if wr.Alive() {
			t.Error("the writer lives on, though an entry is stored somewhere")
		}
	})
}

func TestDeleteRemovesEntriesAndMetadata(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 3, 2, 2)
		for i := range 10 {
			add(wr, fmt.Sprint(i)).wait()
		}
		wr.Close(t.Context())
		w.member(wr, 1).Fail(ledgerfs.ErrIO)
		if err := c.Delete(t.Context(), wr.ID()); err == nil {
			t.Fatal("deleted while a member is down")
		}
		if _, err := c.Open(t.Context(), wr.ID()); err != nil {
			t.Fatal("forgotten while a member is down")
		}
		w.member(wr, 1).Heal()
		for range 2 {
			if err := c.Delete(t.Context(), wr.ID()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Open(t.Context(), wr.ID()); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		for i := range 3 {
			if n := len(w.At(i).Entries(wr.ID())); n > 0 {
				t.Errorf("member %d holds %d entries", i, n)
			}
		}
	})
}

func TestReadGoesToAnotherMemberOnFailure(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, c *Client) {
		wr := create(t, c, 3, 3, 2)
		for i := range 20 {
			add(wr, fmt.Sprint(i)).wait()
		}
		wr.Close(t.Context())
		r, _ := c.Open(t.Context(), wr.ID())
		w.member(wr, 0).Hang()
		w.member(wr, 1).Corrupt(wr.ID(), 7)
		w.member(wr, 2).Corrupt(wr.ID(), 13)
		if got := contents(t, r); len(got) != 20 {
			t.Fatalf("read %v", got)
		}
		w.member(wr, 1).Corrupt(wr.ID(), 13)
		w.member(wr, 0).Fail(ledgerfs.ErrIO)
		w.member(wr, 0).Heal()
		w.member(wr, 0).Corrupt(wr.ID(), 13)
		_, err := r.Read(t.Context(), nil, 13, 19, 1, 1)
		if !errors.Is(err, ErrUnreadable) || !errors.Is(err, ledgerfs.ErrCorrupt) {
			t.Fatal(err)
		}
		if es, err := r.Read(t.Context(), nil, 10, 19, 100, 1000); err != nil || len(es) != 3 {
			t.Fatalf("%d entries before the hole, %v", len(es), err)
		}
	})
}

func TestReadDoesNotWaitLongForAHungMember(t *testing.T) {
	for hung := range 3 {
		bubble(t, 3, func(t *testing.T, w *world, c *Client) {
			wr := create(t, c, 3, 3, 2)
			for i := range 20 {
				add(wr, fmt.Sprint(i)).wait()
			}
			w.member(wr, hung).Hang()
			begin := time.Now()
			if _, err := wr.Reader().Read(t.Context(), nil, 0, 19, 20, 1000); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(begin); d > hedgeDelay {
				t.Errorf("waited %v", d)
			}
		})
	}
}

func TestNotEnoughBookies(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, c *Client) {
		if _, err := c.Create(t.Context(), Options{Ensemble: 3, WriteQuorum: 2, AckQuorum: 2}); !errors.Is(err, ErrNoBookies) {
			t.Fatal(err)
		}
	})
}

func TestCreateJoinsOneTransaction(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, c *Client) {
		join := func(cond raftmeta.Cond) func(ledgerfs.LedgerID) ([]raftmeta.Cond, []raftmeta.Op, error) {
			return func(id ledgerfs.LedgerID) ([]raftmeta.Cond, []raftmeta.Op, error) {
				return []raftmeta.Cond{cond}, []raftmeta.Op{raftmeta.Put("list", fmt.Append(nil, id))}, nil
			}
		}
		if _, err := c.Create(t.Context(), Options{Join: join(raftmeta.Present("list"))}); !errors.Is(err, ErrConflict) {
			t.Fatal(err)
		}
		if items, _, _ := w.store.Range(t.Context(), ledgermeta.Prefix, raftmeta.PrefixEnd(ledgermeta.Prefix), 0); len(items) > 0 {
			t.Fatal("a ledger exists that nobody refers to")
		}
		if wr, err := c.Create(t.Context(), Options{After: 1000}); err == nil {
			t.Fatalf("ledger %d, though ledger 1000 exists", wr.ID())
		}
		w.store.LoseAnswers(2) // of the sequence and of the creation
		wr, err := c.Create(t.Context(), Options{Join: join(raftmeta.Absent("list"))})
		if err != nil {
			t.Fatal(err)
		}
		it, err := w.store.Get(t.Context(), "list")
		if err != nil || it.Mod != wr.Revision() || string(it.Value) != fmt.Sprint(wr.ID()) {
			t.Fatalf("%+v %v, revision %d", it, err, wr.Revision())
		}
	})
}

// Whatever the members do, in whatever order they answer, recovery by one or two clients at once keeps every
// acknowledged entry, and all that recover agree.
func TestRecoveryKeepsAcknowledgedEntriesUnderFaults(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := rapid.IntRange(1, 4).Draw(rt, "ensemble")
		qw := rapid.IntRange(1, e).Draw(rt, "write")
		qa := rapid.IntRange(1, qw).Draw(rt, "ack")
		type step struct{ kind, member int }
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{rapid.IntRange(0, 9).Draw(rt, "kind"), rapid.IntRange(0, e-1).Draw(rt, "member")}
		}), 1, 40).Draw(rt, "steps")
		recoverers := rapid.IntRange(1, 2).Draw(rt, "recoverers")
		healed := rapid.IntRange(0, 1<<e-1).Draw(rt, "healed")
		bubble(t, e, func(t *testing.T, w *world, c *Client) {
			wr := create(t, c, e, qw, qa)
			var as []*waiter
			for _, s := range steps {
				b := w.member(wr, s.member)
				switch s.kind {
				case 0:
					b.Hang()
				case 1:
					b.DropAdds()
				case 2:
					b.DropReplies()
				case 3:
					b.Heal()
				case 4:
					b.FailAdds(1, ledgerfs.ErrIO)
				case 5:
					b.FailAdds(1, ledgerfs.ErrNoSpace)
				case 6:
					synctest.Wait()
				default:
					as = append(as, add(wr, fmt.Sprint(len(as))))
				}
			}
			for i := range e {
				if healed&(1<<i) != 0 {
					w.member(wr, i).Heal()
				}
			}
			results := make([][]string, recoverers)
			errs := make([]error, recoverers)
			var wg sync.WaitGroup
			for i := range recoverers {
				wg.Go(func() {
					rc := w.client()
					defer rc.Close()
					var r *Reader
					if r, errs[i] = rc.Recover(t.Context(), wr.ID()); errs[i] != nil {
						for m := range e { // with all members back it must work
							w.member(wr, m).Heal()
						}
						if r, errs[i] = rc.Recover(t.Context(), wr.ID()); errs[i] != nil {
							return
						}
					}
					results[i] = contents(t, r)
				})
			}
			wg.Wait()
			for i := range e {
				w.member(wr, i).Heal()
			}
			var acked []string
			for i, a := range as {
				if a.wait() == nil {
					acked = append(acked, fmt.Sprint(i))
				}
			}
			for i, got := range results {
				if errs[i] != nil {
					rt.Fatalf("recovery with all members back: %v", errs[i])
				}
				if fmt.Sprint(got) != fmt.Sprint(results[0]) {
					rt.Fatalf("recoverers disagree: %v and %v", got, results[0])
				}
				at := 0
				for _, s := range got {
					if at < len(acked) && acked[at] == s {
						at++
					}
				}
				if at < len(acked) {
					rt.Fatalf("acknowledged %v, recovered %v", acked, got)
				}
			}
		})
	})
}
