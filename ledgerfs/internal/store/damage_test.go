package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/internal/segment"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
)

// stored is a store at rest whose entries all have several batches after them.
type stored struct {
	m       *disk.Mem
	entries map[ledgerfs.Position]int // size by position
	fenced  ledgerfs.LedgerID
	spans   map[string][]span // records of entries, by file
	used    map[string]int64  // end of the batches, by file
	log     bytes.Buffer      // of the last check
}

type span struct {
	from, to int64
	pos      ledgerfs.Position
}

func makeStored(t testing.TB) *stored {
	st := &stored{m: newMem(), entries: map[ledgerfs.Position]int{}, spans: map[string][]span{}, used: map[string]int64{}}
	s := mustOpen(t, Config{FS: st.m, SegmentSize: 128 << 10})
	for id := ledgerfs.LedgerID(1); id <= 4; id++ {
		install(t, s, id)
	}
	for round := range 30 {
		var adds []*ledgerfs.Add
		for id := ledgerfs.LedgerID(1); id <= 3; id++ {
			for k := range 2 {
				e := ledgerfs.EntryID(round*2 + k)
				n := []int{0, 20, 900, 3000}[id]
				st.entries[ledgerfs.Position{Ledger: id, Entry: e}] = n
				adds = append(adds, ledgertest.NewAdd(id, e, int64(e+1)*int64(n), payload(id, e, n)))
			}
		}
		if err := newHistory().addMany(s, adds); err != nil {
			t.Fatal(err)
		}
		if round == 20 {
			st.fenced = 4
			if _, err := s.LastAdd(t.Context(), 4, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := st.m.List(s.segDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		n, ok := parseName(name, "seg-")
		if !ok {
			continue
		}
		name = s.segPath(name)
		f, err := st.m.Open(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		size, _ := f.Size()
		res, err := segment.Scan(f, size, n, s.seed, nil, func(r *segment.Record, off int64) error {
			if r.Type == segment.Add {
				st.spans[name] = append(st.spans[name], span{off, off + int64(segment.Size(len(r.Payload))), ledgerfs.Position{Ledger: r.Ledger, Entry: r.Entry}})
			}
			return nil
		})
		if err != nil || len(res.Losses) > 0 {
			t.Fatalf("scan of %s: %+v, %v", name, res.Losses, err)
		}
		if res.Batches > 0 {
			st.used[name] = res.End
		}
	}
	if len(st.used) < 2 {
		t.Fatalf("only %d segments in use", len(st.used))
	}
	return st
}

// check opens the image and returns the entries that cannot be read. Any answer other than the entry's bytes or
// an error that promises nothing is a failure.
func (st *stored) check(t *testing.T, img *disk.Mem, what string) map[ledgerfs.Position]error {
	t.Helper()
	ctx := context.Background()
	st.log.Reset()
	s, err := Open(Config{Dir: "/bookie", FS: img, WriteCache: 1, Log: slog.New(slog.NewTextHandler(&st.log, nil))})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer s.Close()
	bad := map[ledgerfs.Position]error{}
	for p, n := range st.entries {
		r, err := s.Read(ctx, ledgerfs.ReadRequest{Ledger: p.Ledger, First: p.Entry, MaxEntries: 1, MaxBytes: 1})
		switch {
		case err == nil && !bytes.Equal(r.Entries[0].Payload, payload(p.Ledger, p.Entry, n)):
			t.Fatalf("%s: entry %v has other bytes", what, p)
		case err != nil && (ledgerfs.IsNegative(err) || errors.Is(err, ledgerfs.ErrDeleted)):
			t.Fatalf("%s: false negative for %v: %v", what, p, err)
		case err != nil:
			bad[p] = err
		}
	}
	for id := ledgerfs.LedgerID(1); id <= 4; id++ {
		la, err := s.LastAdd(ctx, id, false)
		if err == nil && id <= 3 && la.LastEntry < 59 {
			t.Fatalf("%s: LastAdd of ledger %d is %d", what, id, la.LastEntry)
		}
		if err == nil && id == st.fenced && !la.Fenced {
			t.Fatalf("%s: fence lost", what)
		}
		if err != nil && (ledgerfs.IsNegative(err) || errors.Is(err, ledgerfs.ErrDeleted)) {
			t.Fatalf("%s: LastAdd of ledger %d: %v", what, id, err)
		}
	}
	return bad
}

// hit returns the entries whose records overlap a range.
func (st *stored) hit(name string, from, to int64) map[ledgerfs.Position]bool {
	hit := map[ledgerfs.Position]bool{}
	for _, sp := range st.spans[name] {
		if sp.from < to && from < sp.to {
			hit[sp.pos] = true
		}
	}
	return hit
}

// TestMisplacedBlockCostsOnlyWhatItHits puts every block of a segment in the place of its first, and some in the
// place of others. The first matters most: nothing in the file says what it follows, and the segment before learns
// its end from it. (Every pair of blocks is tried in package segment.)
func TestMisplacedBlockCostsOnlyWhatItHits(t *testing.T) {
	t.Parallel()
	st := makeStored(t)
	if err := st.m.Pebble().RemoveAll("/bookie/index"); err != nil {
		t.Fatal(err)
	}
	trials := 0
	for name, end := range st.used {
		for _, to := range []int64{segment.FileHeaderSize, end / 2 &^ 4095, end - 2*segment.BlockSize} {
			step := int64(segment.BlockSize)
			if to > segment.FileHeaderSize {
				step *= 7
			}
			for from := int64(segment.FileHeaderSize); from < end; from += step {
				if from == to {
					continue
				}
				trials++
				img := st.m.CrashImage(disk.SurviveAll, 0)
				if err := img.Corrupt(name, func(b []byte) { copy(b[to:to+segment.BlockSize], bytes.Clone(b[from:from+segment.BlockSize])) }); err != nil {
					t.Fatal(err)
				}
				what := fmt.Sprintf("block of %d at %d of %s", from, to, filepath.Base(name))
				bad, hit := st.check(t, img, what), st.hit(name, to, to+segment.BlockSize)
				for p, err := range bad {
					if !hit[p] {
						t.Fatalf("%s: %v is unreadable though it was not hit: %v\n%s", what, p, err, &st.log)
					}
				}
			}
		}
	}
	t.Logf("%d misplaced blocks", trials)
}

func TestDamageCostsOnlyWhatItHits(t *testing.T) {
	t.Parallel()
	st := makeStored(t)
	var names []string
	for name := range st.used {
		names = append(names, name)
	}
	slices.Sort(names)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	deadline := time.Now().Add(budget())
	trials := 0
	for ; trials < 20 || time.Now().Before(deadline); trials++ {
		name := names[r.IntN(len(names))]
		// Not the last batch of all, after which nothing says that it was durable.
		end := st.used[name]
		if name == names[len(names)-1] {
			end -= segment.BlockSize
		}
		at := segment.FileHeaderSize + r.Int64N(end-segment.FileHeaderSize)
		from, to := at, at+1
		kind := []string{"bit", "byte", "sector", "block", "stale"}[r.IntN(5)]
		switch kind {
		case "sector":
			from, to = at&^511, at&^511+512
		case "block", "stale":
			from, to = at&^4095, at&^4095+4096
		}
		img := st.m.CrashImage(disk.SurviveAll, 0)
		withIndex := r.IntN(2) == 0
		if !withIndex {
			if err := img.Pebble().RemoveAll("/bookie/index"); err != nil {
				t.Fatal(err)
			}
		}
		err := img.Corrupt(name, func(b []byte) {
			switch kind {
			case "bit":
				b[at] ^= 1 << r.IntN(8)
			case "byte":
				b[at] ^= byte(1 + r.IntN(255))
			case "stale": // an older block of the same file
				older := segment.FileHeaderSize + r.Int64N(end-segment.FileHeaderSize)&^4095
				copy(b[from:to], bytes.Clone(b[older:older+4096]))
			default:
				clear(b[from:to])
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("%s at %d of %s, index kept %v", kind, at, filepath.Base(name), withIndex)
		bad, hit := st.check(t, img, what), st.hit(name, from, to)
		for p, err := range bad {
			if !hit[p] {
				t.Fatalf("%s: %v is unreadable though it was not hit: %v; records %v\n%s", what, p, err, st.spans[name], &st.log)
			}
		}
	}
	t.Logf("%d corruptions", trials)
}
