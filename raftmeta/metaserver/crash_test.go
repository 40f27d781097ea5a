package metaserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/daybook/daybook/raftmeta"
)

// A crasher runs workers that commit pairs of keys, and remembers what was answered.
type crasher struct {
	acked [4]atomic.Int64 // by worker: the last number whose commit was answered
	rev   atomic.Int64    // the greatest revision that was answered
}

func pairKeys(worker int) (string, string) {
	return fmt.Sprintf("pair/%d/a", worker), fmt.Sprintf("pair/%d/b", worker)
}

// run commits until the store is closed. Each worker goes on from what the store holds.
func (c *crasher) run(t *testing.T, st raftmeta.Store, wg *sync.WaitGroup) {
	for w := range c.acked {
		wg.Go(func() {
			a, b := pairKeys(w)
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			n := int64(0)
			if it, err := st.Get(t.Context(), a); err == nil {
				n = int64(binary.BigEndian.Uint64(it.Value))
			}
			for {
				n++
				value := append(binary.BigEndian.AppendUint64(nil, uint64(n)), make([]byte, rng.IntN(2000))...)
				r, err := st.Commit(t.Context(), raftmeta.Txn{Then: []raftmeta.Op{
					raftmeta.Put(a, value), raftmeta.Next("count", 1), raftmeta.Put(b, value),
				}})
				if errors.Is(err, raftmeta.ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("Commit: %v", err)
					return
				}
				c.acked[w].Store(n)
				for old := c.rev.Load(); old < int64(r.Rev) && !c.rev.CompareAndSwap(old, int64(r.Rev)); {
					old = c.rev.Load()
				}
			}
		})
	}
}

// check says whether the store holds all that was answered, each commit whole, and events for each revision.
func (c *crasher) check(t *testing.T, st raftmeta.Store, acked [4]int64, rev int64) {
	t.Helper()
	ctx := t.Context()
	items, at, err := st.Range(ctx, "pair/", "pair0", 0)
	if err != nil {
		t.Fatalf("Range after the crash: %v", err)
	}
	if int64(at) < rev {
		t.Errorf("revision %d after the crash, %d was answered", at, rev)
	}
	value := map[string][]byte{}
	for _, it := range items {
		value[it.Key] = it.Value
	}
	total := int64(0)
	for w := range acked {
		a, b := pairKeys(w)
		if !bytes.Equal(value[a], value[b]) {
			t.Errorf("worker %d: half a commit is present", w)
		}
		n := int64(0)
		if value[a] != nil {
			n = int64(binary.BigEndian.Uint64(value[a]))
		}
		if n < acked[w] {
			t.Errorf("worker %d: %d is present, %d was answered", w, n, acked[w])
		}
		total += n
	}
	if it, err := st.Get(ctx, "count"); total > 0 && (err != nil || int64(binary.BigEndian.Uint64(it.Value)) != total) {
		t.Errorf("the count is %x, %v, the numbers add up to %d", it.Value, err, total)
	}
	if int64(at) != total {
		t.Errorf("revision %d after %d commits", at, total)
	}
	w, err := st.Watch(ctx, "count", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for want := raftmeta.Revision(1); want <= at; want++ {
		b, err := w.Next(ctx)
		if err != nil || b.Rev != want || len(b.Events) != 1 {
			t.Fatalf("event %d after the crash: %v, %v", want, b, err)
		}
	}
}

func TestAnsweredCommitsSurviveCrashes(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(7, 7))
	fs := vfs.NewCrashableMem()
	var c crasher
	for round := range 12 {
		cfg := Config{Dir: "data/meta", FS: fs, MemTableBytes: 256 << 10}
		s, err := Open(cfg)
		if err != nil {
			t.Fatalf("round %d: Open after a crash: %v", round, err)
		}
		var acked [4]int64
		for w := range acked {
			acked[w] = c.acked[w].Load()
		}
		c.check(t, s.Store(), acked, c.rev.Load())
		var wg sync.WaitGroup
		c.run(t, s.Store(), &wg)
		// Crash after a while that is counted in commits; the workers go on, for the image may be taken
		// anywhere in their writing.
		target := c.rev.Load() + rng.Int64N(400)
		for c.rev.Load() < target && !t.Failed() {
			awaitRevision(t, s.Store(), raftmeta.Revision(target))
		}
		for w := range acked {
			acked[w] = c.acked[w].Load()
		}
		rev := c.rev.Load()
		image := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rand.New(rand.NewPCG(uint64(round), 3))})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for w := range acked {
			c.acked[w].Store(acked[w])
		}
		c.rev.Store(rev)
		fs = image
		if t.Failed() {
			return
		}
	}
}

