package store

import (
	"fmt"
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
	for _, size := range []int64{16 << 20, 8 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			ledgertest.Suite(t, func(t *testing.T) ledgerfs.Bookie {
				s := mustOpen(t, Config{Dir: t.TempDir(), SegmentSize: size})
				t.Cleanup(func() {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
				return s
			})
		})
	}
	t.Run("mem", func(t *testing.T) {
		ledgertest.Suite(t, func(t *testing.T) ledgerfs.Bookie {
			s := mustOpen(t, Config{FS: disk.NewMem(), SegmentSize: 8 << 20})
			t.Cleanup(func() { s.Close() })
			return s
		})
	})
}
