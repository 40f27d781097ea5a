package segment

import (
	"fmt"
	"hash/crc32"
	"io"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
)

// A Chain is the end of a row of batches: what the next one must follow.
type Chain struct {
	Seq uint64
	CRC uint32
}

// A Loss is what damage took: entries by name, or, with Type 0, something between two offsets that nothing
// names any more.
type Loss struct {
	DirEntry
	From, To int64
}

// Doubt reports whether the loss has no name.
func (l *Loss) Doubt() bool { return l.Type == 0 }

// A Result is what a scan found.
type Result struct {
	// End is where the next batch goes.
	End int64
	// Chain is that of the last batch before End.
	Chain Chain
	// First is what the first batch says that it follows, if Linked; without, the first batch is damaged or
	// there is none.
	First   uint32
	Linked  bool
	Batches int
	Losses  []Loss
	// Footer says that a footer follows, at End.
	Footer bool
}

// A Visit is called for each intact record with its offset in the file. The record aliases a buffer that is
// reused.
type Visit func(r *Record, off int64) error

// Scan reads the batches of a segment file in order, with reads that are aligned to BlockSize in every way if the
// size is. The first may follow anything; whoever knows the end of
// the segment before compares it with Result.First. The end is the first place without a good batch that no later batch knows as durable; earlier bad places
// are damage: what is intact there is visited nonetheless, and the rest is reported as lost. next, if
// not nil, is the sequence number of the first batch of the next segment and the CRC that it says it follows: it
// shows whether the end that was found is the true one. Scan fails only if reading fails or the format is newer.
func Scan(f io.ReaderAt, size int64, number uint64, s Seed, next *Chain, visit Visit) (Result, error) {
	sc := &scanner{next: next, f: f, size: size, number: number, seed: s, visit: visit}
	return sc.run()
}

type scanner struct {
	next   *Chain
	f      io.ReaderAt
	size   int64
	number uint64
	seed   Seed
	visit  Visit

	buf []byte // file bytes from bufOff on
	off int64
}

const scanRead = 1 << 20

// bytes returns n bytes of the file at off, valid until the next call.
func (s *scanner) bytes(off int64, n int) ([]byte, error) {
	if off < s.off || off+int64(n) > s.off+int64(len(s.buf)) {
		want := int(min(int64(max(n, scanRead)), s.size-off))
		if want < n {
			return nil, io.ErrUnexpectedEOF
		}
		if cap(s.buf) < want {
			s.buf = disk.AlignedBlock((want + BlockSize - 1) &^ (BlockSize - 1))
		}
		s.buf = s.buf[:want]
		s.off = off
		if k, err := s.f.ReadAt(s.buf, off); k < want {
			s.buf = s.buf[:0]
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read %d bytes at %d: %w", want, off, err)
		}
	}
	i := off - s.off
	return s.buf[i : i+int64(n)], nil
}

// head reads the head of a batch of this segment at off that fits into the file and belongs there.
func (s *scanner) head(off int64) (Head, bool, error) {
	if off+BlockSize > s.size {
		return Head{}, false, nil
	}
	b, err := s.bytes(off, HeadSize)
	if err != nil {
		return Head{}, false, err
	}
	h, err := DecodeHead(b, s.seed)
	if err != nil || !h.At(s.number, off) || int64(h.Length) > s.size-off {
		return Head{}, false, nil
	}
	return h, true, nil
}

// body reads the whole batch at off and reports whether it is intact.
func (s *scanner) body(off int64, h *Head) ([]byte, bool, error) {
	b, err := s.bytes(off, h.Length)
	if err != nil {
		return nil, false, err
	}
	return b, crc32.Update(uint32(s.seed), castagnoli, b[HeadSize:]) == h.BodyCRC, nil
}

