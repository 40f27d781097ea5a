package segment

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
)

var testSeed = SeedOf(ledgerfs.Incarnation{1, 2, 3})

func entry(id ledgerfs.LedgerID, e ledgerfs.EntryID, n int) *Record {
	r := &Record{Type: Add, Ledger: id, Entry: e, LAC: e - 1, Length: int64(e) * 10,
		Payload: bytes.Repeat([]byte{byte(id), byte(e)}, n/2+1)[:n]}
	r.Digest = r.digest()
	return r
}

// file is a segment being written in memory.
type file struct {
	data  []byte
	end   int64
	chain Chain
}

func newFile(size int) *file {
	f := &file{data: make([]byte, size), end: FileHeaderSize}
	(&FileHeader{Kind: InPlace, Number: 7, Size: int64(size)}).Encode(f.data)
	return f
}

func (f *file) batch(synced int64, rs ...*Record) (at int64) {
	var b Batch
	b.Reset(testSeed, f.chain.Seq+1, disk.AlignedBlock(256<<10))
	for _, r := range rs {
		b.Append(r)
	}
	out, h := b.Seal(7, f.end, synced, f.chain.CRC, false)
	at = f.end
	copy(f.data[at:], out)
	f.end += int64(len(out))
	f.chain = Chain{h.Seq, h.CRC}
	return at
}

