package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"pgregory.net/rapid"
)

// NewAdd builds an add with its digest. lac and length are what a lone writer would send: the entry
// before, and the given sum.
func NewAdd(id ledgerfs.LedgerID, entry ledgerfs.EntryID, length int64, payload []byte) *ledgerfs.Add {
	a := &ledgerfs.Add{Ledger: id, Entry: entry, LAC: entry - 1, Length: length, Payload: payload}
	a.Digest = ledgerfs.EntryDigest(id, entry, a.LAC, length, payload)
	return a
}

// Await adds to the bookie and waits for the completion, for at most 30 s.
func Await(b ledgerfs.Bookie, a *ledgerfs.Add) error {
	done := make(completer, 1)
	a.Done = done
	b.Add(a)
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		return errors.New("add was never completed")
	}
}

type completer chan error

func (c completer) AddCompleted(_ *ledgerfs.Add, err error) { c <- err }

// Suite checks a bookie against the contract of ledgerfs.Bookie. open is called once per sub-test and
// returns a bookie without ledgers; it closes it through t.Cleanup.
func Suite(t *testing.T, open func(t *testing.T) ledgerfs.Bookie) {
	for _, c := range []struct {
		name string
		test func(*testing.T, ledgerfs.Bookie)
	}{
		{"AddToUnknownLedgerFails", addToUnknown},
		{"AddedEntriesAreRead", addedAreRead},
		{"ReadsAreBounded", readsAreBounded},
		{"NegativeAnswers", negatives},
		{"DuplicatesMustBeIdentical", duplicates},
		{"GapsAreFilledInAnyOrder", gaps},
		{"DamagedAddIsRefused", damagedAdd},
		{"FenceStopsTheWriter", fenceStops},
		{"FenceCreatesUnknownLedger", fenceCreates},
		{"FencingReadFences", fencingRead},
		{"FenceCoversEarlierAdds", fenceCovers},
		{"DeletedStaysDeleted", deletedStays},
		{"CompletionsKeepOrder", completionsKeepOrder},
		{"LargeEntries", largeEntries},
		{"EmptyPayload", emptyPayload},
		{"CancelledContext", cancelled},
		{"BehavesAsTheModel", behavesAsModel},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// failer is what testing and rapid have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

func wantIs(t failer, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s = %v, want %v", what, err, want)
	}
}

func ok(t failer, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func payload(id ledgerfs.LedgerID, e ledgerfs.EntryID, n int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%d:%d,", id, e)), n/4+1)[:n]
}

// fill installs the ledger and adds entries first..last of n bytes each, waiting for all.
func fill(t testing.TB, b ledgerfs.Bookie, id ledgerfs.LedgerID, first, last ledgerfs.EntryID, n int) {
	t.Helper()
	ok(t, "Install", b.Install(t.Context(), id))
	done := make(completer, last-first+1)
	for e := first; e <= last; e++ {
		a := NewAdd(id, e, int64(e+1)*int64(n), payload(id, e, n))
		a.Done = done
		b.Add(a)
	}
	for e := first; e <= last; e++ {
		ok(t, fmt.Sprintf("add %d:%d", id, e), <-done)
	}
}

func readAll(t testing.TB, b ledgerfs.Bookie, id ledgerfs.LedgerID, first ledgerfs.EntryID, n int) []ledgerfs.Entry {
	t.Helper()
	var all []ledgerfs.Entry
	for len(all) < n {
		r, err := b.Read(t.Context(), ledgerfs.ReadRequest{
			Ledger: id, First: first, MaxEntries: n - len(all), MaxBytes: 1 << 20})
		ok(t, fmt.Sprintf("read %d:%d", id, first), err)
		if len(r.Entries) == 0 {
			t.Fatalf("read %d:%d: no entries and no error", id, first)
		}
		for i := range r.Entries {
			ok(t, "verify", r.Entries[i].Verify(id, first))
			first++
		}
		all = append(all, r.Entries...)
	}
	return all
}

func addToUnknown(t *testing.T, b ledgerfs.Bookie) {
	wantIs(t, "Add", Await(b, NewAdd(7, 0, 1, []byte("x"))), ledgerfs.ErrNoLedger)
	ok(t, "Install", b.Install(t.Context(), 7))
	ok(t, "Install again", b.Install(t.Context(), 7))
	ok(t, "Add", Await(b, NewAdd(7, 0, 1, []byte("x"))))
	wantIs(t, "Add", Await(b, NewAdd(8, 0, 1, []byte("x"))), ledgerfs.ErrNoLedger)
}

func addedAreRead(t *testing.T, b ledgerfs.Bookie) {
	for id := ledgerfs.LedgerID(1); id <= 3; id++ {
		fill(t, b, id, 0, 99, 100*int(id))
	}
	for id := ledgerfs.LedgerID(1); id <= 3; id++ {
		for i, e := range readAll(t, b, id, 0, 100) {
			if !bytes.Equal(e.Payload, payload(id, ledgerfs.EntryID(i), 100*int(id))) {
				t.Fatalf("entry %d:%d has other bytes", id, i)
			}
		}
		la, err := b.LastAdd(t.Context(), id, false)
		ok(t, "LastAdd", err)
		if want := (ledgerfs.LastAdd{LastEntry: 99, MaxLAC: 98, Length: 100 * 100 * int64(id)}); la != want {
			t.Fatalf("LastAdd = %+v, want %+v", la, want)
		}
	}
}

func readsAreBounded(t *testing.T, b ledgerfs.Bookie) {
	fill(t, b, 1, 0, 19, 1000)
	for _, c := range []struct{ entries, bytes, want int }{
		{5, 1 << 20, 5}, {100, 1 << 20, 20}, {100, 3000, 3}, {100, 3999, 3}, {100, 1, 1}, {0, 0, 1}, {-1, -1, 1}, {3, 500, 1},
	} {
		r, err := b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 1, First: 0, MaxEntries: c.entries, MaxBytes: c.bytes})
		ok(t, "Read", err)
		// A bookie may return less than the limits allow, but progress, and more than one entry where they fit.
		if len(r.Entries) < 1 || len(r.Entries) > c.want {
			t.Fatalf("Read(max %d entries, %d bytes) returned %d entries, want 1 to %d", c.entries, c.bytes, len(r.Entries), c.want)
		}
		if c.want > 1 && len(r.Entries) == 1 {
			t.Errorf("Read(max %d entries, %d bytes) returned a single entry", c.entries, c.bytes)
		}
		if r.MaxLAC != 18 {
			t.Fatalf("MaxLAC = %d, want 18", r.MaxLAC)
		}
	}
}

