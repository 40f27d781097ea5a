package store

import (
	"errors"
	"testing"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
)

// fillUp adds entries to the ledger until one is refused, and returns how many were taken.
func fillUp(t *testing.T, s *Store, id ledgerfs.LedgerID, first ledgerfs.EntryID, flags ledgerfs.AddFlags) ledgerfs.EntryID {
	t.Helper()
	for e := first; ; e++ {
		a := ledgertest.NewAdd(id, e, int64(e+1)*5000, payload(id, e, 5000))
		a.Flags = flags
		err := ledgertest.Await(s, a)
		if errors.Is(err, ledgerfs.ErrNoSpace) {
			return e
		}
		if err != nil {
			t.Fatal(err)
		}
		if e > 1_000_000 {
			t.Fatal("the disk never gets full")
		}
	}
}

func TestFullDiskRefusesOnlyNormalAdds(t *testing.T) {
	t.Parallel()
	m := disk.NewMem()
	m.SetCapacity(16 << 20)
	s := mustOpen(t, Config{FS: m, SegmentSize: 1 << 20, Fatal: func(err error) {
		if !m.Crashed() {
			t.Errorf("fatal: %v", err)
		}
	}})
	for id := ledgerfs.LedgerID(1); id <= 3; id++ {
		install(t, s, id)
	}
	n := fillUp(t, s, 1, 0, 0)
	if n < 1000 {
		t.Fatalf("only %d entries of 5000 bytes fit into 16 MiB", n)
	}
	if sp := s.Space(); sp.Writable {
		t.Fatalf("full and writable: %+v", sp)
	}
	// Acknowledgements, fences, installs and reads go on.
	for e := ledgerfs.EntryID(0); e < 20; e++ {
		a := ledgertest.NewAdd(2, e, int64(e+1)*100, payload(2, e, 100))
		a.Flags = ledgerfs.AddHighPriority
		if err := ledgertest.Await(s, a); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.LastAdd(t.Context(), 3, true); err != nil {
		t.Fatal(err)
	}
	install(t, s, 4)
	check(t, s, 1, n, 5000)
	// High priority, too, leaves room for deletes.
	k := fillUp(t, s, 2, 20, ledgerfs.AddHighPriority)
	check(t, s, 1, n, 5000)
	if err := s.Delete(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	// Writing comes back by itself, into the room that was freed.
	waitFor(t, func() bool { return s.Space().Writable })
	n2 := fillUp(t, s, 4, 0, 0)
	if n2 < n*3/4 {
		t.Fatalf("after the delete %d entries fit, %d before", n2, n)
	}
	check(t, s, 4, n2, 5000)
	m.Crash()
	s.Close()
	s = mustOpen(t, Config{FS: m.CrashImage(disk.SurviveNone, 0)})
	defer s.Close()
	check(t, s, 4, n2, 5000)
	if la, err := s.LastAdd(t.Context(), 2, false); err != nil || la.LastEntry != k-1 {
		t.Fatalf("LastAdd = %+v, %v, want entry %d", la, err, k-1)
	}
	if err := ledgertest.Await(s, ledgertest.NewAdd(1, n, 1, nil)); !errors.Is(err, ledgerfs.ErrDeleted) {
		t.Fatalf("add to a deleted ledger = %v", err)
	}
}

// waitFor waits until tend has done its work; every round of its ends within a second.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 1000 {
		if done() {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatal("waited in vain")
}
