package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
)

// history is what a workload asked for and what it was promised.
type history struct {
	asked     map[ledgerfs.Position][]byte // adds that were tried
	acked     map[ledgerfs.Position]bool
	installed map[ledgerfs.LedgerID]bool
	fenced    map[ledgerfs.LedgerID]bool
	deleting  map[ledgerfs.LedgerID]bool // tried
	deleted   map[ledgerfs.LedgerID]bool
}

func newHistory() *history {
	return &history{map[ledgerfs.Position][]byte{}, map[ledgerfs.Position]bool{}, map[ledgerfs.LedgerID]bool{},
		map[ledgerfs.LedgerID]bool{}, map[ledgerfs.LedgerID]bool{}, map[ledgerfs.LedgerID]bool{}}
}

type group struct {
	left int
	done chan struct{}
	h    *history
	err  error
}

func (g *group) AddCompleted(a *ledgerfs.Add, err error) {
	if err == nil {
		g.h.acked[ledgerfs.Position{Ledger: a.Ledger, Entry: a.Entry}] = true
	} else if g.err == nil {
		g.err = err
	}
	if g.left--; g.left == 0 {
		close(g.done)
	}
}

// addMany adds a group of entries that are in flight together.
func (h *history) addMany(s *Store, adds []*ledgerfs.Add) error {
	g := &group{left: len(adds), done: make(chan struct{}), h: h}
	for _, a := range adds {
		h.asked[ledgerfs.Position{Ledger: a.Ledger, Entry: a.Entry}] = a.Payload
		a.Done = g
	}
	for _, a := range adds {
		s.Add(a)
	}
	<-g.done
	return g.err
}

// workload runs a script that fills some segments, interleaves ledgers, rewrites entries, fences, deletes whole
// generations of ledgers so that segments are given back and used again, and stops at the first error.
func (h *history) workload(s *Store, base ledgerfs.LedgerID) error {
	ctx := context.Background()
	for gen := range ledgerfs.LedgerID(5) {
		first := base + gen*10
		for i := range ledgerfs.LedgerID(3) {
			if err := s.Install(ctx, first+i); err != nil {
				return err
			}
			h.installed[first+i] = true
		}
		for round := range 6 {
			var adds []*ledgerfs.Add
			for k := range 4 {
				e := ledgerfs.EntryID(round*4 + k)
				for i := range ledgerfs.LedgerID(3) {
					n := []int{10, 700, 3000}[i]
					adds = append(adds, ledgertest.NewAdd(first+i, e, int64(e)*10, payload(first+i, e, n)))
				}
			}
			if round == 4 { // an entry once more
				adds = append(adds, ledgertest.NewAdd(first, 2, 20, payload(first, 2, 10)))
			}
			if err := h.addMany(s, adds); err != nil {
				return err
			}
		}
		if _, err := s.LastAdd(ctx, first+1, true); err != nil {
			return err
		}
		h.fenced[first+1] = true
		a := ledgertest.NewAdd(first+1, 30, 1, payload(first+1, 30, 50))
		a.Flags = ledgerfs.AddRecovery
		if err := h.addMany(s, []*ledgerfs.Add{a}); err != nil {
			return err
		}
		if gen == 0 {
			continue
		}
		for i := range ledgerfs.LedgerID(3) {
			if gen == 1 && i == 1 {
				continue // one of the first generation stays
			}
			id := first - 10 + i
			h.deleting[id] = true
			if err := s.Delete(ctx, id); err != nil {
				return err
			}
			h.deleted[id] = true
		}
	}
	return nil
}

