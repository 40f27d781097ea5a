// Package segment is the format of the bookie's files: what is appended is both journal and entry log, so
// that every byte is written once.
//
// # Format
//
//	file    := header(4 KiB) batch* zeroes-or-stale-bytes seal(4 KiB, last block)
//	batch   := head(64) record* zeroes direntry* tail(40)          a multiple of 4 KiB, aligned
//	head    := magic u32 | version u16 | kind u8 | 0 u8 | segment u64 | seq u64 | syncedUpTo u64 | length u32 |
//	           records u32 | prevCRC u32 | bodyCRC u32 | offset u64 | 0 u32 | crc u32
//	record  := crc u32 | type u8 | flags u8 | 0 u16 | ledger u64 | entry i64 | lac i64 | length i64 | digest u32 |
//	           payloadLen u32 | payload | zeroes to 8
//	direntry:= type u8 | 0 u24 | count u32 | ledger u64 | first i64 | length i64 | lac i64
//	tail    := magic u32 | length u32 | segment u64 | seq u64 | offset u64 | direntries u32 | crc u32
//
// Numbers are little-endian. All checksums are CRC32C and start from a seed drawn from the store's incarnation,
// those of records also from the batch's sequence number; so bytes that a recycled file keeps from an earlier
// life never pass for new ones. A batch says at both ends where it starts and, in its directory, what it holds:
// local damage costs the entries it hits and no others, what was lost has a name, and a block that a disk wrote
// to a wrong place, or did not write, is damage there however right its checksums are. A loss has no name, only a
// place, where it takes the directory together with what no other block tells of: the last block of a batch.
//
// seq grows with every batch of the store, over all segments; prevCRC is the head CRC of the batch before.
// syncedUpTo is the offset up to which this file was durable when the batch was written: a bad batch below a
// later batch's syncedUpTo is damage, one above is the torn tail of a crash.
//
// The last batch of a full segment is its footer (kind 2), which indexes the others; the seal block names its
// place. Both may be missing; then the segment is scanned.
package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
)

// Sizes of the format, in bytes.
const (
	BlockSize      = disk.BlockSize
	FileHeaderSize = BlockSize
	HeadSize       = 64
	RecordSize     = 48
	DirEntrySize   = 40
	TailSize       = 40
	SealSize       = BlockSize

	// MaxPayload bounds the payload of a record.
	MaxPayload = 64 << 20
)

// Version is the format's version; files of a newer one are refused. In version 1 batches did not say where they
// are, and their tails were shorter: they are read, but damage to them is named less often.
const Version = 2

const (
	fileMagic  = 0x5347454b4f4f4244 // "DBOOKEGS"
	batchMagic = 0x48435442         // "BTCH"
	tailMagic  = 0x4c494154         // "TAIL"
	sealMagic  = 0x4c414553         // "SEAL"
)

// ErrNewer says that a file was written by a newer version of the program.
var ErrNewer = errors.New("written by a newer version")

// ErrFormat says that bytes are not what they should be.
var ErrFormat = errors.New("malformed")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Kind says how a segment file is used.
type Kind uint8

// The kinds of segment files.
const (
	// InPlace segments are the store: what is appended stays until it is deleted or compacted.
	InPlace Kind = 1
	// Ring files are recycled once their entries have been posted to sealed segments.
	Ring Kind = 2
)

// A Seed starts the checksums of one store.
type Seed uint32

// SeedOf is the seed of the store with that incarnation.
func SeedOf(i ledgerfs.Incarnation) Seed { return Seed(crc32.Checksum(i[:], castagnoli)) }

func (s Seed) crc(b []byte) uint32 { return crc32.Update(uint32(s), castagnoli, b) }

// A FileHeader is the first block of a segment file.
type FileHeader struct {
	Kind        Kind
	Number      uint64
	Size        int64
	Incarnation ledgerfs.Incarnation
}

// Encode fills the block b.
func (h *FileHeader) Encode(b []byte) {
	clear(b[:FileHeaderSize])
	le := binary.LittleEndian
	le.PutUint64(b[0:], fileMagic)
	le.PutUint16(b[8:], Version)
	b[10] = byte(h.Kind)
	le.PutUint64(b[16:], h.Number)
	le.PutUint64(b[24:], uint64(h.Size))
	copy(b[32:48], h.Incarnation[:])
	le.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
}