func (s *scanner) run() (Result, error) {
	res := Result{End: FileHeaderSize}
	var expect *Chain
	for {
		off := res.End
		h, ok, err := s.head(off)
		if err != nil {
			return res, err
		}
		follows := ok && h.Seq > res.Chain.Seq && (h.PrevCRC == res.Chain.CRC || expect == nil)
		if follows {
			b, good, err := s.body(off, &h)
			if err != nil {
				return res, err
			}
			if good {
				if err := s.records(b, off, &h); err != nil {
					return res, err
				}
				if h.Footer {
					res.Footer = true
					return res, nil
				}
				s.accept(&res, off, &h)
				expect = &res.Chain
				continue
			}
		}
		// A bad place. Is it known to have been durable?
		next, nh, found, err := s.later(off, res.Chain.Seq)
		if err != nil {
			return res, err
		}
		if !found {
			if s.next == nil || s.next.CRC == res.Chain.CRC {
				return res, nil
			}
			// The batches that the next segment follows are damaged.
			if err := s.salvage(&res, off, s.size, s.next.Seq, true); err != nil {
				return res, err
			}
			res.Chain = Chain{Seq: s.next.Seq - 1, CRC: s.next.CRC}
			return res, nil
		}
		if err := s.salvage(&res, off, next, nh.Seq, false); err != nil {
			return res, err
		}
		// The batch at next follows the damaged one, so its link is taken on trust.
		res.End, res.Chain = next, Chain{Seq: nh.Seq - 1, CRC: nh.PrevCRC}
		expect = &res.Chain
	}
}

func (s *scanner) accept(res *Result, off int64, h *Head) {
	if off == FileHeaderSize {
		res.First, res.Linked = h.PrevCRC, true
	}
	res.Batches++
	res.End = off + int64(h.Length)
	res.Chain = Chain{Seq: h.Seq, CRC: h.CRC}
}

// records visits the records of an intact batch.
func (s *scanner) records(b []byte, off int64, h *Head) error {
	if h.Footer {
		return nil // what it says is in the batches before it
	}
	p := HeadSize
	for range h.Records {
		r, err := DecodeRecord(b[p:])
		if err != nil && r.Ledger == 0 && r.Payload == nil {
			return fmt.Errorf("batch %d at %d of segment %d passes its checksum: %w", h.Seq, off, s.number, err)
		}
		if err := s.visit(&r, off+int64(p)); err != nil {
			return err
		}
		p += Size(len(r.Payload))
	}
	return nil
}

// later finds the first good batch after the bad place at off that was written when off was known durable.
func (s *scanner) later(off int64, seq uint64) (int64, Head, bool, error) {
	for p := off + BlockSize; p+BlockSize <= s.size; p += BlockSize {
		h, ok, err := s.head(p)
		if err != nil {
			return 0, h, false, err
		}
		if !ok || h.Seq <= seq || h.SyncedUpTo <= off || h.SyncedUpTo > p {
			continue
		}
		_, good, err := s.body(p, &h)
		if err != nil {
			return 0, h, false, err
		}
		if good {
			return p, h, true, nil
		}
	}
	return 0, Head{}, false, nil
}

// A claim is a batch of a damaged region of which at least one end is intact.
type claim struct {
	from, to int64
	seq      uint64
	records  int // -1 if unknown
	dir      []DirEntry
	hasDir   bool
}

// salvage visits what is intact between two offsets and reports the rest as lost. With tail, the region reaches
// to the end of the file: once the batch before nextSeq is found, what follows it means nothing. The end is then
// the end of what was found.
func (s *scanner) salvage(res *Result, from, to int64, nextSeq uint64, tail bool) error {
	region := make([]byte, to-from)
	for p := from; p < to; p += scanRead {
		n := int(min(scanRead, to-p))
		b, err := s.bytes(p, n)
		if err != nil {
			return err
		}
		copy(region[p-from:], b)
	}
	prevSeq := res.Chain.Seq
	for pos := int64(0); pos < int64(len(region)); {
		c := s.claim(region, from, pos, prevSeq, nextSeq)
		if c.from > pos {
			res.Losses = append(res.Losses, Loss{From: from + pos, To: from + c.from})
		}
		if c.to > c.from {
			if err := s.salvageBatch(res, region, from, &c); err != nil {
				return err
			}
			prevSeq = c.seq
		}
		pos = c.to
		if tail {
			if res.End = from + pos; prevSeq == nextSeq-1 {
				return nil
			}
		}
	}
	return nil
}

