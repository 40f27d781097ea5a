package metaserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/internal/metapb"
	"github.com/daybook/daybook/raftmeta/internal/raftlog"
	"github.com/daybook/daybook/raftmeta/internal/snapshot"
)

// put commits and returns the revision.
func put(t testing.TB, st raftmeta.Store, ops ...raftmeta.Op) raftmeta.Revision {
	t.Helper()
	r, err := st.Commit(t.Context(), raftmeta.Txn{Then: ops})
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return r.Rev
}

// edit changes the database of a closed server.
func edit(t *testing.T, fs vfs.FS, dir string, f func(*pebble.DB)) {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, FormatMajorVersion: pebbleFormat, Logger: pebbleLogger{discard(), func(err error) { t.Error(err) }}})
	if err != nil {
		t.Fatal(err)
	}
	f(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	s, err := Open(Config{Dir: "meta", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, fs, "meta", func(db *pebble.DB) {
		id, err := raftlog.ReadIdentity(db)
		if err != nil {
			t.Fatal(err)
		}
		id.Format = Format + 1
		b, err := id.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Set([]byte{'f'}, b, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	})
	_, err = Open(Config{Dir: "meta", FS: fs})
	if !errors.Is(err, ErrNewerFormat) || !strings.Contains(err.Error(), "or move the directory away") {
		t.Errorf("Open of a newer format: %v", err)
	}
}

func TestNewerDatabaseFormatIsRefused(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	s, err := Open(Config{Dir: "meta", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List("meta")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, "marker.format-version."); ok {
			number, _, _ := strings.Cut(rest, ".")
			if err := fs.Rename("meta/"+name, "meta/marker.format-version."+number+".999"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err = Open(Config{Dir: "meta", FS: fs}); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("Open of a newer database: %v, want ErrNewerFormat", err)
	}
}

func TestDirectoryBelongsToOneNode(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	s, err := Open(Config{Dir: "meta", FS: fs, NodeID: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: "meta", FS: fs, NodeID: 3}); err == nil {
		t.Error("a directory was opened twice")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: "meta", FS: fs, NodeID: 4}); !errors.Is(err, ErrIdentity) {
		t.Errorf("Open as another node: %v, want ErrIdentity", err)
	}
	open(t, Config{Dir: "meta", FS: fs, NodeID: 3})
}

func TestDamagedRecordsRefuseToOpen(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*testing.T, *pebble.DB){
		"no identity":   func(t *testing.T, db *pebble.DB) { db.Delete([]byte{'f'}, nil) },
		"no hard state": func(t *testing.T, db *pebble.DB) { db.Delete([]byte{'h'}, nil) },
		"lost entries": func(t *testing.T, db *pebble.DB) {
			db.DeleteRange([]byte("l\x00\x00\x00\x00\x00\x00\x00\x04"), []byte("l\x00\x00\x00\x00\x00\x00\x00\x06"), nil)
		},
		"lost state": func(t *testing.T, db *pebble.DB) {
			b, err := (&metapb.Applied{Format: 1, Index: 0, Conf: &metapb.ConfState{Voters: []uint64{1}}}).MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			db.Set([]byte("sa"), b, nil)
		},
		"bad entry": func(t *testing.T, db *pebble.DB) {
			db.Set([]byte("l\x00\x00\x00\x00\x00\x00\x00\x04"), []byte("x"), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			s, err := Open(Config{Dir: "meta", FS: fs})
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				put(t, s.Store(), raftmeta.Next("n", 1))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			edit(t, fs, "meta", func(db *pebble.DB) { damage(t, db) })
			if _, err := Open(Config{Dir: "meta", FS: fs}); !errors.Is(err, raftlog.ErrCorrupt) {
				t.Errorf("Open: %v, want ErrCorrupt", err)
			}
		})
	}
}

// TestCorruptCommandIsNeverApplied changes a byte of an entry that is not applied yet.
func TestCorruptCommandIsNeverApplied(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	s, err := Open(Config{Dir: "meta", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s.Store(), raftmeta.Put("a", []byte("1")))
	put(t, s.Store(), raftmeta.Put("a", []byte("2")))
	before := s.log().last
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, fs, "meta", func(db *pebble.DB) {
		// As if the process had died before it applied the last entry.
		key := fmt.Appendf(nil, "l\x00\x00\x00\x00\x00\x00\x00%c", before)
		v, closer, err := db.Get(key)
		if err != nil {
			t.Fatal(err)
		}
		v = bytes.Clone(v)
		closer.Close()
		v[len(v)-1] ^= 1
		db.Set(key, v, nil)
		h, err := (&metapb.Applied{Format: 1, Index: before - 1, Term: 2, Revision: 1, Conf: &metapb.ConfState{Voters: []uint64{1}}}).MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		db.Set([]byte("sa"), h, nil)
	})
	if _, err := Open(Config{Dir: "meta", FS: fs}); !errors.Is(err, raftmeta.ErrUnavailable) || !strings.Contains(err.Error(), "CRC") {
		t.Errorf("Open: %v, want a CRC error", err)
	}
}

func TestWithoutSpaceOnlyDeletesAreTaken(t *testing.T) {
	t.Parallel()
	full := false
	st := open(t, Config{Dir: "meta", FS: vfs.NewMem(), HasSpace: func() bool { return !full }}).Store()
	put(t, st, raftmeta.Put("a", nil))
	full = true
	if _, err := st.Commit(t.Context(), raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("b", nil)}}); !errors.Is(err, raftmeta.ErrNoSpace) {
		t.Errorf("put without space: %v, want ErrNoSpace", err)
	}
	put(t, st, raftmeta.Delete("a"))
	if _, err := st.Get(t.Context(), "a"); !errors.Is(err, raftmeta.ErrNotFound) {
		t.Errorf("get after delete: %v", err)
	}
	full = false
	put(t, st, raftmeta.Put("b", nil))
}

