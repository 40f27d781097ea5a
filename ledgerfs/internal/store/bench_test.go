package store

import (
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
)

type benchDone struct {
	t    testing.TB
	left atomic.Int64
	slot chan struct{}
}

func (d *benchDone) AddCompleted(_ *ledgerfs.Add, err error) {
	if err != nil {
		d.t.Error(err)
	}
	<-d.slot
}

// BenchmarkAppend adds 1 KiB entries to one ledger with so many in flight.
func BenchmarkAppend(b *testing.B) {
	for _, inflight := range []int{1, 16, 1000} {
		b.Run(map[int]string{1: "one", 16: "16", 1000: "1000"}[inflight], func(b *testing.B) {
			s := mustOpen(b, Config{Dir: b.TempDir()})
			defer s.Close()
			install(b, s, 1)
			d := &benchDone{t: b, slot: make(chan struct{}, inflight)}
			p := payload(1, 0, 1024)
			b.SetBytes(1024)
			b.ReportAllocs()
			adds := make([]ledgerfs.Add, inflight+1)
			e := ledgerfs.EntryID(0)
			for b.Loop() {
				d.slot <- struct{}{}
				a := &adds[int(e)%len(adds)]
				*a = ledgerfs.Add{Ledger: 1, Entry: e, LAC: e - 1, Length: int64(e), Payload: p, Done: d}
				a.Digest = ledgerfs.EntryDigest(1, e, e-1, int64(e), p)
				s.Add(a)
				e++
			}
			for range inflight {
				d.slot <- struct{}{}
			}
		})
	}
}

// BenchmarkRead reads 1 KiB entries one by one, and 1 MiB at a time, from memory and from the file.
func BenchmarkRead(b *testing.B) {
	for _, c := range []struct {
		name  string
		cache int64
		n     int
	}{{"cached-1", 64 << 20, 1}, {"cached-1000", 64 << 20, 1000}, {"file-1", 1, 1}, {"file-1000", 1, 1000}} {
		b.Run(c.name, func(b *testing.B) {
			s := mustOpen(b, Config{Dir: b.TempDir(), WriteCache: c.cache})
			defer s.Close()
			install(b, s, 1)
			const n = 30000
			for e := ledgerfs.EntryID(0); e < n; e++ {
				a := ledgertest.NewAdd(1, e, int64(e), payload(1, 0, 1024))
				a.Done = nopDone{}
				if e%1000 == 999 {
					if err := ledgertest.Await(s, a); err != nil {
						b.Fatal(err)
					}
					continue
				}
				s.Add(a)
			}
			b.SetBytes(int64(c.n) * 1024)
			b.ReportAllocs()
			e := ledgerfs.EntryID(0)
			for b.Loop() {
				r, err := s.Read(b.Context(), ledgerfs.ReadRequest{Ledger: 1, First: e, MaxEntries: c.n, MaxBytes: 1 << 20})
				if err != nil {
					b.Fatal(err)
				}
				if e += ledgerfs.EntryID(len(r.Entries)); e >= n {
					e = 0
				}
			}
		})
	}
}

type nopDone struct{}

func (nopDone) AddCompleted(*ledgerfs.Add, error) {}

// BenchmarkJournalCommit commits one batch after the other, each of one entry of so many bytes.
func BenchmarkJournalCommit(b *testing.B) {
	for _, n := range []int{1 << 10, 15 << 10, 60 << 10, 250 << 10, 1000 << 10} {
		b.Run(strconv.Itoa(n>>10)+"KiB", func(b *testing.B) {
			s := mustOpen(b, Config{Dir: b.TempDir()})
			defer s.Close()
			install(b, s, 1)
			p := make([]byte, n)
			b.SetBytes(int64(n))
			e := ledgerfs.EntryID(0)
			for b.Loop() {
				if err := ledgertest.Await(s, ledgertest.NewAdd(1, e, 1, p)); err != nil {
					b.Fatal(err)
				}
				e++
			}
		})
	}
}

// BenchmarkRecover opens a store whose log of 512 MiB of 1 KiB entries lies in one segment that was never sealed,
// all of which recovery scans.
func BenchmarkRecover(b *testing.B) {
	const n = 512 << 10
	cfg := Config{Dir: b.TempDir(), SegmentSize: 1 << 30}
	s := mustOpen(b, cfg)
	install(b, s, 1)
	p := payload(1, 0, 1024)
	d := &benchDone{t: b, slot: make(chan struct{}, 4000)}
	for e := range ledgerfs.EntryID(n) {
		d.slot <- struct{}{}
		a := ledgertest.NewAdd(1, e, int64(e), p)
		a.Done = d
		s.Add(a)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(n * 1024)
	for b.Loop() {
		s := mustOpen(b, cfg)
		b.StopTimer()
		if la, err := s.LastAdd(b.Context(), 1, false); err != nil || la.LastEntry != n-1 {
			b.Fatalf("LastAdd = %+v, %v", la, err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
