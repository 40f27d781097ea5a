// Package snapshot carries a whole metadata state from one node to another: Export writes it as a stream, Stage
// reads the stream into table files, and Install puts them in the place of the receiver's state, in one step.
//
// # Format
//
//	stream  := magic "daybook-meta-snapshot\n" | frame*
//	frame   := length u32 | crc32c u32 (of what follows) | number u32 | kind u8 | body
//	kind 1  := metapb.SnapshotHeader; the first frame, once
//	kind 2  := raw length u32 | LZ4 block of pair*; pair := key length uvarint | key | value length uvarint | value
//	kind 3  := number of pairs u64; the last frame
//
// Integers are big-endian; length is that of number, kind and body. Frames are numbered from 0. Keys ascend
// through the whole stream.
package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pierrec/lz4/v4"

	"github.com/daybook/daybook/raftmeta/internal/metapb"
	"github.com/daybook/daybook/raftmeta/internal/state"
)

const (
	magic        = "daybook-meta-snapshot\n"
	recordFormat = 1
	chunkBytes   = 256 << 10
	// maxRaw bounds a chunk: one pair may go beyond chunkBytes, by the largest event batch, which holds
	// the keys and values of one transaction.
	maxRaw     = 64 << 20
	tableBytes = 32 << 20

	kindHeader = 1
	kindPairs  = 2
	kindEnd    = 3
)

// ErrCorrupt says that a stream is damaged or not one that this version reads.
var ErrCorrupt = errors.New("corrupt metadata snapshot")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type writer struct {
	w      io.Writer
	number uint32
	frame  []byte
}

func (w *writer) write(kind byte, body []byte) error {
	b := append(w.frame[:0], make([]byte, 8)...)
	b = binary.BigEndian.AppendUint32(b, w.number)
	b = append(append(b, kind), body...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-8))
	binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	w.number++
	w.frame = b
	_, err := w.w.Write(b)
	return err
}

// Export writes the state that v shows, which must not change meanwhile.
func Export(ctx context.Context, v state.View, cluster []byte, out io.Writer) error {
	a, err := state.ReadApplied(v)
	if err != nil {
		return err
	}
	h := metapb.SnapshotHeader{Format: recordFormat, Cluster: cluster, Applied: &metapb.Applied{
		Format: recordFormat, Index: a.Index, Term: a.Term, Revision: int64(a.Rev), EventsAfter: int64(a.EventsAfter), Conf: a.Conf,
	}}
	header, err := h.MarshalVT()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(out, magic); err != nil {
		return err
	}
	w := &writer{w: out}
	if err := w.write(kindHeader, header); err != nil {
		return err
	}
	var raw, packed []byte
	var c lz4.Compressor
	flush := func() error {
		if len(raw) == 0 {
			return nil
		}
		if need := 4 + lz4.CompressBlockBound(len(raw)); cap(packed) < need {
			packed = make([]byte, need)
		}
		packed = packed[:cap(packed)]
		binary.BigEndian.PutUint32(packed, uint32(len(raw)))
		n, err := c.CompressBlock(raw, packed[4:])
		if err != nil {
			return err
		}
		raw = raw[:0]
		return w.write(kindPairs, packed[:4+n])
	}
	pairs := uint64(0)
	for p, err := range v.Scan(state.Start, state.End) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		raw = append(binary.AppendUvarint(raw, uint64(len(p.Key))), p.Key...)
		raw = append(binary.AppendUvarint(raw, uint64(len(p.Value))), p.Value...)
		pairs++
		if len(raw) >= chunkBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return w.write(kindEnd, binary.BigEndian.AppendUint64(nil, pairs))
}

type reader struct {
	r      io.Reader
	number uint32
	frame  []byte
}

// read returns the next frame's kind and body, which are valid until the next read.
func (r *reader) read() (byte, []byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, cut(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 5 || uint64(n) > uint64(lz4.CompressBlockBound(maxRaw)+9) {
		return 0, nil, fmt.Errorf("%w: frame of %d bytes", ErrCorrupt, n)
	}
	// Grow with what arrives, not with what the length claims.
	buf := bytes.NewBuffer(r.frame[:0])
	if _, err := io.CopyN(buf, r.r, int64(n)); err != nil {
		return 0, nil, cut(err)
	}
	r.frame = buf.Bytes()
	if want, got := binary.BigEndian.Uint32(head[4:]), crc32.Checksum(r.frame, castagnoli); want != got {
		return 0, nil, fmt.Errorf("%w: frame %d: CRC %08x, want %08x", ErrCorrupt, r.number, got, want)
	}
	if number := binary.BigEndian.Uint32(r.frame); number != r.number {
		return 0, nil, fmt.Errorf("%w: frame %d where %d should be", ErrCorrupt, number, r.number)
	}
	r.number++
	return r.frame[4], r.frame[5:], nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends early", ErrCorrupt)
	}
	return err
}