func negatives(t *testing.T, b ledgerfs.Bookie) {
	_, err := b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 5, First: 0, MaxEntries: 1, MaxBytes: 1})
	wantIs(t, "Read of an unknown ledger", err, ledgerfs.ErrNoLedger)
	_, err = b.LastAdd(t.Context(), 5, false)
	wantIs(t, "LastAdd of an unknown ledger", err, ledgerfs.ErrNoLedger)
	ok(t, "Install", b.Install(t.Context(), 5))
	_, err = b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 5, First: 0, MaxEntries: 1, MaxBytes: 1})
	wantIs(t, "Read of an empty ledger", err, ledgerfs.ErrNoEntry)
	la, err := b.LastAdd(t.Context(), 5, false)
	ok(t, "LastAdd", err)
	if want := (ledgerfs.LastAdd{LastEntry: ledgerfs.NoEntry, MaxLAC: ledgerfs.NoEntry}); la != want {
		t.Fatalf("LastAdd = %+v, want %+v", la, want)
	}
	fill(t, b, 5, 0, 4, 10)
	_, err = b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 5, First: 5, MaxEntries: 1, MaxBytes: 1})
	wantIs(t, "Read past the end", err, ledgerfs.ErrNoEntry)
	_, err = b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 5, First: -1, MaxEntries: 1, MaxBytes: 1})
	wantIs(t, "Read of entry -1", err, ledgerfs.ErrBadRequest)
}

