//go:build !linux

package disk

import (
	"errors"
	"os"
)

const directFlags = 0

// setDirect refuses, so that the self-test falls back to a sync after each write.
func setDirect(*os.File) error { return errors.ErrUnsupported }

func dataSync(f *os.File) error { return f.Sync() } // F_FULLFSYNC on darwin

func allocate(*os.File, int64) error { return errors.ErrUnsupported }