// verify checks that the store kept its promises and invented nothing.
func (h *history) verify(s *Store) error {
	ctx := context.Background()
	for p := range h.acked {
		if h.deleting[p.Ledger] {
			continue
		}
		r, err := s.Read(ctx, ledgerfs.ReadRequest{Ledger: p.Ledger, First: p.Entry, MaxEntries: 1, MaxBytes: 1})
		if err != nil {
			return fmt.Errorf("acknowledged entry lost: %w", err)
		}
		if !bytes.Equal(r.Entries[0].Payload, h.asked[p]) {
			return fmt.Errorf("acknowledged entry %v has other bytes", p)
		}
	}
	for p, want := range h.asked {
		if h.acked[p] || h.deleting[p.Ledger] {
			continue
		}
		r, err := s.Read(ctx, ledgerfs.ReadRequest{Ledger: p.Ledger, First: p.Entry, MaxEntries: 1, MaxBytes: 1})
		if err == nil && !bytes.Equal(r.Entries[0].Payload, want) {
			return fmt.Errorf("entry %v has bytes that nobody wrote", p)
		}
		if err != nil && !errors.Is(err, ledgerfs.ErrNoEntry) {
			return fmt.Errorf("entry %v, which was never acknowledged: %w", p, err)
		}
	}
	for id := range h.installed {
		la, err := s.LastAdd(ctx, id, false)
		switch {
		case h.deleted[id]:
			if !errors.Is(err, ledgerfs.ErrDeleted) {
				return fmt.Errorf("deleted ledger %d came back: %+v, %w", id, la, err)
			}
		case h.deleting[id]:
			if err != nil && !errors.Is(err, ledgerfs.ErrDeleted) {
				return fmt.Errorf("ledger %d: %w", id, err)
			}
		case err != nil:
			return fmt.Errorf("installed ledger %d: %w", id, err)
		case h.fenced[id] && !la.Fenced:
			return fmt.Errorf("fence of ledger %d lost", id)
		default:
			if _, err := s.Read(ctx, ledgerfs.ReadRequest{Ledger: id, First: la.LastEntry + 1, MaxEntries: 1, MaxBytes: 1}); !errors.Is(err, ledgerfs.ErrNoEntry) {
				return fmt.Errorf("ledger %d after its last entry %d: %w", id, la.LastEntry, err)
			}
			for p := range h.acked {
				if p.Ledger == id && p.Entry > la.LastEntry {
					return fmt.Errorf("LastAdd of ledger %d is %d, but %v was acknowledged", id, la.LastEntry, p)
				}
			}
		}
	}
	return nil
}

// reopen opens an image, checks it, goes on writing, and checks again after one more crash.
func (h *history) reopen(t testing.TB, img *disk.Mem, what string) {
	t.Helper()
	cfg := Config{Dir: "/bookie", FS: img, SegmentSize: 64 << 10, WriteCache: 1, Log: testLogger(t)}
	s, err := Open(cfg)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer func() { s.Close() }()
	if err := h.verify(s); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	more := newHistory()
	id := ledgerfs.LedgerID(900)
	if err := s.Install(context.Background(), id); err != nil {
		t.Fatalf("%s: after recovery: %v", what, err)
	}
	more.installed[id] = true
	for e := range ledgerfs.EntryID(20) {
		if err := more.addMany(s, []*ledgerfs.Add{ledgertest.NewAdd(id, e, int64(e), payload(id, e, 2000))}); err != nil {
			t.Fatalf("%s: after recovery: %v", what, err)
		}
	}
	img.Crash()
	s.Close()
	cfg.FS = img.CrashImage(disk.SurviveNone, 0)
	if s, err = Open(cfg); err != nil {
		t.Fatalf("%s: second recovery: %v", what, err)
	}
	for _, x := range []*history{h, more} {
		if err := x.verify(s); err != nil {
			t.Fatalf("%s: second recovery: %v", what, err)
		}
	}
}

// budget is how long a test that could go on may take.
func budget() time.Duration {
	if n, err := strconv.Atoi(os.Getenv("DAYBOOK_CRASH_SECONDS")); err == nil {
		return time.Duration(n) * time.Second
	}
	return 3 * time.Second
}

