package metaserver

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/daybook/daybook/raftmeta"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/format-1 anew: only before that format was ever released")

const formatDir = "testdata/format-1"

// TestFormat1IsReadable opens a directory that an earlier build wrote, and left without an orderly end.
func TestFormat1IsReadable(t *testing.T) {
	if *rewrite {
		writeFormat1(t)
	}
	mem := vfs.NewMem()
	if ok, err := vfs.Clone(vfs.Default, mem, formatDir, "meta"); err != nil || !ok {
		t.Fatalf("copy %s: %v, %v", formatDir, ok, err)
	}
	st := open(t, Config{Dir: "meta", FS: mem}).Store()
	items, rev, err := st.Range(t.Context(), "", raftmeta.PrefixEnd(""), 0)
	if err != nil {
		t.Fatal(err)
	}
	if rev != 5 || len(items) != 3 {
		t.Fatalf("%d items at revision %d, want 3 at 5", len(items), rev)
	}
	for i, want := range []raftmeta.Item{
		{Key: "live", Value: []byte("here"), Created: 3, Mod: 3, Version: 1, Session: items[0].Session},
		{Key: "n", Value: []byte{0, 0, 0, 0, 0, 0, 0, 12}, Created: 4, Mod: 5, Version: 2},
		{Key: "plain", Value: []byte("second"), Created: 1, Mod: 2, Version: 2},
	} {
		if got := items[i]; got.Key != want.Key || !bytes.Equal(got.Value, want.Value) || got.Created != want.Created ||
			got.Mod != want.Mod || got.Version != want.Version || got.Session != want.Session {
			t.Errorf("item %+v, want %+v", got, want)
		}
	}
	if items[0].Session == 0 {
		t.Error("the ephemeral key has no session")
	}
	w, err := st.Watch(t.Context(), "", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for want := raftmeta.Revision(2); want <= 5; want++ {
		if b, err := w.Next(t.Context()); err != nil || b.Rev != want {
			t.Fatalf("event %+v, %v, want revision %d", b, err, want)
		}
	}
	if _, err := st.OpenSession(t.Context(), raftmeta.SessionOptions{Node: "node", Incarnation: 2}); err != nil {
		t.Fatal(err)
	}
	if _, rev, _ := st.Range(t.Context(), "", "", 0); rev != 6 {
		t.Errorf("revision %d after the old session was superseded, want 6", rev)
	}
}

func writeFormat1(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := open(t, Config{Dir: "meta", FS: mem})
	put(t, s.Store(), raftmeta.Put("plain", []byte("first")))
	put(t, s.Store(), raftmeta.Put("plain", []byte("second")))
	ses, err := s.Store().OpenSession(t.Context(), raftmeta.SessionOptions{Node: "node", Incarnation: 1, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s.Store(), raftmeta.PutEphemeral("live", []byte("here"), ses.ID()))
	put(t, s.Store(), raftmeta.Next("n", 10))
	if err := s.Compact(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := s.db.Flush(); err != nil { // tables as well as a log
		t.Fatal(err)
	}
	put(t, s.Store(), raftmeta.Next("n", 2))
	if err := os.RemoveAll(formatDir); err != nil {
		t.Fatal(err)
	}
	if ok, err := vfs.Clone(mem.CrashClone(vfs.CrashCloneCfg{}), vfs.Default, "meta", formatDir); err != nil || !ok {
		t.Fatalf("write %s: %v, %v", formatDir, ok, err)
	}
	_ = os.Remove(formatDir + "/LOCK")
}
