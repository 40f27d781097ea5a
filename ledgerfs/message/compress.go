package message

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// zstdDecoder serves all goroutines: DecodeAll keeps no state in it. What one call may produce is bounded by
// the capacity it is given.
var zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(fmt.Sprintf("message: zstd decoder: %v", err)) // constant options
	}
	return d
})

// zstdEncoder serves all goroutines.
var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(fmt.Sprintf("message: zstd encoder: %v", err))
	}
	return e
})

type zlibReader struct {
	r   io.ReadCloser
	src bytes.Reader
}

// Payload is e's payload decompressed: the value or the batch. Without compression it aliases e, else the
// decoder's scratch space, valid until the decoder's next use. The metadata must name the size exactly.
func (d *Decoder) Payload(e *Entry) ([]byte, error) {
	c, src := e.Meta.Compression, e.Payload
	if c == None {
		return src, nil
	}
	limit := d.MaxUncompressed
	if limit == 0 {
		limit = DefaultMaxUncompressed
	}
	if uint64(e.Meta.UncompressedSize) > uint64(limit) {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, e.Meta.UncompressedSize, limit)
	}
	size := int(e.Meta.UncompressedSize)
	if size == 0 {
		return nil, nil // whatever the compression made of nothing
	}
	if size > maxRatio(c)*len(src)+64 {
		return nil, fmt.Errorf("%w: %v of %d bytes cannot hold %d", ErrMalformed, c, len(src), size)
	}
	d.scratch = slices.Grow(d.scratch[:0], size)[:0]
	dst := d.scratch[:size:size]
	n, err := d.decompress(c, dst, src)
	if err != nil {
		return nil, fmt.Errorf("%w: %v: %w", ErrMalformed, c, err)
	}
	if n != size {
		return nil, fmt.Errorf("%w: %v gave %d bytes, the metadata says %d", ErrMalformed, c, n, size)
	}
	return dst, nil
}

// maxRatio bounds what a compressed byte can become, so that a small lie is found before space is made for
// it. LZ4 has at most 255 and DEFLATE 1032 to 1, Snappy copies 64 bytes with 3; Zstandard knows no bound.
func maxRatio(c Compression) int {
	switch c {
	case LZ4:
		return 256
	case ZLib:
		return 1040
	case Snappy:
		return 64
	}
	return 1 << 20
}

// decompress fills dst, whose length is the size that is expected, and reports the size that there was.
func (d *Decoder) decompress(c Compression, dst, src []byte) (int, error) {
	switch c {
	case LZ4:
		return lz4.UncompressBlock(src, dst)
	case ZLib:
		return d.inflate(dst, src)
	case ZStd:
		out, err := zstdDecoder().DecodeAll(src, dst[:0])
		return len(out), err
	case Snappy:
		n, err := snappy.DecodedLen(src)
		if err != nil || n != len(dst) {
			return n, err
		}
		out, err := snappy.Decode(dst, src)
		return len(out), err
	}
	return 0, fmt.Errorf("unknown compression")
}

func (d *Decoder) inflate(dst, src []byte) (int, error) {
	z := &d.zlib
	z.src.Reset(src)
	if z.r == nil {
		r, err := zlib.NewReader(&z.src)
		if err != nil {
			return 0, err
		}
		z.r = r
	} else if err := z.r.(zlib.Resetter).Reset(&z.src, nil); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(z.r, dst)
	if err != nil && err != io.EOF {
		return n, err
	}
	var more [1]byte
	switch extra, err := io.ReadFull(z.r, more[:]); {
	case extra > 0:
		return n + 1, nil // larger than it says
	case err != io.EOF:
		return n, err // the checksum at the end
	}
	return n, nil
}

// compress appends src, compressed.
func compress(dst []byte, c Compression, src []byte) ([]byte, error) {
	switch c {
	case None:
		return append(dst, src...), nil
	case LZ4:
		start := len(dst)
		dst = slices.Grow(dst, lz4.CompressBlockBound(len(src)))
		var lc lz4.Compressor
		n, err := lc.CompressBlock(src, dst[start:start+lz4.CompressBlockBound(len(src))])
		if err != nil {
			return nil, fmt.Errorf("compress: %w", err)
		}
		return dst[:start+n], nil
	case ZLib:
		w := bytes.NewBuffer(dst)
		z := zlib.NewWriter(w)
		if _, err := z.Write(src); err != nil {
			return nil, fmt.Errorf("compress: %w", err)
		}
		if err := z.Close(); err != nil {
			return nil, fmt.Errorf("compress: %w", err)
		}
		return w.Bytes(), nil
	case ZStd:
		return zstdEncoder().EncodeAll(src, dst), nil
	case Snappy:
		return append(dst, snappy.Encode(nil, src)...), nil
	}
	return nil, fmt.Errorf("compress: unknown compression %d", c)
}