func duplicates(t *testing.T, b ledgerfs.Bookie) {
	fill(t, b, 1, 0, 9, 10)
	ok(t, "identical add", Await(b, NewAdd(1, 4, 50, payload(1, 4, 10))))
	wantIs(t, "other payload", Await(b, NewAdd(1, 4, 50, []byte("0123456789"))), ledgerfs.ErrBadRequest)
	wantIs(t, "other length", Await(b, NewAdd(1, 4, 51, payload(1, 4, 10))), ledgerfs.ErrBadRequest)
	if e := readAll(t, b, 1, 4, 1)[0]; !bytes.Equal(e.Payload, payload(1, 4, 10)) || e.Length != 50 {
		t.Fatal("the stored entry changed")
	}
	// Both in flight at once.
	done := make(completer, 3)
	for _, p := range []string{"first", "first", "other"} {
		a := NewAdd(1, 10, 200, []byte(p))
		a.Done = done
		b.Add(a)
	}
	ok(t, "first", <-done)
	ok(t, "same again in flight", <-done)
	wantIs(t, "other in flight", <-done, ledgerfs.ErrBadRequest)
}

func gaps(t *testing.T, b ledgerfs.Bookie) {
	ok(t, "Install", b.Install(t.Context(), 1))
	order := []ledgerfs.EntryID{0, 3, 4, 9, 1, 8, 6, 2}
	for _, e := range order {
		a := NewAdd(1, e, int64(e+1)*10, payload(1, e, 10))
		a.Flags = ledgerfs.AddRecovery
		ok(t, "Add", Await(b, a))
	}
	for _, e := range order {
		readAll(t, b, 1, e, 1)
	}
	for _, e := range []ledgerfs.EntryID{5, 7, 10} {
		_, err := b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 1, First: e, MaxEntries: 9, MaxBytes: 1000})
		wantIs(t, fmt.Sprintf("Read(%d)", e), err, ledgerfs.ErrNoEntry)
	}
	r, err := b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 1, First: 3, MaxEntries: 9, MaxBytes: 1000})
	ok(t, "Read", err)
	if len(r.Entries) < 1 || len(r.Entries) > 2 {
		t.Fatalf("Read(3) crossed a gap: %d entries", len(r.Entries))
	}
	la, err := b.LastAdd(t.Context(), 1, false)
	ok(t, "LastAdd", err)
	if la.LastEntry != 9 || la.Length != 100 || la.MaxLAC != 8 {
		t.Fatalf("LastAdd = %+v", la)
	}
}

func damagedAdd(t *testing.T, b ledgerfs.Bookie) {
	ok(t, "Install", b.Install(t.Context(), 1))
	a := NewAdd(1, 0, 4, []byte("good"))
	a.Payload = []byte("gooe")
	wantIs(t, "damaged add", Await(b, a), ledgerfs.ErrCorrupt)
	bad := &ledgerfs.Add{Ledger: 1, Entry: 0, LAC: 0, Length: 1, Payload: []byte("x")}
	bad.Digest = ledgerfs.EntryDigest(1, 0, 0, 1, bad.Payload)
	wantIs(t, "LAC not below the entry", Await(b, bad), ledgerfs.ErrBadRequest)
	neg := &ledgerfs.Add{Ledger: 1, Entry: -1, LAC: -2, Length: 1, Payload: []byte("x")}
	neg.Digest = ledgerfs.EntryDigest(1, -1, -2, 1, neg.Payload)
	wantIs(t, "negative entry", Await(b, neg), ledgerfs.ErrBadRequest)
	_, err := b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 1, First: 0, MaxEntries: 1, MaxBytes: 1})
	wantIs(t, "Read", err, ledgerfs.ErrNoEntry)
}

func fenceStops(t *testing.T, b ledgerfs.Bookie) {
	fill(t, b, 1, 0, 4, 10)
	for range 2 {
		la, err := b.LastAdd(t.Context(), 1, true)
		ok(t, "LastAdd", err)
		if want := (ledgerfs.LastAdd{LastEntry: 4, MaxLAC: 3, Length: 50, Fenced: true}); la != want {
			t.Fatalf("LastAdd = %+v, want %+v", la, want)
		}
	}
	wantIs(t, "add after fence", Await(b, NewAdd(1, 5, 60, payload(1, 5, 10))), ledgerfs.ErrFenced)
	a := NewAdd(1, 5, 60, payload(1, 5, 10))
	a.Flags = ledgerfs.AddRecovery
	ok(t, "recovery add", Await(b, a))
	readAll(t, b, 1, 0, 6)
	ok(t, "Install of a fenced ledger", b.Install(t.Context(), 1))
	wantIs(t, "add after install", Await(b, NewAdd(1, 6, 70, payload(1, 6, 10))), ledgerfs.ErrFenced)
}

