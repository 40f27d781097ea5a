package store

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
)

// TestReadErrorIsNeverNoEntry fails each read of the disk once.
func TestReadErrorIsNeverNoEntry(t *testing.T) {
	t.Parallel()
	st := makeStored(t)
	s := mustOpen(t, Config{FS: st.m, WriteCache: 1})
	defer s.Close()
	failed := 0
	for p := range st.entries {
		st.m.FailReadAt(st.m.Reads()+1, errors.New("injected"))
		_, err := s.Read(context.Background(), ledgerfs.ReadRequest{Ledger: p.Ledger, First: p.Entry, MaxEntries: 1, MaxBytes: 1})
		if err != nil {
			failed++
			if !errors.Is(err, ledgerfs.ErrIO) {
				t.Fatalf("read of %v with a failing disk = %v, want ErrIO", p, err)
			}
		}
		// An identical add, which must look at what is stored, is not taken for new either.
		st.m.FailReadAt(st.m.Reads()+1, errors.New("injected"))
		n := st.entries[p]
		a := ledgertest.NewAdd(p.Ledger, p.Entry, int64(p.Entry+1)*int64(n), payload(p.Ledger, p.Entry, n))
		if err := ledgertest.Await(s, a); err != nil && !errors.Is(err, ledgerfs.ErrIO) {
			t.Fatalf("add of %v with a failing disk = %v, want ErrIO", p, err)
		}
		st.m.FailReadAt(0, nil)
		if _, err := s.Read(context.Background(), ledgerfs.ReadRequest{Ledger: p.Ledger, First: p.Entry, MaxEntries: 1, MaxBytes: 1}); err != nil {
			t.Fatalf("read of %v after the error: %v", p, err)
		}
	}
	if failed < len(st.entries)/2 {
		t.Fatalf("only %d of %d reads met the error", failed, len(st.entries))
	}
}

func TestIdleLedgerTakesLittleMemory(t *testing.T) {
	const n = 200_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	tab := newTable()
	for id := ledgerfs.LedgerID(1); id <= n; id++ {
		tab.add(id).last = 5
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if per := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n; per > 200 {
		t.Fatalf("%d bytes per ledger, want at most 200", per)
	}
	if l := tab.get(n / 2); l == nil || l.last != 5 {
		t.Fatal("ledger lost")
	}
	runtime.KeepAlive(&tab)
}

// TestTailIsReadFromMemory reads what was just written without touching the disk.
func TestTailIsReadFromMemory(t *testing.T) {
	t.Parallel()
	m := newMem()
	s := mustOpen(t, Config{FS: m, SegmentSize: 1 << 20})
	defer s.Close()
	install(t, s, 1)
	for e := range ledgerfs.EntryID(100) {
		add(t, s, 1, e, 500)
	}
	reads := m.Reads()
	check(t, s, 1, 100, 500)
	if n := m.Reads() - reads; n != 0 {
		t.Fatalf("reading the tail took %d reads of the disk", n)
	}
}