// DecodeFileHeader reads the first block of a file.
func DecodeFileHeader(b []byte) (FileHeader, error) {
	le := binary.LittleEndian
	if len(b) < 52 || le.Uint64(b) != fileMagic || le.Uint32(b[48:]) != crc32.Checksum(b[:48], castagnoli) {
		return FileHeader{}, fmt.Errorf("segment header: %w", ErrFormat)
	}
	if v := le.Uint16(b[8:]); v > Version {
		return FileHeader{}, fmt.Errorf("segment header: %w (format %d, this program knows %d)", ErrNewer, v, Version)
	}
	h := FileHeader{Kind: Kind(b[10]), Number: le.Uint64(b[16:]), Size: int64(le.Uint64(b[24:]))}
	copy(h.Incarnation[:], b[32:48])
	return h, nil
}

// A Type says what a record is.
type Type uint8

// The types of records.
const (
	Add         Type = 1 // an entry
	Install     Type = 2 // the ledger is known from here on
	Fence       Type = 3 // only recovery may add from here on; implies Install
	Delete      Type = 4 // the ledger's tombstone
	ExplicitLAC Type = 5 // LAC advanced without an entry
	State       Type = 6 // carried over from a segment that is given up: entry holds the ledger's flags
	Tombstones  Type = 7 // carried over: the payload lists deleted ledgers, see AppendIDs
	Checkpoint  Type = 8 // reserved
)

// Flags of a ledger, in State records and footers.
const (
	FlagInstalled = 1 << iota
	FlagFenced
	FlagDeleted
)

// A Record is one decoded record. Payload aliases what it was decoded from.
type Record struct {
	Type    Type
	Ledger  ledgerfs.LedgerID
	Entry   ledgerfs.EntryID
	LAC     ledgerfs.EntryID
	Length  int64
	Digest  uint32
	Payload []byte
}

// Size is the room, in bytes, that a record with n bytes of payload takes.
func Size(n int) int { return RecordSize + (n+7)&^7 }

// batch is the seed of the records of a batch.
func (s Seed) batch(seq uint64) Seed {
	return Seed(s.crc(binary.LittleEndian.AppendUint64(nil, seq)))
}

func putRecord(b []byte, s Seed, r *Record) {
	le := binary.LittleEndian
	b[4], b[5], b[6], b[7] = byte(r.Type), 0, 0, 0
	le.PutUint64(b[8:], uint64(r.Ledger))
	le.PutUint64(b[16:], uint64(r.Entry))
	le.PutUint64(b[24:], uint64(r.LAC))
	le.PutUint64(b[32:], uint64(r.Length))
	le.PutUint32(b[40:], r.Digest)
	le.PutUint32(b[44:], uint32(len(r.Payload)))
	le.PutUint32(b[0:], s.crc(b[4:RecordSize]))
	n := RecordSize + copy(b[RecordSize:], r.Payload)
	clear(b[n:Size(len(r.Payload))])
}

// DecodeRecord reads the record at the start of b, which must hold all of it. It checks the framing, and for
// an entry the digest, but not the record's own checksum: whoever found the place through the index does not
// know the batch.
func DecodeRecord(b []byte) (Record, error) {
	if len(b) < RecordSize {
		return Record{}, fmt.Errorf("record: %w: %d bytes", ErrFormat, len(b))
	}
	le := binary.LittleEndian
	n := le.Uint32(b[44:])
	if uint64(n) > uint64(len(b)-RecordSize) {
		return Record{}, fmt.Errorf("record: %w: payload of %d bytes in %d", ErrFormat, n, len(b))
	}
	r := Record{
		Type:    Type(b[4]),
		Ledger:  ledgerfs.LedgerID(le.Uint64(b[8:])),
		Entry:   ledgerfs.EntryID(le.Uint64(b[16:])),
		LAC:     ledgerfs.EntryID(le.Uint64(b[24:])),
		Length:  int64(le.Uint64(b[32:])),
		Digest:  le.Uint32(b[40:]),
		Payload: b[RecordSize : RecordSize+n : RecordSize+n],
	}
	if r.digest() != r.Digest {
		return r, fmt.Errorf("record of entry %d:%d: %w: wrong digest", r.Ledger, r.Entry, ErrFormat)
	}
	return r, nil
}

func (r *Record) digest() uint32 {
	return ledgerfs.EntryDigest(r.Ledger, r.Entry, r.LAC, r.Length, r.Payload)
}

// A Head is the start of a batch.
type Head struct {
	Footer     bool
	Segment    uint64
	Seq        uint64
	Off        int64 // of the batch in its file; -1 if it does not say
	SyncedUpTo int64
	Length     int
	Records    int
	PrevCRC    uint32
	BodyCRC    uint32
	CRC        uint32
}