func TestLogAndEventsAreTrimmed(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	s, err := Open(Config{Dir: "meta", FS: fs, RetainRevisions: 500, MemTableBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	st := s.Store()
	const n = 5000
	done := make(chan error, 16)
	for range cap(done) {
		go func() {
			var err error
			for range n / cap(done) {
				if _, e := st.Commit(t.Context(), raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("n", 1)}}); e != nil {
					err = e
				}
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	rev := put(t, st, raftmeta.Put("last", nil))
	if l := s.log(); l.last-l.first > 2500 {
		t.Errorf("the log keeps entries %d to %d", l.first, l.last)
	}
	// Compactions keep up: each is asked for by the one before it.
	if m := s.db.Metrics(); m.Compact.Count == 0 || m.Levels[0].TablesCount > 20 {
		t.Errorf("%d compactions, %d tables in level 0", m.Compact.Count, m.Levels[0].TablesCount)
	}
	w, err := st.Watch(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Next(t.Context()); !errors.Is(err, raftmeta.ErrCompacted) {
		t.Errorf("watch from the beginning: %v, want ErrCompacted", err)
	}
	w2, err := st.Watch(t.Context(), "", rev-500)
	if err != nil {
		t.Fatal(err)
	}
	defer w2.Close()
	if b, err := w2.Next(t.Context()); err != nil || b.Rev != rev-499 {
		t.Errorf("watch of what is kept: %v, %v", b, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{Dir: "meta", FS: fs})
	if it, err := s.Store().Get(t.Context(), "n"); err != nil || it.Version != n/16*16 {
		t.Errorf("after the restart: %d, %v", it.Version, err)
	}
}

// TestEventsAreTrimmedByTime and the tests below run a whole node on the fake clock.
func TestEventsAreTrimmedByTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Config{Dir: "meta", FS: vfs.NewMem(), RetainFor: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		st := s.Store()
		var last raftmeta.Revision
		for range 37 { // three hours; the last has the trimming proposed
			time.Sleep(5 * time.Minute)
			last = put(t, st, raftmeta.Put("a", nil))
		}
		synctest.Wait()
		first := raftmeta.Revision(-1)
		for after := range last {
			w, err := st.Watch(t.Context(), "", after)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Next(t.Context())
			w.Close()
			if err == nil {
				first = after + 1
				break
			}
			if !errors.Is(err, raftmeta.ErrCompacted) {
				t.Fatal(err)
			}
		}
		if first != 26 {
			t.Errorf("the first kept revision is %d, want 26, the first of the last hour", first)
		}
	})
}

func TestSessionsExpireOnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		fs := vfs.NewCrashableMem()
		s, err := Open(Config{Dir: "meta", FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		ses, err := s.Store().OpenSession(ctx, raftmeta.SessionOptions{Node: "n", Incarnation: 1, TTL: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		put(t, s.Store(), raftmeta.PutEphemeral("e", nil, ses.ID()))
		time.Sleep(time.Hour)
		select {
		case <-ses.Lost():
			t.Fatal("a session that is kept alive was lost")
		default:
		}
		// The owner dies with the process; the next one grants a full TTL, and not more.
		image := fs.CrashClone(vfs.CrashCloneCfg{})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		<-ses.Lost()
		time.Sleep(time.Hour)
		s, err = Open(Config{Dir: "meta", FS: image})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		start := time.Now()
		it, err := s.Store().Get(ctx, "e")
		if err != nil {
			t.Fatalf("ephemeral key after the restart: %v", err)
		}
		w, err := s.Store().Watch(ctx, "e", it.Mod)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		b, err := w.Next(ctx)
		if err != nil || len(b.Events) != 1 || !b.Events[0].Deleted {
			t.Fatalf("Next = %+v, %v, want the deletion", b, err)
		}
		if d := time.Since(start); d < 10*time.Second || d > 10*time.Second+100*time.Millisecond {
			t.Errorf("expired %v after the restart, want the TTL", d)
		}
	})
}

func TestExportRestoresElsewhere(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := open(t, Config{Dir: "meta", FS: vfs.NewMem()})
	ses, err := s.Store().OpenSession(ctx, raftmeta.SessionOptions{Node: "n", Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for i := range 300 {
		put(t, s.Store(), raftmeta.Put(fmt.Sprintf("k/%d", i), []byte(fmt.Sprint("value ", i))))
	}
	put(t, s.Store(), raftmeta.Put("big", big), raftmeta.PutEphemeral("e", nil, ses.ID()))
	if err := s.Compact(ctx, 100); err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := s.Export(ctx, &stream); err != nil {
		t.Fatal(err)
	}
	want, rev, err := s.Store().Range(ctx, "", raftmeta.PrefixEnd(""), 0)
	if err != nil {
		t.Fatal(err)
	}

	fs := vfs.NewMem()
	other, err := Open(Config{Dir: "meta", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	put(t, other.Store(), raftmeta.Put("what was there before", nil))
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, fs, "meta", func(db *pebble.DB) {
		staged, err := snapshot.Stage(&stream, s.cluster, fs, "meta/staged", pebbleFormat)
		if err != nil {
			t.Fatal(err)
		}
		if err := staged.Install(ctx, db); err != nil {
			t.Fatal(err)
		}
		// Here the log is still the old one: as after a crash in the middle.
	})
	other = open(t, Config{Dir: "meta", FS: fs})
	got, gotRev, err := other.Store().Range(ctx, "", raftmeta.PrefixEnd(""), 0)
	if err != nil || gotRev != rev || len(got) != len(want) {
		t.Fatalf("restored %d items at %d, %v, want %d at %d", len(got), gotRev, err, len(want), rev)
	}
	for i := range got {
		if got[i].Key != want[i].Key || !bytes.Equal(got[i].Value, want[i].Value) || got[i].Mod != want[i].Mod || got[i].Session != want[i].Session {
			t.Fatalf("item %+v, want %+v", got[i], want[i])
		}
	}
	w, err := other.Store().Watch(ctx, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for r := raftmeta.Revision(101); r <= rev; r++ {
		if b, err := w.Next(ctx); err != nil || b.Rev != r {
			t.Fatalf("restored event %+v, %v, want revision %d", b, err, r)
		}
	}
	if got := put(t, other.Store(), raftmeta.Put("new", nil)); got != rev+1 {
		t.Errorf("first revision after the restore is %d, want %d", got, rev+1)
	}
}

func TestCancelledCommitReturns(t *testing.T) {
	t.Parallel()
	st := open(t, Config{Dir: "meta", FS: vfs.NewMem()}).Store()
	for i := range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		_, err := st.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put(fmt.Sprint("k", i), nil)}})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("Commit: %v", err)
		}
	}
	put(t, st, raftmeta.Put("after", nil))
}

type logRange struct{ first, last uint64 }

// log returns the range of the log's entries.
func (s *Server) log() logRange {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{'l'}, UpperBound: []byte{'m'}})
	if err != nil {
		panic(err)
	}
	defer it.Close()
	var r logRange
	number := func() (n uint64) {
		for _, b := range it.Key()[1:] {
			n = n<<8 | uint64(b)
		}
		return n
	}
	if it.First() {
		r.first = number()
	}
	if it.Last() {
		r.last = number()
	}
	return r
}