// awaitRevision returns when the store has reached rev.
func awaitRevision(t *testing.T, st raftmeta.Store, rev raftmeta.Revision) {
	w, err := st.Watch(t.Context(), "", rev-1)
	if err != nil {
		t.Error(err)
		return
	}
	defer w.Close()
	if _, err := w.Next(t.Context()); err != nil {
		t.Errorf("Next: %v", err)
	}
}

// TestFirstStartSurvivesCrashes crashes anywhere in the making of a new directory.
func TestFirstStartSurvivesCrashes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		mem := vfs.NewCrashableMem()
		rng := rand.New(rand.NewPCG(seed, 1))
		var image *vfs.MemFS
		var mu sync.Mutex
		ops := 0
		at := rng.IntN(60)
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				if ops++; ops == at {
					image = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
				}
			}
			return nil
		}))
		s, err := Open(Config{Dir: "meta", FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if image == nil {
			continue
		}
		s, err = Open(Config{Dir: "meta", FS: image})
		if err != nil {
			t.Fatalf("crash at write %d: %v", at, err)
		}
		if _, err := s.Store().Commit(t.Context(), raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("a", nil)}}); err != nil {
			t.Fatalf("crash at write %d: %v", at, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRestartSupersedesItsFormerSessionAtOnce(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	fs := vfs.NewCrashableMem()
	s := open(t, Config{Dir: "meta", FS: fs})
	ses, err := s.Store().OpenSession(ctx, raftmeta.SessionOptions{Node: "bookie-1", Incarnation: 1, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Store().OpenSession(ctx, raftmeta.SessionOptions{Node: "bookie-2", Incarnation: 1, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Store().Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{
		raftmeta.PutEphemeral("bookies/1", nil, ses.ID()), raftmeta.PutEphemeral("bookies/2", nil, other.ID()),
	}}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s = open(t, Config{Dir: "meta", FS: fs.CrashClone(vfs.CrashCloneCfg{})})
	if _, err := s.Store().Get(ctx, "bookies/1"); err != nil {
		t.Fatalf("the session does not outlive the crash: %v", err)
	}
	if _, err := s.Store().OpenSession(ctx, raftmeta.SessionOptions{Node: "bookie-1", Incarnation: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Store().Get(ctx, "bookies/1"); !errors.Is(err, raftmeta.ErrNotFound) {
		t.Errorf("key of the former session: %v, want ErrNotFound", err)
	}
	if _, err := s.Store().Get(ctx, "bookies/2"); err != nil {
		t.Errorf("key of another node: %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}

// TestFailedSyncIsFatal lets a sync fail: the commit is not answered, nothing is answered after it, and what was
// answered before is there for the next process.
func TestFailedSyncIsFatal(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]errorfs.OpKind{"sync": errorfs.OpFileSync, "write": errorfs.OpFileWrite} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			var broken atomic.Bool
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if broken.Load() && (op.Kind == kind || op.Kind == errorfs.OpFileSyncData && kind == errorfs.OpFileSync) {
					return errorfs.ErrInjected
				}
				return nil
			}))
			fatal := make(chan error, 1)
			s, err := Open(Config{Dir: "meta", FS: fs, Fatal: func(err error) { fatal <- err }})
			if err != nil {
				t.Fatal(err)
			}
			st := s.Store()
			w, err := st.Watch(t.Context(), "", 1)
			if err != nil {
				t.Fatal(err)
			}
			put := func() error {
				_, err := st.Commit(t.Context(), raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("n", 1)}})
				return err
			}
			if err := put(); err != nil {
				t.Fatal(err)
			}
			broken.Store(true)
			if err := put(); !errors.Is(err, raftmeta.ErrUnavailable) {
				t.Fatalf("commit whose sync failed: %v, want ErrUnavailable", err)
			}
			if err := <-fatal; !errors.Is(err, errorfs.ErrInjected) {
				t.Errorf("Fatal was told %v", err)
			}
			broken.Store(false) // the disk says that all is well again
			if err := put(); !errors.Is(err, raftmeta.ErrUnavailable) {
				t.Errorf("commit after a failed sync: %v, want ErrUnavailable", err)
			}
			if _, err := st.Get(t.Context(), "n"); !errors.Is(err, raftmeta.ErrUnavailable) {
				t.Errorf("get after a failed sync: %v, want ErrUnavailable", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if b, err := w.Next(ctx); !errors.Is(err, raftmeta.ErrUnavailable) {
				t.Errorf("watch after a failed sync: %v, %v, want ErrUnavailable", b, err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("Close of a failed node: %v", err)
			}
			s = open(t, Config{Dir: "meta", FS: mem.CrashClone(vfs.CrashCloneCfg{})})
			if it, err := s.Store().Get(t.Context(), "n"); err != nil || it.Version != 1 {
				t.Errorf("after the restart: version %d, %v, want 1", it.Version, err)
			}
		})
	}
}

// TestFullDiskIsSurvived lets new table files fail for want of space: commits go on into the log, and when space
// comes back so do the tables.
func TestFullDiskIsSurvived(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	var refusals atomic.Int64
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") && refusals.Add(-1) >= 0 {
			return &os.PathError{Op: "create", Path: op.Path, Err: syscall.ENOSPC}
		}
		return nil
	}))
	s, err := Open(Config{Dir: "meta", FS: fs, MemTableBytes: 64 << 10, Fatal: func(err error) { t.Errorf("Fatal: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	refusals.Store(3)
	const n = 500
	for i := range n {
		put(t, s.Store(), raftmeta.Put(fmt.Sprint("k", i), make([]byte, 1000)))
	}
	if refusals.Load() >= 0 {
		t.Error("no table was refused")
	}
	image := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{Dir: "meta", FS: image})
	items, _, err := s.Store().Range(t.Context(), "k", "l", 0)
	if err != nil || len(items) != n {
		t.Errorf("%d keys, %v, want %d", len(items), err, n)
	}
}

// TestOpenReportsAFailingDisk fails every write of a first start, one after the other, and each sync: pebble would end
// the process, or panic, for most of them.
func TestOpenReportsAFailingDisk(t *testing.T) {
	t.Parallel()
	failed := 0
	for at := 1; ; at++ {
		ops := 0
		var mu sync.Mutex
		fs := errorfs.Wrap(vfs.NewCrashableMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				if ops++; ops >= at { // it stays broken
					return errorfs.ErrInjected
				}
			}
			return nil
		}))
		s, err := Open(Config{Dir: "meta", FS: fs})
		if err != nil {
			if failed++; !errors.Is(err, errorfs.ErrInjected) {
				t.Fatalf("write %d fails: Open = %v", at, err)
			}
			continue
		}
		s.Close()
		if failed < 10 {
			t.Fatalf("Open met %d failing writes only", failed)
		}
		return
	}
}