func (f *file) scan(t testing.TB) (got []string, res Result) {
	t.Helper()
	res, err := Scan(bytes.NewReader(f.data), int64(len(f.data)), 7, testSeed, nil, func(r *Record, off int64) error {
		if d, err := DecodeRecord(f.data[off:]); err != nil || d.Entry != r.Entry || d.Ledger != r.Ledger {
			t.Errorf("record %d:%d is not at %d: %v", r.Ledger, r.Entry, off, err)
		}
		got = append(got, fmt.Sprintf("%d:%d", r.Ledger, r.Entry))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, res
}

// TestTornTailIsCut tears the last batch at every sector: with one write in flight nothing after it is known to
// be durable, so the log ends before it.
func TestTornTailIsCut(t *testing.T) {
	f := newFile(64 << 10)
	f.batch(f.end, entry(1, 0, 100), entry(1, 1, 3000))
	at := f.batch(f.end, entry(1, 2, 9000), entry(2, 0, 500))
	whole := bytes.Clone(f.data)
	for cut := at; cut < f.end; cut += disk.SectorSize {
		f.data = bytes.Clone(whole)
		clear(f.data[cut:f.end])
		got, res := f.scan(t)
		intact := bytes.Equal(f.data, whole)
		if !intact && (res.End != at || len(got) != 2 || len(res.Losses) != 0) {
			t.Fatalf("torn at %d: end %d, %v, losses %v", cut, res.End, got, res.Losses)
		}
	}
	f.data = whole
	if got, res := f.scan(t); len(got) != 4 || res.End != f.end || res.Chain != f.chain {
		t.Fatalf("intact: %v, %+v", got, res)
	}
}

// TestTornTailWithTwoInFlight loses a batch while the one written beside it survives: neither counts.
func TestTornTailWithTwoInFlight(t *testing.T) {
	f := newFile(64 << 10)
	first := f.batch(f.end, entry(1, 0, 100))
	synced := f.end
	at := f.batch(synced, entry(1, 1, 100))
	f.batch(synced, entry(1, 2, 100))
	clear(f.data[at : at+4096])
	got, res := f.scan(t)
	if len(got) != 1 || res.End != at || len(res.Losses) != 0 {
		t.Fatalf("first batch at %d: got %v, %+v", first, got, res)
	}
}

// TestDamageIsNamed flips every byte of a batch that a later one knows as durable.
func TestDamageIsNamed(t *testing.T) {
	f := newFile(64 << 10)
	f.batch(f.end, entry(1, 0, 100))
	at := f.batch(f.end, entry(1, 1, 200), entry(1, 2, 300), entry(2, 0, 50), &Record{Type: Fence, Ledger: 3, Entry: 0, LAC: -1,
		Digest: ledgerfs.EntryDigest(3, 0, -1, 0, nil)})
	f.batch(f.end, entry(1, 3, 100))
	whole := bytes.Clone(f.data)
	for i := at; i < at+4096; i++ {
		f.data = bytes.Clone(whole)
		f.data[i] ^= 0x40
		got, res := f.scan(t)
		if res.End != f.end || res.Chain != f.chain {
			t.Fatalf("byte %d: end %d, want %d", i-at, res.End, f.end)
		}
		lost := 0
		for _, l := range res.Losses {
			if l.Doubt() {
				t.Fatalf("byte %d: loss without a name: %+v", i-at, l)
			}
			lost += l.Count
		}
		if lost > 1 || len(got)+lost != 6 {
			t.Fatalf("byte %d: read %v, lost %+v", i-at, got, res.Losses)
		}
	}
}

// TestStaleBytesAreNotRead puts whole batches of an earlier life of the file after the end.
func TestStaleBytesAreNotRead(t *testing.T) {
	old := newFile(64 << 10)
	for e := range ledgerfs.EntryID(10) {
		old.batch(old.end, entry(1, e, 3000))
	}
	f := newFile(64 << 10)
	copy(f.data[FileHeaderSize:], old.data[FileHeaderSize:])
	(&FileHeader{Kind: InPlace, Number: 8, Size: int64(len(f.data))}).Encode(f.data)
	var b Batch
	b.Reset(testSeed, 100, disk.AlignedBlock(64<<10))
	b.Append(entry(2, 0, 10))
	out, _ := b.Seal(8, f.end, f.end, 5, false)
	copy(f.data[f.end:], out)
	n := 0
	res, err := Scan(bytes.NewReader(f.data), int64(len(f.data)), 8, testSeed, nil, func(r *Record, _ int64) error { n++; return nil })
	if err != nil || n != 1 || res.End != FileHeaderSize+4096 || len(res.Losses) != 0 {
		t.Fatalf("%d records, %+v, %v", n, res, err)
	}
	if res, err := Scan(bytes.NewReader(f.data), int64(len(f.data)), 9, testSeed, nil, nil); err != nil || res.End != FileHeaderSize {
		t.Fatalf("segment without batches: %+v, %v", res, err)
	}
}

func TestFooterHoldsWhatTheIndexHeld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := NewIndex()
		type place struct {
			off int64
			n   int
		}
		model := map[ledgerfs.Position]place{}
		off := int64(FileHeaderSize)
		for range rapid.IntRange(0, 600).Draw(t, "records") {
			id := ledgerfs.LedgerID(rapid.IntRange(1, 3).Draw(t, "ledger"))
			e := ledgerfs.EntryID(rapid.IntRange(0, 700).Draw(t, "entry"))
			if rapid.IntRange(0, 9).Draw(t, "next") > 0 { // mostly in order
				for e = 0; ; e++ {
					if _, ok := model[ledgerfs.Position{Ledger: id, Entry: e}]; !ok {
						break
					}
				}
			}
			p := ledgerfs.Position{Ledger: id, Entry: e}
			if _, ok := model[p]; ok {
				continue
			}
			n := rapid.IntRange(0, 2000).Draw(t, "size")
			off += int64(rapid.IntRange(0, 3).Draw(t, "gap")) * 64
			if err := x.Record(entry(id, e, n), off); err != nil {
				t.Fatal(err)
			}
			model[p] = place{off, n}
			off += int64(Size(n))
		}
		for p, want := range model {
			r := x.Find(p.Ledger, p.Entry)
			if r == nil {
				t.Fatalf("%v not found", p)
			}
			r.Places(p.Entry, func(e ledgerfs.EntryID, off int64, n int) bool {
				if e != p.Entry || (place{off, n}) != want {
					t.Fatalf("%v at %d, %d bytes, want %+v", p, off, n, want)
				}
				return false
			})
		}
		f := x.Footer()
		f.Segment, f.Size, f.End = 7, 1<<20, off
		enc := f.AppendTo(nil)
		if len(enc) > x.Size() {
			t.Fatalf("footer of %d bytes, the bound said %d", len(enc), x.Size())
		}
		d, err := DecodeFooter(enc)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(d.AppendTo(nil), enc) {
			t.Fatal("footer changes when it is read and written")
		}
		n := 0
		for i := range d.Runs {
			if !d.Runs[i].Places(0, func(e ledgerfs.EntryID, off int64, size int) bool {
				n++
				if model[ledgerfs.Position{Ledger: d.Runs[i].Ledger, Entry: e}] != (place{off, size}) {
					t.Fatalf("%d:%d moved", d.Runs[i].Ledger, e)
				}
				return true
			}) {
				t.Fatal("malformed run")
			}
		}
		if n != len(model) {
			t.Fatalf("%d entries in the footer, want %d", n, len(model))
		}
	})
}