func fenceCreates(t *testing.T, b ledgerfs.Bookie) {
	la, err := b.LastAdd(t.Context(), 3, true)
	ok(t, "LastAdd", err)
	if want := (ledgerfs.LastAdd{LastEntry: ledgerfs.NoEntry, MaxLAC: ledgerfs.NoEntry, Fenced: true}); la != want {
		t.Fatalf("LastAdd = %+v, want %+v", la, want)
	}
	wantIs(t, "add", Await(b, NewAdd(3, 0, 1, []byte("x"))), ledgerfs.ErrFenced)
	a := NewAdd(3, 0, 1, []byte("x"))
	a.Flags = ledgerfs.AddRecovery
	ok(t, "recovery add", Await(b, a))
}

func fencingRead(t *testing.T, b ledgerfs.Bookie) {
	fill(t, b, 1, 0, 2, 10)
	_, err := b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 1, First: 3, MaxEntries: 1, MaxBytes: 1, Fence: true})
	wantIs(t, "Read", err, ledgerfs.ErrNoEntry)
	wantIs(t, "add", Await(b, NewAdd(1, 3, 40, payload(1, 3, 10))), ledgerfs.ErrFenced)
	_, err = b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 2, First: 0, MaxEntries: 1, MaxBytes: 1, Fence: true})
	wantIs(t, "Read", err, ledgerfs.ErrNoEntry)
	ok(t, "Install", b.Install(t.Context(), 2))
	wantIs(t, "add", Await(b, NewAdd(2, 0, 40, payload(2, 0, 40))), ledgerfs.ErrFenced)
}

// fenceCovers races a writer with a fence: every add that succeeded is below what the fence reported.
func fenceCovers(t *testing.T, b ledgerfs.Bookie) {
	ok(t, "Install", b.Install(t.Context(), 1))
	const n = 2000
	done := make(completer, n)
	started := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := ledgerfs.EntryID(0); e < n; e++ {
			a := NewAdd(1, e, int64(e+1)*10, payload(1, e, 10))
			a.Done = done
			b.Add(a)
			if e == n/10 {
				close(started)
			}
		}
	})
	<-started
	la, err := b.LastAdd(t.Context(), 1, true)
	ok(t, "LastAdd", err)
	wg.Wait()
	acked := 0
	for range n {
		if err := <-done; err == nil {
			acked++
		} else if !errors.Is(err, ledgerfs.ErrFenced) && !errors.Is(err, ledgerfs.ErrTooManyRequests) {
			t.Fatalf("add: %v", err)
		}
	}
	if acked > int(la.LastEntry)+1 {
		t.Fatalf("%d adds succeeded, the fence reported entry %d last", acked, la.LastEntry)
	}
	if acked > 0 {
		readAll(t, b, 1, 0, acked)
	}
}

func deletedStays(t *testing.T, b ledgerfs.Bookie) {
	fill(t, b, 1, 0, 9, 100)
	fill(t, b, 2, 0, 9, 100)
	ok(t, "Delete", b.Delete(t.Context(), 1))
	ok(t, "Delete again", b.Delete(t.Context(), 1))
	ok(t, "Delete of an unknown ledger", b.Delete(t.Context(), 3))
	for _, id := range []ledgerfs.LedgerID{1, 3} {
		wantIs(t, "Install", b.Install(t.Context(), id), ledgerfs.ErrDeleted)
		wantIs(t, "Add", Await(b, NewAdd(id, 10, 1, []byte("x"))), ledgerfs.ErrDeleted)
		_, err := b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: id, First: 0, MaxEntries: 1, MaxBytes: 1})
		wantIs(t, "Read", err, ledgerfs.ErrDeleted)
		_, err = b.LastAdd(t.Context(), id, false)
		wantIs(t, "LastAdd", err, ledgerfs.ErrDeleted)
		_, err = b.LastAdd(t.Context(), id, true)
		wantIs(t, "fence", err, ledgerfs.ErrDeleted)
	}
	readAll(t, b, 2, 0, 10)
}