// Read reads a stream: header is called once, then pair for each pair, in ascending order of the keys. What
// pair gets is valid only during the call.
func Read(in io.Reader, header func(*metapb.SnapshotHeader) error, pair func(key, value []byte) error) error {
	var m [len(magic)]byte
	if _, err := io.ReadFull(in, m[:]); err != nil {
		return cut(err)
	}
	if string(m[:]) != magic {
		return fmt.Errorf("%w: it begins with %q", ErrCorrupt, m)
	}
	r := &reader{r: in}
	kind, body, err := r.read()
	if err != nil {
		return err
	}
	if kind != kindHeader {
		return fmt.Errorf("%w: no header", ErrCorrupt)
	}
	var h metapb.SnapshotHeader
	if err := h.UnmarshalVT(body); err != nil {
		return fmt.Errorf("%w: header: %w", ErrCorrupt, err)
	}
	if h.Format != recordFormat || h.Applied == nil || h.Applied.Conf == nil {
		return fmt.Errorf("%w: header of format %d, this version knows %d", ErrCorrupt, h.Format, recordFormat)
	}
	if err := header(&h); err != nil {
		return err
	}
	var raw, last []byte
	for pairs := uint64(0); ; {
		kind, body, err := r.read()
		if err != nil {
			return err
		}
		switch kind {
		case kindPairs:
			if raw, err = unpack(raw, body); err != nil {
				return err
			}
			for b := raw; len(b) > 0; pairs++ {
				var key, value []byte
				if key, b, err = field(b); err != nil {
					return err
				}
				if value, b, err = field(b); err != nil {
					return err
				}
				if bytes.Compare(key, state.Start) < 0 || bytes.Compare(key, state.End) >= 0 || pairs > 0 && bytes.Compare(key, last) <= 0 {
					return fmt.Errorf("%w: key %q after %q", ErrCorrupt, key, last)
				}
				if err := pair(key, value); err != nil {
					return err
				}
				last = append(last[:0], key...)
			}
		case kindEnd:
			if len(body) != 8 || binary.BigEndian.Uint64(body) != pairs {
				return fmt.Errorf("%w: %d pairs, its end says %x", ErrCorrupt, pairs, body)
			}
			return nil
		default:
			return fmt.Errorf("%w: frame of kind %d", ErrCorrupt, kind)
		}
	}
}

func unpack(raw, body []byte) ([]byte, error) {
	if len(body) < 4 {
		return nil, fmt.Errorf("%w: chunk of %d bytes", ErrCorrupt, len(body))
	}
	n := binary.BigEndian.Uint32(body)
	// LZ4 shrinks by a factor of at most 255. No chunk is empty, and lz4 faults on an empty destination.
	if n == 0 || n > maxRaw || uint64(n) > 255*uint64(len(body)) {
		return nil, fmt.Errorf("%w: chunk of %d bytes from %d", ErrCorrupt, n, len(body))
	}
	if cap(raw) < int(n) {
		raw = make([]byte, n)
	}
	got, err := lz4.UncompressBlock(body[4:], raw[:n])
	if err != nil || got != int(n) {
		return nil, fmt.Errorf("%w: chunk unpacks to %d bytes, want %d: %w", ErrCorrupt, got, n, err)
	}
	return raw[:n], nil
}

func field(b []byte) (value, rest []byte, err error) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, fmt.Errorf("%w: pair is cut", ErrCorrupt)
	}
	return b[w : w+int(n)], b[w+int(n):], nil
}

// Staged is a received state, in files that wait to be installed.
type Staged struct {
	Applied state.Applied
	fs      vfs.FS
	paths   []string
}

// Stage reads a stream of the given cluster into table files in dir, which must be on the file system of the
// database that they are for.
func Stage(in io.Reader, cluster []byte, fs vfs.FS, dir string, format pebble.FormatMajorVersion) (s *Staged, err error) {
	s = &Staged{fs: fs}
	var table *sstable.Writer
	finish := func() error {
		if table == nil {
			return nil
		}
		t := table
		table = nil
		return t.Close()
	}
	defer func() {
		if err != nil {
			_ = finish()
			s.Remove()
			s = nil
		}
	}()
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return s, err
	}
	err = Read(in, func(h *metapb.SnapshotHeader) error {
		if !slices.Equal(h.Cluster, cluster) {
			return fmt.Errorf("%w: it is of cluster %x, not %x", ErrCorrupt, h.Cluster, cluster)
		}
		s.Applied = state.AppliedOf(h.Applied)
		return nil
	}, func(key, value []byte) error {
		if table == nil {
			path := fs.PathJoin(dir, fmt.Sprintf("snapshot-%d-%d.sst", s.Applied.Index, len(s.paths)))
			f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
			if err != nil {
				return err
			}
			s.paths = append(s.paths, path)
			table = sstable.NewWriter(objstorageprovider.NewFileWritable(f), sstable.WriterOptions{TableFormat: format.MaxTableFormat()})
		}
		if err := table.Set(key, value); err != nil {
			return err
		}
		if table.Raw().EstimatedSize() >= tableBytes {
			return finish()
		}
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("receive metadata snapshot: %w", err)
	}
	return s, finish()
}

// Install replaces the state in db, at once and durably.
func (s *Staged) Install(ctx context.Context, db *pebble.DB) error {
	_, err := db.IngestAndExcise(ctx, s.paths, nil, nil, pebble.KeyRange{Start: state.Start, End: state.End})
	if err != nil {
		return fmt.Errorf("install metadata snapshot: %w", err)
	}
	s.Remove() // the database has links of its own
	return nil
}

// Remove deletes the files. Failures leave files that the next Stage of the same state writes over.
func (s *Staged) Remove() {
	for _, p := range s.paths {
		_ = s.fs.Remove(p)
	}
	s.paths = nil
}