func (h *Head) encode(b []byte, s Seed) {
	le := binary.LittleEndian
	clear(b[:HeadSize])
	le.PutUint32(b[0:], batchMagic)
	le.PutUint16(b[4:], Version)
	b[6] = 1
	if h.Footer {
		b[6] = 2
	}
	le.PutUint64(b[8:], h.Segment)
	le.PutUint64(b[16:], h.Seq)
	le.PutUint64(b[24:], uint64(h.SyncedUpTo))
	le.PutUint32(b[32:], uint32(h.Length))
	le.PutUint32(b[36:], uint32(h.Records))
	le.PutUint32(b[40:], h.PrevCRC)
	le.PutUint32(b[44:], h.BodyCRC)
	le.PutUint64(b[48:], uint64(h.Off))
	h.CRC = s.crc(b[:60])
	le.PutUint32(b[60:], h.CRC)
}

// DecodeHead reads the head of a batch.
func DecodeHead(b []byte, s Seed) (Head, error) {
	le := binary.LittleEndian
	if len(b) < HeadSize || le.Uint32(b) != batchMagic || le.Uint32(b[60:]) != s.crc(b[:60]) {
		return Head{}, fmt.Errorf("batch head: %w", ErrFormat)
	}
	if v := le.Uint16(b[4:]); v > Version {
		return Head{}, fmt.Errorf("batch head: %w (format %d, this program knows %d)", ErrNewer, v, Version)
	}
	h := Head{
		Footer: b[6] == 2, Segment: le.Uint64(b[8:]), Seq: le.Uint64(b[16:]), SyncedUpTo: int64(le.Uint64(b[24:])),
		Length: int(le.Uint32(b[32:])), Records: int(le.Uint32(b[36:])),
		PrevCRC: le.Uint32(b[40:]), BodyCRC: le.Uint32(b[44:]), Off: int64(le.Uint64(b[48:])), CRC: le.Uint32(b[60:]),
	}
	if le.Uint16(b[4:]) < 2 {
		h.Off = -1
	}
	if h.Length < BlockSize || h.Length%BlockSize != 0 {
		return Head{}, fmt.Errorf("batch head: %w: length %d", ErrFormat, h.Length)
	}
	return h, nil
}

// At reports whether the head may be that of the batch at off of a segment.
func (h *Head) At(segment uint64, off int64) bool {
	return h.Segment == segment && (h.Off == off || h.Off < 0)
}

// A DirEntry says of a batch that it holds Count records of a type, for adds the entries from First on.
// Length and LAC are those of the last of them.
type DirEntry struct {
	Type   Type
	Count  int
	Ledger ledgerfs.LedgerID
	First  ledgerfs.EntryID
	Length int64
	LAC    ledgerfs.EntryID
}

func (d *DirEntry) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(d.Type))
	le.PutUint32(b[4:], uint32(d.Count))
	le.PutUint64(b[8:], uint64(d.Ledger))
	le.PutUint64(b[16:], uint64(d.First))
	le.PutUint64(b[24:], uint64(d.Length))
	le.PutUint64(b[32:], uint64(d.LAC))
}

func decodeDirEntry(b []byte) DirEntry {
	le := binary.LittleEndian
	return DirEntry{
		Type: Type(b[0]), Count: int(le.Uint32(b[4:])), Ledger: ledgerfs.LedgerID(le.Uint64(b[8:])),
		First: ledgerfs.EntryID(le.Uint64(b[16:])), Length: int64(le.Uint64(b[24:])), LAC: ledgerfs.EntryID(le.Uint64(b[32:])),
	}
}

// tail is the end of a batch.
type tail struct {
	length  int
	segment uint64
	seq     uint64
	off     int64
	dir     []byte // encoded entries
}

// decodeTail reads the tail of a batch that ends at the end of b; b may start anywhere before it.
func decodeTail(b []byte, s Seed) (tail, error) {
	le := binary.LittleEndian
	if len(b) < TailSize {
		return tail{}, ErrFormat
	}
	t := b[len(b)-TailSize:]
	if le.Uint32(t) != tailMagic {
		return tail{}, ErrFormat
	}
	n := int64(le.Uint32(t[32:])) * DirEntrySize
	if n > int64(len(b)-TailSize) {
		return tail{}, ErrFormat
	}
	dir := b[int64(len(b)-TailSize)-n : len(b)-TailSize]
	if le.Uint32(t[36:]) != crc32.Update(s.crc(dir), castagnoli, t[:36]) {
		return tail{}, ErrFormat
	}
	return tail{length: int(le.Uint32(t[4:])), segment: le.Uint64(t[8:]), seq: le.Uint64(t[16:]),
		off: int64(le.Uint64(t[24:])), dir: dir}, nil
}

