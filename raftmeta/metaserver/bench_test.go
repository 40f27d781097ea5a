package metaserver

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/daybook/daybook/raftmeta"
)

// BenchmarkCommit puts 256 bytes, on the disk of the temporary directory (TMPDIR), one at a time and by 64
// callers at once.
func BenchmarkCommit(b *testing.B) {
	value := make([]byte, 256)
	b.Run("serial", func(b *testing.B) {
		st := open(b, Config{Dir: b.TempDir()}).Store()
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			commit(b, st, n, value)
			n++
		}
	})
	b.Run("parallel64", func(b *testing.B) {
		st := open(b, Config{Dir: b.TempDir()}).Store()
		var n atomic.Int64
		b.ReportAllocs()
		b.SetParallelism(32) // times GOMAXPROCS, 2 where this was written
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				commit(b, st, int(n.Add(1)), value)
			}
		})
	})
}

func commit(b *testing.B, st raftmeta.Store, n int, value []byte) {
	txn := raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put(fmt.Sprintf("bench/%06d", n%100_000), value)}}
	if _, err := st.Commit(context.Background(), txn); err != nil {
		b.Error(err)
	}
}

// BenchmarkGet reads one of 1000 keys.
func BenchmarkGet(b *testing.B) {
	st := open(b, Config{Dir: b.TempDir()}).Store()
	var ops []raftmeta.Op
	for i := range 1000 {
		ops = append(ops, raftmeta.Put(fmt.Sprintf("key/%03d", i), make([]byte, 256)))
	}
	if _, err := st.Commit(b.Context(), raftmeta.Txn{Then: ops}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if _, err := st.Get(context.Background(), fmt.Sprintf("key/%03d", n%1000)); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkOpen starts a node until it serves, in a new directory and in one that holds 10 000 keys.
func BenchmarkOpen(b *testing.B) {
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			s, err := Open(Config{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			s.Close()
			b.StartTimer()
		}
	})
	b.Run("restart", func(b *testing.B) {
		dir := b.TempDir()
		s, err := Open(Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		for i := range 10 {
			var ops []raftmeta.Op
			for k := range 1000 {
				ops = append(ops, raftmeta.Put(fmt.Sprintf("key/%d/%d", i, k), make([]byte, 256)))
			}
			if _, err := s.Store().Commit(b.Context(), raftmeta.Txn{Then: ops}); err != nil {
				b.Fatal(err)
			}
		}
		s.Close()
		for b.Loop() {
			s, err := Open(Config{Dir: dir})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			s.Close()
			b.StartTimer()
		}
	})
}