// TestCloseReturnsWhenTheDiskFailsMeanwhile closes a node while a sync is under way that then fails.
func TestCloseReturnsWhenTheDiskFailsMeanwhile(t *testing.T) {
	t.Parallel()
	var slow atomic.Bool
	syncing, fail := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fs := errorfs.Wrap(vfs.NewCrashableMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !slow.Load() || op.Kind != errorfs.OpFileSync && op.Kind != errorfs.OpFileSyncData {
			return nil
		}
		once.Do(func() { close(syncing) })
		<-fail
		return errorfs.ErrInjected
	}))
	s, err := Open(Config{Dir: "meta", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	slow.Store(true)
	done := make(chan error, 2)
	go func() {
		_, err := s.Store().Commit(context.Background(), raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next("n", 1)}})
		done <- err
	}()
	<-syncing
	closed := make(chan struct{})
	go func() {
		s.Close()
		close(closed)
	}()
	if err := <-done; err == nil {
		t.Error("a commit that was not synced is answered")
	}
	close(fail) // Close has begun: it has failed the commit
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("Close does not return")
	}
}

// A database that lost its manifest in the crash of its own creation is made anew; one that was whole is not.
func TestUnfinishedCreationIsRepeated(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
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
		for _, n := range names {
			if strings.HasPrefix(n, "MANIFEST") || n == createdName && !whole {
				if err := fs.Remove(fs.PathJoin("meta", n)); err != nil {
					t.Fatal(err)
				}
			}
		}
		s, err = Open(Config{Dir: "meta", FS: fs})
		if err == nil {
			s.Close()
		}
		if whole != (err != nil) {
			t.Errorf("whole %v: Open = %v", whole, err)
		}
	}
}