// runToCrash runs the workload on a fresh file system that crashes at the given operation; ok is false if the
// workload ended before.
func runToCrash(t testing.TB, op int) (*disk.Mem, *history, bool) {
	m := newMem()
	m.CrashAt(op)
	h := newHistory()
	s, err := Open(Config{Dir: "/bookie", FS: m, SegmentSize: 64 << 10})
	if err != nil {
		if !m.Crashed() {
			t.Fatal(err)
		}
		return m, h, true
	}
	err = h.workload(s, 100)
	if err != nil && !m.Crashed() {
		t.Fatal(err)
	}
	crashed := m.Crashed()
	m.Crash()
	s.Close()
	return m, h, crashed
}

func TestAcknowledgedSurvivesAnyCrash(t *testing.T) {
	t.Parallel()
	m, _, _ := runToCrash(t, 1<<30)
	total := m.Ops()
	deadline := time.Now().Add(budget())
	images, points := 0, 0
	// Strides that are prime to each other visit different operations first and all in the end.
	stride := max(total/23, 1)
	for start := 1; start <= stride && time.Now().Before(deadline); start++ {
		for op := start; op <= total+total/20 && time.Now().Before(deadline); op += stride {
			m, h, crashed := runToCrash(t, op)
			points++
			for _, c := range []struct {
				s    disk.Survival
				seed uint64
			}{{disk.SurviveNone, 0}, {disk.SurviveSome, uint64(op)}, {disk.SurviveSome, uint64(op) + 1<<32}, {disk.SurviveAll, 0}} {
				h.reopen(t, m.CrashImage(c.s, c.seed), fmt.Sprintf("operation %d of %d (crashed %v), survival %d, seed %d", op, total, crashed, c.s, c.seed))
				images++
			}
		}
	}
	t.Logf("%d crash images at %d of %d operations", images, points, total)
}

// TestEveryErrorIsFatalOrHarmless fails each operation once: whatever was acknowledged before or after is there.
func TestEveryErrorIsFatalOrHarmless(t *testing.T) {
	t.Parallel()
	m, _, _ := runToCrash(t, 1<<30)
	total := m.Ops()
	deadline := time.Now().Add(budget())
	stride := max(total/31, 1)
	runs := 0
	for start := 1; start <= stride && time.Now().Before(deadline); start++ {
		for op := start; op <= total && time.Now().Before(deadline); op += stride {
			m := newMem()
			m.FailAt(op, errors.New("injected"))
			h := newHistory()
			fatal := make(chan error, 10)
			s, err := Open(Config{Dir: "/bookie", FS: m, SegmentSize: 64 << 10, Fatal: func(err error) { fatal <- err }})
			if err == nil {
				err = h.workload(s, 100)
				// Where only a new segment could not be prepared, adds are refused until one can be.
				refused := errors.Is(err, ledgerfs.ErrNoSpace)
				calls := 0
				if err != nil && !refused {
					t.Logf("operation %d: %v", op, err)
					<-fatal
					calls++
					if err := ledgertest.Await(s, ledgertest.NewAdd(100, 900, 1, nil)); err == nil {
						t.Errorf("operation %d: add succeeded after a fatal error", op)
					}
				}
				s.Close()
				if calls += len(fatal); calls > 1 {
					t.Errorf("operation %d: Fatal was called again: %v", op, <-fatal)
				}
			}
			runs++
			for _, sv := range []disk.Survival{disk.SurviveNone, disk.SurviveAll} {
				h.reopen(t, m.CrashImage(sv, 0), fmt.Sprintf("error at operation %d of %d (%v), survival %d", op, total, err, sv))
			}
		}
	}
	t.Logf("%d injected errors over %d operations", runs, total)
}

// newMem is small, so that images of it are cheap.
func newMem() *disk.Mem {
	m := disk.NewMem()
	m.SetCapacity(8 << 20)
	return m
}