// claim finds the next batch at or after pos of the region, which starts at base in the file, of which an end is
// intact and where it belongs; an empty one at the end if none is. Its sequence number lies between those around
// it: what an earlier life of the place has left does not count.
func (s *scanner) claim(region []byte, base, pos int64, prevSeq, nextSeq uint64) claim {
	n := int64(len(region))
	for p := pos; p < n; p += BlockSize {
		if h, err := DecodeHead(region[p:], s.seed); err == nil && h.At(s.number, base+p) && h.Seq > prevSeq && h.Seq < nextSeq &&
			int64(h.Length) <= n-p {
			c := claim{from: p, to: p + int64(h.Length), seq: h.Seq, records: h.Records}
			if t, err := decodeTail(region[c.from:c.to], s.seed); err == nil && t.seq == h.Seq && t.segment == s.number && t.off == base+p {
				c.dir, c.hasDir = dirOf(t.dir), true
			}
			return c
		}
		end := p + BlockSize
		if t, err := decodeTail(region[:end], s.seed); err == nil && t.segment == s.number && t.seq > prevSeq && t.seq < nextSeq &&
			t.off == base+end-int64(t.length) && t.off >= base+pos && t.length >= BlockSize {
			return claim{from: t.off - base, to: end, seq: t.seq, records: -1, dir: dirOf(t.dir), hasDir: true}
		}
	}
	return claim{from: n, to: n}
}

func dirOf(b []byte) []DirEntry {
	var dir []DirEntry
	for ; len(b) >= DirEntrySize; b = b[DirEntrySize:] {
		dir = append(dir, decodeDirEntry(b))
	}
	return dir
}

type recordName struct {
	t      Type
	ledger ledgerfs.LedgerID
	entry  ledgerfs.EntryID
}

func (s *scanner) salvageBatch(res *Result, region []byte, base int64, c *claim) error {
	b := region[c.from:c.to]
	seed := s.seed.batch(c.seq)
	seen := map[recordName]bool{} // names found: true if intact
	var broken []DirEntry
	for p := HeadSize; p+RecordSize <= len(b); {
		if b[p] == 0 && b[p+4] == 0 || seed.crc(b[p+4:p+RecordSize]) != uint32(b[p])|uint32(b[p+1])<<8|uint32(b[p+2])<<16|uint32(b[p+3])<<24 {
			p += 8
			continue
		}
		r, err := DecodeRecord(b[p:])
		name := recordName{r.Type, r.Ledger, r.Entry}
		if err != nil {
			// Its length may be that of a record whose payload is elsewhere: others may start within it.
			if r.Payload != nil && !seen[name] {
				seen[name] = false
				broken = append(broken, DirEntry{Type: r.Type, Count: 1, Ledger: r.Ledger, First: r.Entry, Length: r.Length, LAC: r.LAC})
			}
			p += 8
			continue
		}
		if !seen[name] { // a block of this batch may be here twice
			seen[name] = true
			if err := s.visit(&r, base+c.from+int64(p)); err != nil {
				return err
			}
		}
		p += Size(len(r.Payload))
	}
	if !c.hasDir {
		for _, d := range broken {
			if name := (recordName{d.Type, d.Ledger, d.First}); !seen[name] {
				res.Losses = append(res.Losses, Loss{DirEntry: d, From: base + c.from, To: base + c.to})
			}
		}
		if len(seen) != c.records {
			res.Losses = append(res.Losses, Loss{From: base + c.from, To: base + c.to})
		}
		return nil
	}
	for _, d := range c.dir {
		// Report the missing ones as runs.
		run := DirEntry{}
		flush := func() {
			if run.Count > 0 {
				res.Losses = append(res.Losses, Loss{DirEntry: run, From: base + c.from, To: base + c.to})
			}
			run = DirEntry{}
		}
		for i := range d.Count {
			e := d.First + ledgerfs.EntryID(i)
			if seen[recordName{d.Type, d.Ledger, e}] {
				flush()
				continue
			}
			if run.Count == 0 {
				run = d
				run.First, run.Count = e, 0
			}
			run.Count++
		}
		flush()
	}
	return nil
}
