package disk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func write(t *testing.T, fs FS, name string, flags Flag, data []byte, off int64) File {
	t.Helper()
	f, err := fs.Open(name, flags)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.WriteAt(data, off); err != nil {
		t.Fatal(err)
	}
	return f
}

func content(fs FS, name string) string {
	b, err := ReadFile(fs, name, 1<<20)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(b)
}

// TestCrashLosesWhatWasNotSynced goes through the steps that make a file durable.
func TestCrashLosesWhatWasNotSynced(t *testing.T) {
	m := NewMem()
	if err := m.MkdirAll("/a/b"); err != nil {
		t.Fatal(err)
	}
	f := write(t, m, "/a/b/f", Create|Write, []byte("data"), 0)
	image := func(s Survival) *Mem { return m.CrashImage(s, 1) }
	if ok, _ := image(SurviveNone).Exists("/a/b/f"); ok {
		t.Fatal("a name survived that was not synced")
	}
	if got := content(image(SurviveAll), "/a/b/f"); got != "data" {
		t.Fatalf("all survives: %q", got)
	}
	if err := m.SyncDir("/a/b"); err != nil {
		t.Fatal(err)
	}
	if got := content(image(SurviveNone), "/a/b/f"); got != "" {
		t.Fatalf("data survived that was not synced: %q", got)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := content(image(SurviveNone), "/a/b/f"); got != "data" {
		t.Fatalf("synced data: %q", got)
	}
	// A rename that was not synced: the old name comes back.
	if err := m.Rename("/a/b/f", "/a/b/g"); err != nil {
		t.Fatal(err)
	}
	if got := content(image(SurviveNone), "/a/b/f"); got != "data" {
		t.Fatalf("old name: %q", got)
	}
	// Both faces see the same tree and crash at the same instant.
	v, err := m.Pebble().Create("/a/b/v", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	v.Write([]byte("pebble"))
	v.Sync()
	d, err := m.Pebble().OpenDir("/a/b")
	if err != nil {
		t.Fatal(err)
	}
	d.Sync()
	if got := content(image(SurviveNone), "/a/b/v"); got != "pebble" {
		t.Fatalf("written through the other face: %q", got)
	}
	m.Crash()
	if _, err := v.Write([]byte("x")); !errors.Is(err, ErrCrashed) {
		t.Fatalf("write after the crash = %v", err)
	}
}

// TestCrashTearsAtSectors leaves some sectors of a write and not others, differently by seed.
func TestCrashTearsAtSectors(t *testing.T) {
	m := NewMem()
	f := write(t, m, "/f", Create|Write, bytes.Repeat([]byte("a"), 8*SectorSize), 0)
	f.Sync()
	m.SyncDir("/")
	if err := f.WriteAt(bytes.Repeat([]byte("b"), 8*SectorSize), 0); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for seed := range uint64(20) {
		got := content(m.CrashImage(SurviveSome, seed), "/f")
		for i := 0; i < len(got); i += SectorSize {
			if s := got[i : i+SectorSize]; strings.Trim(s, s[:1]) != "" {
				t.Fatalf("sector %d is torn inside", i/SectorSize)
			}
		}
		seen[got] = true
	}
	if len(seen) < 10 {
		t.Fatalf("only %d different images", len(seen))
	}
}

func TestInjectedErrorsHaveNoEffect(t *testing.T) {
	m := NewMem()
	f := write(t, m, "/f", Create|Write, []byte("one"), 0)
	m.FailAt(m.Ops()+1, syscall.EIO)
	if err := f.WriteAt([]byte("two"), 0); !errors.Is(err, syscall.EIO) {
		t.Fatalf("WriteAt = %v", err)
	}
	if got := content(m, "/f"); got != "one" {
		t.Fatalf("content %q", got)
	}
	m.SetCapacity(100)
	if err := f.Allocate(1000); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Allocate = %v", err)
	}
}

// TestBothKeepTheContract holds the real file system and the twin against each other.
func TestBothKeepTheContract(t *testing.T) {
	real, err := NewOS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		fs   FS
		dir  string
	}{{"os", real, filepath.Join(t.TempDir(), "x/y")}, {"buffered", &OS{}, filepath.Join(t.TempDir(), "x/y")}, {"mem", NewMem(), "/x/y"}} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.fs.MkdirAll(c.dir); err != nil {
				t.Fatal(err)
			}
			if err := c.fs.MkdirAll(c.dir); err != nil {
				t.Fatal(err)
			}
			block := AlignedBlock(2 * BlockSize)
			copy(block, "hello")
			f := write(t, c.fs, c.dir+"/f", Create|Durable, block, BlockSize)
			if n, err := f.Size(); err != nil || n != 3*BlockSize {
				t.Fatalf("Size = %d, %v", n, err)
			}
			if err := f.Allocate(10 * BlockSize); err != nil {
				t.Fatal(err)
			}
			if n, _ := f.Size(); n != 10*BlockSize {
				t.Fatalf("Size after Allocate = %d", n)
			}
			got := AlignedBlock(2 * BlockSize)
			if err := ReadFull(f, got, BlockSize); err != nil || !bytes.Equal(got, block) {
				t.Fatalf("read back: %v", err)
			}
			if err := ReadFull(f, got, 9*BlockSize); err == nil {
				t.Fatal("reading past the end succeeded")
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.fs.Open(c.dir+"/none", 0); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("Open of nothing = %v", err)
			}
			if err := WriteFileAtomic(c.fs, c.dir, "id", []byte("x")); err != nil || content(c.fs, c.dir+"/id") != "x" {
				t.Fatalf("WriteFileAtomic: %v, %q", err, content(c.fs, c.dir+"/id"))
			}
			if err := c.fs.Rename(c.dir+"/f", c.dir+"/g"); err != nil {
				t.Fatal(err)
			}
			if names, err := c.fs.List(c.dir); err != nil || strings.Join(names, " ") != "g id" {
				t.Fatalf("List = %v, %v", names, err)
			}
			if u, err := c.fs.Usage(c.dir); err != nil || u.Total <= 0 || u.Free <= 0 || u.Free > u.Total {
				t.Fatalf("Usage = %+v, %v", u, err)
			}
			l, err := c.fs.Lock(c.dir + "/lock")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.fs.Lock(c.dir + "/lock"); !errors.Is(err, ErrLocked) {
				t.Fatalf("second Lock = %v", err)
			} else if c.name != "mem" && !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
				t.Fatalf("second Lock does not name the holder: %v", err)
			}
			l.Close()
			if l, err = c.fs.Lock(c.dir + "/lock"); err != nil {
				t.Fatal(err)
			}
			l.Close()
			if err := c.fs.Remove(c.dir + "/g"); err != nil {
				t.Fatal(err)
			}
			if err := c.fs.SyncDir(c.dir); err != nil {
				t.Fatal(err)
			}
		})
	}
}
