package bookie

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/metatest"
)

func open(t *testing.T, meta raftmeta.Store, dir string) *Bookie {
	t.Helper()
	b, err := Open(t.Context(), Config{ID: "b/1", Dir: dir, Meta: meta, Address: "127.0.0.1:3181"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnnouncesItselfUnderItsSession(t *testing.T) {
	meta := metatest.New()
	dir := t.TempDir()
	b := open(t, meta, dir)
	session, err := meta.OpenSession(t.Context(), raftmeta.SessionOptions{Node: "n", Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Register(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	it, err := meta.Get(t.Context(), AliveKey("b/1"))
	if err != nil {
		t.Fatal(err)
	}
	if m, addr, err := ParseAlive(it); err != nil || m != b.Member() || addr != "127.0.0.1:3181" {
		t.Fatalf("announced %v at %q, %v", m, addr, err)
	}
	if err := session.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := meta.Get(t.Context(), AliveKey("b/1")); !errors.Is(err, raftmeta.ErrNotFound) {
		t.Fatalf("after the session: %v", err)
	}
	// It keeps its identity and its entries over a restart.
	if err := b.Install(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := ledgertest.Await(b, ledgertest.NewAdd(1, 0, 3, []byte("abc"))); err != nil {
		t.Fatal(err)
	}
	m := b.Member()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, meta, dir)
	defer b.Close()
	if b.Member() != m {
		t.Fatalf("came back as %v, was %v", b.Member(), m)
	}
	r, err := b.Read(t.Context(), ledgerfs.ReadRequest{Ledger: 1, First: 0})
	if err != nil || string(r.Entries[0].Payload) != "abc" {
		t.Fatalf("Read = %+v, %v", r, err)
	}
}

func TestRefusesStorageThatIsNotItsOwn(t *testing.T) {
	meta := metatest.New()
	base := t.TempDir()
	dir := filepath.Join(base, "a")
	if err := open(t, meta, dir).Close(); err != nil {
		t.Fatal(err)
	}
	refused := func(what, dir string, want error) {
		t.Helper()
		b, err := Open(t.Context(), Config{ID: "b/1", Dir: dir, Meta: meta})
		if !errors.Is(err, want) {
			t.Fatalf("%s: Open = %v, want %v", what, err, want)
		}
		if b != nil {
			t.Fatal("a bookie came with the error")
		}
	}
	refused("wiped", filepath.Join(base, "empty"), ErrIdentity)
	if _, err := os.Stat(filepath.Join(base, "empty")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the refused directory was formatted")
	}

	b := open(t, meta, dir)
	_, err := Open(t.Context(), Config{ID: "b/1", Dir: dir, Meta: meta})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Fatalf("open twice: %v, want the holder's pid", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	if err := os.Rename(filepath.Join(dir, "segments"), filepath.Join(base, "gone")); err != nil {
		t.Fatal(err)
	}
	refused("segments missing", dir, ErrIdentity)
	if err := os.RemoveAll(filepath.Join(dir, "segments")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(base, "gone"), filepath.Join(dir, "segments")); err != nil {
		t.Fatal(err)
	}
	open(t, meta, dir).Close()

	name := filepath.Join(dir, "IDENTITY")
	id, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(string(id), `"format":1`, `"format":2`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	refused("newer", dir, ErrNewer)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	refused("identity missing", dir, ErrIdentity)
}

func TestPassesSuite(t *testing.T) {
	ledgertest.Suite(t, func(t *testing.T) ledgerfs.Bookie {
		b, err := Open(context.Background(), Config{ID: "b", Dir: t.TempDir(), Meta: metatest.New()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		return b
	})
}