// A Batch is a batch being filled: records are copied in, then Seal completes it. It belongs to one goroutine
// at a time.
type Batch struct {
	seed    Seed
	recSeed Seed
	seq     uint64
	buf     []byte // the whole window; the batch starts at its beginning
	n       int    // bytes used, head included
	crc     uint32 // of the body so far
	records int
	dir     []DirEntry
}

// Reset starts a batch at the beginning of window, whose memory is aligned to BlockSize and whose length is a
// multiple of it.
func (b *Batch) Reset(s Seed, seq uint64, window []byte) {
	*b = Batch{seed: s, recSeed: s.batch(seq), seq: seq, buf: window, n: HeadSize, crc: uint32(s), dir: b.dir[:0]}
}

// Seq is the batch's sequence number.
func (b *Batch) Seq() uint64 { return b.seq }

// Records is the number of records so far.
func (b *Batch) Records() int { return b.records }

// Len is the length that the batch has if it is sealed now.
func (b *Batch) Len() int { return b.lenWith(0, len(b.dir)) }

func (b *Batch) lenWith(more, dir int) int {
	return (b.n + more + dir*DirEntrySize + TailSize + BlockSize - 1) &^ (BlockSize - 1)
}

// Fits reports whether a record with n bytes of payload still fits into the window.
func (b *Batch) Fits(n int) bool { return b.lenWith(Size(n), len(b.dir)+1) <= len(b.buf) }

// Room is the window that a batch with a single record of n payload bytes needs.
func Room(n int) int {
	return (HeadSize + Size(n) + DirEntrySize + TailSize + BlockSize - 1) &^ (BlockSize - 1)
}

// Append copies a record in, which must fit, and returns its offset in the batch.
func (b *Batch) Append(r *Record) int {
	off := b.n
	size := Size(len(r.Payload))
	rec := b.buf[off : off+size]
	putRecord(rec, b.recSeed, r)
	b.crc = crc32.Update(b.crc, castagnoli, rec)
	b.n += size
	b.records++
	if k := len(b.dir) - 1; r.Type == Add && k >= 0 && b.dir[k].Type == Add && b.dir[k].Ledger == r.Ledger &&
		b.dir[k].First+ledgerfs.EntryID(b.dir[k].Count) == r.Entry {
		b.dir[k].Count++
		b.dir[k].Length, b.dir[k].LAC = r.Length, r.LAC
	} else {
		b.dir = append(b.dir, DirEntry{Type: r.Type, Count: 1, Ledger: r.Ledger, First: r.Entry, Length: r.Length, LAC: r.LAC})
	}
	return off
}

// Seal completes the batch for its place, off in the file of the segment, and returns its bytes, which alias the
// window, and its head.
func (b *Batch) Seal(segment uint64, off, syncedUpTo int64, prevCRC uint32, footer bool) ([]byte, Head) {
	total := b.Len()
	out := b.buf[:total]
	le := binary.LittleEndian
	end := total - TailSize
	at := end - len(b.dir)*DirEntrySize
	clear(out[b.n:at])
	for i := range b.dir {
		b.dir[i].encode(out[at+i*DirEntrySize:])
	}
	t := out[end:]
	le.PutUint32(t[0:], tailMagic)
	le.PutUint32(t[4:], uint32(total))
	le.PutUint64(t[8:], segment)
	le.PutUint64(t[16:], b.seq)
	le.PutUint64(t[24:], uint64(off))
	le.PutUint32(t[32:], uint32(len(b.dir)))
	le.PutUint32(t[36:], crc32.Update(b.seed.crc(out[at:end]), castagnoli, t[:36]))
	h := Head{
		Footer: footer, Segment: segment, Seq: b.seq, Off: off, SyncedUpTo: syncedUpTo, Length: total, Records: b.records,
		PrevCRC: prevCRC, BodyCRC: crc32.Update(b.crc, castagnoli, out[b.n:]),
	}
	h.encode(out, b.seed)
	return out, h
}

// AppendIDs encodes ledger ids, ascending, for a Tombstones record.
func AppendIDs(dst []byte, ids []ledgerfs.LedgerID) []byte {
	prev := ledgerfs.LedgerID(0)
	for _, id := range ids {
		dst = binary.AppendUvarint(dst, uint64(id-prev))
		prev = id
	}
	return dst
}

// DecodeIDs is the inverse of AppendIDs.
func DecodeIDs(b []byte) ([]ledgerfs.LedgerID, error) {
	ids := make([]ledgerfs.LedgerID, 0, min(len(b), 1<<16))
	prev := uint64(0)
	for len(b) > 0 {
		d, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, fmt.Errorf("ledger ids: %w", ErrFormat)
		}
		prev += d
		ids = append(ids, ledgerfs.LedgerID(prev))
		b = b[n:]
	}
	return ids, nil
}