type recorder struct {
	mu   sync.Mutex
	got  []ledgerfs.EntryID
	errs map[ledgerfs.EntryID]error
	n    int
	full chan struct{}
}

func (r *recorder) AddCompleted(a *ledgerfs.Add, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, a.Entry)
	if err != nil {
		r.errs[a.Entry] = err
	}
	if len(r.got) == r.n {
		close(r.full)
	}
}

// completionsKeepOrder mixes adds that succeed with duplicates and adds that fail.
func completionsKeepOrder(t *testing.T, b ledgerfs.Bookie) {
	fill(t, b, 1, 0, 19, 50)
	var calls []*ledgerfs.Add
	next := ledgerfs.EntryID(20)
	for i := range 400 {
		switch {
		case i%7 == 3: // stored long ago
			calls = append(calls, NewAdd(1, ledgerfs.EntryID(i%20), int64(i%20+1)*50, payload(1, ledgerfs.EntryID(i%20), 50)))
		case i%7 == 5: // in conflict
			calls = append(calls, NewAdd(1, ledgerfs.EntryID(i%20), 1, []byte("x")))
		default:
			calls = append(calls, NewAdd(1, next, int64(next+1)*50, payload(1, next, 50)))
			next++
		}
	}
	r := &recorder{n: len(calls), full: make(chan struct{}), errs: map[ledgerfs.EntryID]error{}}
	for _, a := range calls {
		a.Done = r
		b.Add(a)
	}
	<-r.full
	for i, e := range r.got {
		if e != calls[i].Entry {
			t.Fatalf("completion %d is of entry %d, want %d", i, e, calls[i].Entry)
		}
	}
	for e, err := range r.errs {
		if e >= 20 {
			t.Fatalf("add of entry %d: %v", e, err)
		}
	}
	readAll(t, b, 1, 0, int(next))
}

func largeEntries(t *testing.T, b ledgerfs.Bookie) {
	ok(t, "Install", b.Install(t.Context(), 1))
	for e, n := range []int{5 << 20, 1, 4095, 4096, 1 << 20, 100_000} {
		id := ledgerfs.EntryID(e)
		ok(t, "Add", Await(b, NewAdd(1, id, int64(e+1), payload(1, id, n))))
	}
	for e, n := range []int{5 << 20, 1, 4095, 4096, 1 << 20, 100_000} {
		id := ledgerfs.EntryID(e)
		if got := readAll(t, b, 1, id, 1)[0]; !bytes.Equal(got.Payload, payload(1, id, n)) {
			t.Fatalf("entry of %d bytes came back with other bytes", n)
		}
	}
}

func emptyPayload(t *testing.T, b ledgerfs.Bookie) {
	ok(t, "Install", b.Install(t.Context(), 1))
	ok(t, "Add", Await(b, NewAdd(1, 0, 0, nil)))
	ok(t, "Add", Await(b, NewAdd(1, 1, 0, []byte{})))
	if es := readAll(t, b, 1, 0, 2); len(es[0].Payload) != 0 || len(es[1].Payload) != 0 {
		t.Fatal("empty entries came back with bytes")
	}
}

func cancelled(t *testing.T, b ledgerfs.Bookie) {
	fill(t, b, 1, 0, 2, 10)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// A cancelled call may succeed or report the cancellation, but neither harms what is stored.
	for _, err := range []error{b.Install(ctx, 2), func() error {
		_, err := b.Read(ctx, ledgerfs.ReadRequest{Ledger: 1, First: 0, MaxEntries: 1, MaxBytes: 1})
		return err
	}(), func() error { _, err := b.LastAdd(ctx, 1, false); return err }()} {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled call = %v", err)
		}
	}
	readAll(t, b, 1, 0, 3)
}

