package clientcmd

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxLine is more than a broker takes, so that what is too long is refused by the client with its reason.
const maxLine = 64 << 20

// lines calls fn with each line of r, without its newline; a last line needs none.
func lines(r io.Reader, fn func([]byte) error) error {
	b := bufio.NewReaderSize(r, 64<<10)
	var line []byte
	for {
		part, err := b.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return errors.New("a line of standard input is longer than 64 MiB")
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == io.EOF:
			if len(line) == 0 {
				return nil
			}
			return fn(line)
		case err != nil:
			return err
		}
		// The client keeps the message until it is acknowledged.
		if err := fn(bytes.Clone(line[:len(line)-1])); err != nil {
			return err
		}
		line = line[:0]
	}
}
