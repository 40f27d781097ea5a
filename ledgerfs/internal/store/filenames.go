package store

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// IdentityFile is the file, in Dir and in the segments' directory, without which a directory is not a store's.
const IdentityFile = "IDENTITY"

// The names of the store's other files.
const (
	lockFile    = "LOCK"
	reserveFile = "RESERVE"
	indexDir    = "index"
	segmentDir  = "segments"
)

func segmentFile(n uint64) string { return fmt.Sprintf("seg-%012d", n) }

// freeFile is a segment file that waits to be used again; n is the number it had.
func freeFile(n uint64) string { return fmt.Sprintf("free-%012d", n) }

// newFile is a segment file that is being made.
const newFile = "new.tmp"

func parseName(name, prefix string) (uint64, bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok || len(rest) != 12 {
		return 0, false
	}
	n, err := strconv.ParseUint(rest, 10, 64)
	return n, err == nil
}

func (s *Store) dir(name string) string     { return filepath.Join(s.cfg.Dir, name) }
func (s *Store) segDir() string             { return s.cfg.JournalDir }
func (s *Store) segPath(name string) string { return filepath.Join(s.cfg.JournalDir, name) }
func (s *Store) segmentName(n uint64) string {
	return s.segPath(segmentFile(n))
}
