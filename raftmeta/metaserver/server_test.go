package metaserver

import (
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/metatest"
)

func open(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestServerPassesSuite(t *testing.T) {
	metatest.Suite(t, func(t *testing.T) raftmeta.Store {
		return open(t, Config{Dir: "meta", FS: vfs.NewMem()}).Store()
	})
}

func TestServerOnDiskPassesSuite(t *testing.T) {
	if testing.Short() {
		t.Skip("syncs to a real disk")
	}
	metatest.Suite(t, func(t *testing.T) raftmeta.Store {
		return open(t, Config{Dir: t.TempDir()}).Store()
	})
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
