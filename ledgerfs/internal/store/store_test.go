package store

import (
	"log/slog"
	"testing"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
)

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) { l.t.Log(string(b)); return len(b), nil }

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func mustOpen(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = "/bookie"
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPassesSuite(t *testing.T) {
	t.Parallel()
	t.Run("os", func(t *testing.T) {
		t.Parallel()
		ledgertest.Suite(t, func(t *testing.T) ledgerfs.Bookie {
			s := mustOpen(t, Config{Dir: t.TempDir(), SegmentSize: 8 << 20})
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			return s
		})
	})
	t.Run("mem", func(t *testing.T) {
		t.Parallel()
		ledgertest.Suite(t, func(t *testing.T) ledgerfs.Bookie {
			m := disk.NewMem()
			m.SetCapacity(64 << 20) // reserves are in proportion
			s := mustOpen(t, Config{FS: m, SegmentSize: 8 << 20})
			t.Cleanup(func() { s.Close() })
			return s
		})
	})
}
