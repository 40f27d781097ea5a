package store

import (
	"bytes"
	"os"
	"runtime"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/segment"
)

// awaitReady waits for the prepared segment to satisfy the condition.
func awaitReady(s *Store, ok func(*seg) bool) {
	for {
		s.mu.Lock()
		done := len(s.core.ready) == 1 && ok(s.core.ready[0])
		s.mu.Unlock()
		if done {
			return
		}
		runtime.Gosched()
	}
}

// A segment that was prepared in haste is filled when there is time, while others write, and then takes entries.
func TestHastySegmentIsFilledLater(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, SegmentSize: 4 << 20}
	s := mustOpen(t, cfg)
	install(t, s, 1)
	awaitReady(s, func(*seg) bool { return true })
	const garbage = 0x5a // what a fresh file would not hold, to see that it is written over
	s.mu.Lock()
	g := s.core.ready[0]
	g.fresh = segment.FileHeaderSize + 512<<10
	name := s.segmentName(g.number)
	s.mu.Unlock()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mark := bytes.Repeat([]byte{garbage}, int(g.size)-segment.FileHeaderSize)
	if _, err := f.WriteAt(mark, segment.FileHeaderSize); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}

	notify(s.wantSeg)
	e := ledgerfs.EntryID(0)
	for ; e < 20; e++ {
		add(t, s, 1, e, 1000)
	}
	awaitReady(s, func(r *seg) bool { return r == g && r.fresh == 0 })
	got := make([]byte, g.size)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if h, err := segment.DecodeFileHeader(got[:segment.FileHeaderSize]); err != nil || h.Number != g.number {
		t.Fatalf("header after filling: %+v, %v", h, err)
	}
	kept, filled := got[segment.FileHeaderSize:segment.FileHeaderSize+512<<10], got[segment.FileHeaderSize+512<<10:]
	if bytes.Count(kept, []byte{garbage}) != len(kept) || bytes.Count(filled, []byte{0}) != len(filled) {
		t.Fatal("what was filled is not what had not been written")
	}

	// Neither where the active segment is half full, nor where the prepared one has been taken, is anything taken back.
	for ; e < 400; e++ {
		add(t, s, 1, e, 20_000)
	}
	s.mu.Lock()
	taken := s.core.active == g || g.rolled
	s.mu.Unlock()
	if !taken {
		t.Fatal("the prepared segment took no entries")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, cfg)
	defer s.Close()
	for i := range e {
		want := 1000
		if i >= 20 {
			want = 20_000
		}
		es, err := s.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 1, First: i, MaxEntries: 1})
		if err != nil || len(es.Entries) != 1 || !bytes.Equal(es.Entries[0].Payload, payload(1, i, want)) {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
}

// A segment is taken back only while the one before it has room and nothing waits.
func TestNeededSegmentIsNotTakenBack(t *testing.T) {
	idle := func() *core {
		active, next := &seg{number: 1, size: 1 << 20, index: segment.NewIndex()}, &seg{number: 2, size: 1 << 20, fresh: 4096}
		return &core{active: active, ready: []*seg{next}}
	}
	if c := idle(); c.Step(event{kind: evRefill}).refill == nil || len(c.ready) != 0 {
		t.Fatal("nothing was taken back though there is time")
	}
	for name, change := range map[string]func(*core){
		"it is filled":          func(c *core) { c.ready[0].fresh = 0 },
		"batches wait":          func(c *core) { c.queue = []*batch{{}} },
		"the active is used up": func(c *core) { c.active.end = c.active.size/2 + 1 },
		"there is no room":      func(c *core) { c.noRoom = true },
		"room is low":           func(c *core) { c.low = true },
		"the store has failed":  func(c *core) { c.failed = os.ErrClosed },
		"the store is closed":   func(c *core) { c.closed = true },
	} {
		c := idle()
		change(c)
		if c.Step(event{kind: evRefill}).refill != nil || len(c.ready) != 1 {
			t.Errorf("taken back though %s", name)
		}
	}
}
