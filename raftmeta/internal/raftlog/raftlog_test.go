package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/daybook/daybook/raftmeta/internal/metapb"
)

type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, v ...any) { panic(f) }
func openDB(t rapid.TB, fs vfs.FS) *pebble.DB {
	db, err := pebble.Open("db", &pebble.Options{FS: fs, Logger: quiet{}, MemTableSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

type model struct {
	trunc   position
	entries []*raftpb.Entry // after trunc
	commit  uint64
	term    uint64
}

func (m *model) last() uint64 { return m.trunc.index + uint64(len(m.entries)) }

// TestLogAgreesWithModel appends, overwrites, truncates, resets and opens anew.
func TestLogAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		db := openDB(t, fs)
		defer func() { db.Close() }()
		m := &model{trunc: position{1, 1}, commit: 1, term: 1}
		applied := m.trunc
		conf := &raftpb.ConfState{Voters: []uint64{7}}
		run := func(f func(b *pebble.Batch) error) {
			b := db.NewBatch()
			if err := f(b); err != nil {
				t.Fatal(err)
			}
			if err := b.Commit(pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
		run(func(b *pebble.Batch) error {
			return Bootstrap(b, &metapb.Identity{Format: 1, Node: 7, Cluster: make([]byte, 16)}, 1, 1)
		})
		open := func() *Log {
			l, err := Open(db, func() (uint64, uint64, *raftpb.ConfState) { return applied.index, applied.term, conf })
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := open()
		for range 12 {
			switch rapid.IntRange(0, 9).Draw(t, "do") {
			default:
				from := rapid.Uint64Range(m.commit+1, m.last()+1).Draw(t, "from")
				m.term += rapid.Uint64Range(0, 1).Draw(t, "term+")
				if from <= m.last() {
					m.term++ // only a new leader overwrites
				}
				var add []*raftpb.Entry
				for range rapid.IntRange(1, 4).Draw(t, "n") {
					size := rapid.SampledFrom([]int{0, 1, 9, 50, 100, 100, 400 << 10}).Draw(t, "size")
					add = append(add, &raftpb.Entry{
						Index: new(from + uint64(len(add))), Term: new(m.term), Type: raftpb.EntryType(rapid.IntRange(0, 2).Draw(t, "type")).Enum(),
						Data: bytes.Repeat([]byte{byte(from)}, size),
					})
				}
				m.entries = append(m.entries[:from-m.trunc.index-1:from-m.trunc.index-1], add...)
				m.commit = rapid.Uint64Range(m.commit, m.last()).Draw(t, "commit")
				hs := &raftpb.HardState{Term: new(m.term), Vote: new(uint64(7)), Commit: new(m.commit)}
				run(func(b *pebble.Batch) error { return l.Write(b, add, hs) })
				l.DidWrite(add, hs)
				applied = position{m.commit, termAt(m, m.commit)}
			case 7:
				index := rapid.Uint64Range(m.trunc.index, applied.index).Draw(t, "truncate")
				run(func(b *pebble.Batch) error { return l.Truncate(b, index) })
				l.DidTruncate(index)
				term := termAt(m, index)
				m.entries = m.entries[index-m.trunc.index:]
				m.trunc = position{index, term}
			case 8:
				db.Close()
				db = openDB(t, fs)
				l = open()
			case 9:
				m.term++
				at := position{m.last() + rapid.Uint64Range(1, 9).Draw(t, "skip"), m.term}
				applied = at
				if rapid.Bool().Draw(t, "crash before the reset") {
					db.Close()
					db = openDB(t, fs)
					l = open()
				} else {
					run(func(b *pebble.Batch) error { return l.Reset(b, at.index, at.term) })
					l.DidReset(at.index, at.term)
				}
				m.trunc, m.entries, m.commit = at, nil, at.index
			}
			check(t, l, m)
		}
	})
}

func termAt(m *model, i uint64) uint64 {
	if i == m.trunc.index {
		return m.trunc.term
	}
	return m.entries[i-m.trunc.index-1].GetTerm()
}

func check(t *rapid.T, l *Log, m *model) {
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if first != m.trunc.index+1 || last != m.last() {
		t.Fatalf("log [%d, %d], want [%d, %d]", first, last, m.trunc.index+1, m.last())
	}
	for i := m.trunc.index; i <= m.last(); i++ {
		if term, err := l.Term(i); err != nil || term != termAt(m, i) {
			t.Fatalf("term of %d is %d, %v, want %d", i, term, err, termAt(m, i))
		}
	}
	if _, err := l.Term(m.last() + 1); !errors.Is(err, raft.ErrUnavailable) {
		t.Fatalf("term beyond the end: %v", err)
	}
	if m.trunc.index > 0 {
		if _, err := l.Term(m.trunc.index - 1); !errors.Is(err, raft.ErrCompacted) {
			t.Fatalf("term before the beginning: %v", err)
		}
	}
	if _, err := l.Entries(m.trunc.index, m.last()+1, 1); !errors.Is(err, raft.ErrCompacted) {
		t.Fatalf("entries before the beginning: %v", err)
	}
	if _, err := l.Entries(first, m.last()+2, 1); !errors.Is(err, raft.ErrUnavailable) {
		t.Fatalf("entries beyond the end: %v", err)
	}
	if last >= first {
		lo := rapid.Uint64Range(first, last).Draw(t, "lo")
		hi := rapid.Uint64Range(lo+1, last+1).Draw(t, "hi")
		limit := rapid.SampledFrom([]uint64{0, 1000, 500 << 10, 1 << 40}).Draw(t, "limit")
		got, err := l.Entries(lo, hi, limit)
		if err != nil || len(got) == 0 || uint64(len(got)) > hi-lo {
			t.Fatalf("Entries(%d, %d, %d) = %d entries, %v", lo, hi, limit, len(got), err)
		}
		size := 0
		for i, e := range got {
			want := m.entries[lo-first+uint64(i)]
			if e.GetIndex() != want.GetIndex() || e.GetTerm() != want.GetTerm() || e.GetType() != want.GetType() || !bytes.Equal(e.Data, want.Data) {
				t.Fatalf("entry %v, want %v", e, want)
			}
			size += len(e.Data)
		}
		if len(got) > 1 && uint64(size) > limit {
			t.Fatalf("Entries(%d, %d, %d) returned %d bytes", lo, hi, limit, size)
		}
		if limit == 1<<40 && uint64(len(got)) != hi-lo {
			t.Fatalf("Entries(%d, %d) returned %d without a limit", lo, hi, len(got))
		}
	}
	size := 0
	for _, e := range m.entries {
		size += len(e.Data)
	}
	if n, got := l.Len(); n != len(m.entries) || got != size {
		t.Fatalf("%d entries of %d bytes, want %d of %d", n, got, len(m.entries), size)
	}
	maxEntries, maxBytes := rapid.IntRange(0, 9).Draw(t, "entries"), rapid.SampledFrom([]int{0, 200, 1 << 20}).Draw(t, "bytes")
	before := m.last()
	for size := 0; before > m.trunc.index && m.last()-before < uint64(maxEntries); before-- {
		if size += len(m.entries[before-m.trunc.index-1].Data); size > maxBytes {
			break
		}
	}
	if got := l.Before(maxEntries, maxBytes); got != before {
		t.Fatalf("Before(%d, %d) = %d, want %d", maxEntries, maxBytes, got, before)
	}
	if l.bytes > tailBytes && len(l.tail) > 1 {
		t.Fatalf("%d bytes in %d entries are kept in memory", l.bytes, len(l.tail))
	}
	hs, conf, _ := l.InitialState()
	if hs.GetCommit() != m.commit || hs.GetTerm() != m.term || len(conf.GetVoters()) != 1 {
		t.Fatalf("initial state %v, %v, want term %d, commit %d", hs, conf, m.term, m.commit)
	}
}

func TestGapIsRefused(t *testing.T) {
	db := openDB(t, vfs.NewMem())
	defer db.Close()
	b := db.NewBatch()
	if err := Bootstrap(b, &metapb.Identity{Format: 1}, 1, 1); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(nil); err != nil {
		t.Fatal(err)
	}
	l, err := Open(db, func() (uint64, uint64, *raftpb.ConfState) { return 1, 1, nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{1, 3} {
		b := db.NewBatch()
		err := l.Write(b, []*raftpb.Entry{{Index: new(index), Term: new(uint64(1))}}, nil)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("entry %d after 1: %v, want ErrCorrupt", index, err)
		}
		b.Close()
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(entryKey(5), []byte("\x01\x00\x00\x00\x00\x00\x00\x00\x00\x07data"))
	f.Add([]byte("l"), []byte{})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		e, err := decodeEntry(key, value)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error %v is no ErrCorrupt", err)
			}
			return
		}
		if e.GetIndex() != binary.BigEndian.Uint64(key[1:]) || !bytes.Equal(e.Data, value[entryHeader:]) {
			t.Fatalf("decoded %v", e)
		}
	})
}