func TestNewerFormatsAreRefused(t *testing.T) {
	b := make([]byte, FileHeaderSize)
	(&FileHeader{Number: 1}).Encode(b)
	b[8] = 99
	fixHeader(b)
	if _, err := DecodeFileHeader(b); !errors.Is(err, ErrNewer) {
		t.Fatalf("DecodeFileHeader = %v", err)
	}
	f := &Footer{}
	enc := f.AppendTo(nil)
	enc[0] = 99
	if _, err := DecodeFooter(enc); !errors.Is(err, ErrNewer) {
		t.Fatalf("DecodeFooter = %v", err)
	}
}

func fixHeader(b []byte) {
	c := Seed(0).crc(b[:48])
	b[48], b[49], b[50], b[51] = byte(c), byte(c>>8), byte(c>>16), byte(c>>24)
}

func FuzzScan(f *testing.F) {
	x := newFile(32 << 10)
	at := x.batch(x.end, entry(1, 0, 100), entry(2, 0, 30))
	x.batch(x.end, entry(1, 1, 100))
	f.Add(x.data[FileHeaderSize:x.end])
	bad := bytes.Clone(x.data[FileHeaderSize:x.end])
	bad[at+100-FileHeaderSize] ^= 1
	f.Add(bad)
	f.Fuzz(func(t *testing.T, b []byte) {
		data := make([]byte, FileHeaderSize+(len(b)+BlockSize-1)&^(BlockSize-1)+BlockSize)
		copy(data[FileHeaderSize:], b)
		res, err := Scan(bytes.NewReader(data), int64(len(data)), 7, testSeed, nil, func(*Record, int64) error { return nil })
		if err == nil && (res.End < FileHeaderSize || res.End > int64(len(data))) {
			t.Fatalf("end %d", res.End)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	b := make([]byte, 256)
	putRecord(b, testSeed, entry(1, 2, 100))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRecord(b); err == nil && r.digest() != r.Digest {
			t.Fatal("wrong digest passes")
		}
	})
}

func FuzzDecodeFooter(f *testing.F) {
	x := NewIndex()
	x.Record(entry(1, 0, 10), 4096)
	x.Record(&Record{Type: Fence, Ledger: 2}, 8192)
	x.Record(&Record{Type: Delete, Ledger: 3}, 8192)
	x.Lose(Loss{DirEntry: DirEntry{Type: Add, Count: 2, Ledger: 1, First: 5}, From: 1, To: 2})
	f.Add(x.Footer().AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := DecodeFooter(b)
		if err != nil {
			return
		}
		for i := range d.Runs {
			d.Runs[i].Places(0, func(ledgerfs.EntryID, int64, int) bool { return true })
		}
		if _, err := DecodeFooter(d.AppendTo(nil)); err != nil {
			t.Fatalf("a footer that was read cannot be read again: %v", err)
		}
	})
}

func FuzzDecodeHeaders(f *testing.F) {
	b := make([]byte, BlockSize)
	(&FileHeader{Number: 1}).Encode(b)
	f.Add(bytes.Clone(b))
	(&SealBlock{Segment: 1, Off: 4096, Length: 4096}).Encode(b, testSeed)
	f.Add(bytes.Clone(b))
	f.Fuzz(func(t *testing.T, b []byte) {
		DecodeFileHeader(b)
		DecodeSealBlock(b, testSeed)
		DecodeHead(b, testSeed)
		decodeTail(b, testSeed)
		OpenFooter(b, 1, 4096, testSeed)
		DecodeIDs(b)
	})
}

func BenchmarkBatch(b *testing.B) {
	window := disk.AlignedBlock(1 << 20)
	r := entry(1, 0, 1024)
	var batch Batch
	b.SetBytes(1024)
	b.ReportAllocs()
	batch.Reset(testSeed, 1, window)
	for b.Loop() {
		if !batch.Fits(1024) {
			batch.Seal(1, 0, 0, 0, false)
			batch.Reset(testSeed, 1, window)
		}
		batch.Append(r)
	}
}
