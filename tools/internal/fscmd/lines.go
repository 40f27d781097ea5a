package fscmd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/daybook/daybook/ledgerfs/filetree"
)

// maxLine is the longest line that is read; the broker's limit of messages is lower.
const maxLine = filetree.MaxAppendBytes / 2

// A lineReader reads lines without a limit of its buffer.
type lineReader struct{ r *bufio.Reader }

func newLineReader(r io.Reader) *lineReader { return &lineReader{bufio.NewReaderSize(r, 256<<10)} }

// next is the next line, without its newline; it is the caller's. A last line needs no newline.
func (l *lineReader) next() ([]byte, error) {
	var line []byte
	for {
		part, err := l.r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return bytes.TrimSuffix(line, []byte("\n")), nil
		case len(line) > maxLine:
			return nil, fmt.Errorf("line of more than %d bytes: %w", maxLine, filetree.EMSGSIZE)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, nil
		default:
			return nil, err
		}
	}
}

// waiting reports whether the next line may not have arrived yet.
func (l *lineReader) waiting() bool { return l.r.Buffered() == 0 }