// behavesAsModel runs random calls, one at a time, against a map.
func behavesAsModel(t *testing.T, b ledgerfs.Bookie) {
	type model struct {
		entries map[ledgerfs.EntryID]*ledgerfs.Add
		fenced  bool
		deleted bool
	}
	base := ledgerfs.LedgerID(0) // each run of the property has ledgers of its own
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		base += 10
		ledgers := map[ledgerfs.LedgerID]*model{}
		draw := func() ledgerfs.LedgerID { return base + ledgerfs.LedgerID(rapid.IntRange(0, 3).Draw(t, "ledger")) }
		expect := func(l *model) error {
			switch {
			case l == nil:
				return ledgerfs.ErrNoLedger
			case l.deleted:
				return ledgerfs.ErrDeleted
			}
			return nil
		}
		t.Repeat(map[string]func(*rapid.T){
			"install": func(t *rapid.T) {
				id := draw()
				err := b.Install(ctx, id)
				if l := ledgers[id]; l != nil && l.deleted {
					wantIs(t, "Install", err, ledgerfs.ErrDeleted)
					return
				} else if l == nil {
					ledgers[id] = &model{entries: map[ledgerfs.EntryID]*ledgerfs.Add{}}
				}
				ok(t, "Install", err)
			},
			"add": func(t *rapid.T) {
				id := draw()
				e := ledgerfs.EntryID(rapid.IntRange(0, 12).Draw(t, "entry"))
				n := rapid.SampledFrom([]int{0, 1, 100, 5000}).Draw(t, "size")
				a := NewAdd(id, e, int64(n), payload(id, e, n))
				if rapid.Bool().Draw(t, "recovery") {
					a.Flags = ledgerfs.AddRecovery
				}
				l, err := ledgers[id], Await(b, a)
				if want := expect(l); want != nil {
					wantIs(t, "Add", err, want)
				} else if old := l.entries[e]; l.fenced && a.Flags == 0 {
					wantIs(t, "Add", err, ledgerfs.ErrFenced)
				} else if old != nil && !bytes.Equal(old.Payload, a.Payload) {
					wantIs(t, "Add", err, ledgerfs.ErrBadRequest)
				} else {
					ok(t, "Add", err)
					l.entries[e] = a
				}
			},
			"read": func(t *rapid.T) {
				id := draw()
				first := ledgerfs.EntryID(rapid.IntRange(0, 12).Draw(t, "first"))
				r, err := b.Read(ctx, ledgerfs.ReadRequest{Ledger: id, First: first, MaxEntries: 5, MaxBytes: 6000})
				l := ledgers[id]
				if want := expect(l); want != nil {
					wantIs(t, "Read", err, want)
					return
				}
				if l.entries[first] == nil {
					wantIs(t, "Read", err, ledgerfs.ErrNoEntry)
					return
				}
				ok(t, "Read", err)
				for i := range r.Entries {
					e := first + ledgerfs.EntryID(i)
					ok(t, "Verify", r.Entries[i].Verify(id, e))
					if a := l.entries[e]; a == nil || !bytes.Equal(a.Payload, r.Entries[i].Payload) {
						t.Fatalf("entry %d:%d is not what was added", id, e)
					}
				}
			},
			"last": func(t *rapid.T) {
				id := draw()
				fence := rapid.Bool().Draw(t, "fence")
				la, err := b.LastAdd(ctx, id, fence)
				l := ledgers[id]
				if l == nil && fence {
					l = &model{entries: map[ledgerfs.EntryID]*ledgerfs.Add{}}
					ledgers[id] = l
				}
				if want := expect(l); want != nil {
					wantIs(t, "LastAdd", err, want)
					return
				}
				ok(t, "LastAdd", err)
				l.fenced = l.fenced || fence
				want := ledgerfs.LastAdd{LastEntry: ledgerfs.NoEntry, MaxLAC: ledgerfs.NoEntry, Fenced: l.fenced}
				for e, a := range l.entries {
					if e > want.LastEntry {
						want.LastEntry, want.Length, want.MaxLAC = e, a.Length, a.LAC
					}
				}
				if la != want {
					t.Fatalf("LastAdd = %+v, want %+v", la, want)
				}
			},
			"delete": func(t *rapid.T) {
				if id := draw(); rapid.IntRange(0, 3).Draw(t, "really") == 0 {
					ok(t, "Delete", b.Delete(ctx, id))
					ledgers[id] = &model{deleted: true}
				}
			},
		})
	})
}
