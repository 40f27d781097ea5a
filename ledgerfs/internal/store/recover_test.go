package store

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
)

func payload(id ledgerfs.LedgerID, e ledgerfs.EntryID, n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%d:%d,", id, e), n/4+1)[:n]
}

func add(t testing.TB, s *Store, id ledgerfs.LedgerID, e ledgerfs.EntryID, n int) {
	t.Helper()
	if err := ledgertest.Await(s, ledgertest.NewAdd(id, e, int64(e+1)*int64(n), payload(id, e, n))); err != nil {
		t.Fatal(err)
	}
}

func install(t testing.TB, s *Store, id ledgerfs.LedgerID) {
	t.Helper()
	if err := s.Install(context.Background(), id); err != nil {
		t.Fatal(err)
	}
}

// check reads entries one by one and all together.
func check(t testing.TB, s *Store, id ledgerfs.LedgerID, n ledgerfs.EntryID, size int) {
	t.Helper()
	for e := ledgerfs.EntryID(0); e < n; {
		r, err := s.Read(context.Background(), ledgerfs.ReadRequest{Ledger: id, First: e, MaxEntries: 1000, MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Entries {
			if err := r.Entries[i].Verify(id, e); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(r.Entries[i].Payload, payload(id, e, size)) {
				t.Fatalf("%d:%d has other bytes", id, e)
			}
			e++
		}
	}
}

func TestSurvivesRestarts(t *testing.T) {
	t.Parallel()
	m := disk.NewMem()
	m.SetCapacity(32 << 20)
	cfg := Config{FS: m, SegmentSize: 256 << 10, WriteCache: 1}
	ctx := context.Background()
	s := mustOpen(t, cfg)
	inc := s.Incarnation()
	for id := ledgerfs.LedgerID(1); id <= 5; id++ {
		install(t, s, id)
	}
	for round := range 6 {
		for e := ledgerfs.EntryID(round * 100); e < ledgerfs.EntryID(round*100+100); e++ {
			for id := ledgerfs.LedgerID(1); id <= 3; id++ {
				add(t, s, id, e, 300)
			}
		}
		if round == 3 {
			if _, err := s.LastAdd(ctx, 4, true); err != nil {
				t.Fatal(err)
			}
			if err := s.Delete(ctx, 5); err != nil {
				t.Fatal(err)
			}
		}
		for id := ledgerfs.LedgerID(1); id <= 3; id++ {
			check(t, s, id, ledgerfs.EntryID(round*100+100), 300)
		}
		if round%2 == 0 {
			m.Crash()
			s.Close()
			m = m.CrashImage(disk.SurviveNone, 1)
			cfg.FS = m
		} else if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, cfg)
		if s.Incarnation() != inc {
			t.Fatal("incarnation changed")
		}
		for id := ledgerfs.LedgerID(1); id <= 3; id++ {
			check(t, s, id, ledgerfs.EntryID(round*100+100), 300)
			la, err := s.LastAdd(ctx, id, false)
			if want := (ledgerfs.LastAdd{LastEntry: ledgerfs.EntryID(round*100 + 99), MaxLAC: ledgerfs.EntryID(round*100 + 98),
				Length: int64(round*100+100) * 300}); err != nil || la != want {
				t.Fatalf("LastAdd = %+v, %v, want %+v", la, err, want)
			}
		}
	}
	if la, err := s.LastAdd(ctx, 4, false); err != nil || !la.Fenced {
		t.Fatalf("fence lost: %+v, %v", la, err)
	}
	if err := s.Install(ctx, 5); ledgerfs.CodeOf(err) != ledgerfs.CodeDeleted {
		t.Fatalf("Install of a deleted ledger = %v", err)
	}
	s.Close()
}
