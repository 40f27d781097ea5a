package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/daybook/daybook/ledgerfs"
)

// RunEntries bounds the entries of a run, so that finding one in it stays cheap.
const RunEntries = 256

// A Run is the places of consecutive entries of one ledger in one segment. The encoded steps hold, for each
// entry, two uvarints: the gap to the end of the record before (0 for the first), in units of 8 bytes, and the
// payload's length.
type Run struct {
	Ledger ledgerfs.LedgerID
	First  ledgerfs.EntryID
	Count  int
	Off    int64 // of the first record, in the file
	Steps  []byte
	end    int64 // of the last record, while the run is being built
}

// Last is the run's last entry.
func (r *Run) Last() ledgerfs.EntryID { return r.First + ledgerfs.EntryID(r.Count) - 1 }

// Append adds the entry after Last, or the first one. off must be at or after the end of the one before.
func (r *Run) Append(off int64, payload int) {
	if r.Count == 0 {
		r.Off, r.end = off, off
	}
	r.Steps = binary.AppendUvarint(r.Steps, uint64(off-r.end)/8)
	r.Steps = binary.AppendUvarint(r.Steps, uint64(payload))
	r.end = off + int64(Size(payload))
	r.Count++
}

// Places calls yield with the offset and payload length of the entries from the given one on, until it
// returns false or the run ends. It reports whether the run is well formed.
func (r *Run) Places(from ledgerfs.EntryID, yield func(e ledgerfs.EntryID, off int64, payload int) bool) bool {
	at, b := r.Off, r.Steps
	for i := range r.Count {
		gap, n := binary.Uvarint(b)
		if n <= 0 {
			return false
		}
		size, m := binary.Uvarint(b[n:])
		if m <= 0 || size > MaxPayload || gap > 1<<40 {
			return false
		}
		b = b[n+m:]
		at += int64(gap) * 8
		if e := r.First + ledgerfs.EntryID(i); e >= from && !yield(e, at, int(size)) {
			return true
		}
		at += int64(Size(int(size)))
	}
	return len(b) == 0
}

// Bytes is the room that the run's records take in the file.
func (r *Run) Bytes() int64 {
	total := int64(0)
	r.Places(r.First, func(_ ledgerfs.EntryID, _ int64, n int) bool { total += int64(Size(n)); return true })
	return total
}

// A LedgerState is what a segment says about one ledger.
type LedgerState struct {
	Ledger ledgerfs.LedgerID
	Flags  uint8 // set by control records of the segment, 0 if there are only adds
	Last   ledgerfs.EntryID
	Length int64 // carried by Last
	LAC    ledgerfs.EntryID
}

// A Footer is the index of one segment, all that recovery needs to know of it.
type Footer struct {
	Segment uint64
	Size    int64 // of the file
	End     int64 // of its data
	First   Chain // of the batch before the first
	Last    Chain // of the last data batch
	Runs    []Run // by ledger and first entry
	Ledgers []LedgerState
	Deleted []ledgerfs.LedgerID
	Losses  []Loss
}

const footerVersion = 1

// AppendTo encodes the footer.
func (f *Footer) AppendTo(b []byte) []byte {
	u := func(v uint64) { b = binary.AppendUvarint(b, v) }
	i := func(v int64) { b = binary.AppendVarint(b, v) }
	u(footerVersion)
	u(f.Segment)
	i(f.Size)
	i(f.End)
	u(f.First.Seq)
	u(uint64(f.First.CRC))
	u(f.Last.Seq)
	u(uint64(f.Last.CRC))
	u(uint64(len(f.Runs)))
	for k := range f.Runs {
		r := &f.Runs[k]
		i(int64(r.Ledger))
		i(int64(r.First))
		u(uint64(r.Count))
		i(r.Off)
		u(uint64(len(r.Steps)))
		b = append(b, r.Steps...)
	}
	u(uint64(len(f.Ledgers)))
	for _, l := range f.Ledgers {
		i(int64(l.Ledger))
		b = append(b, l.Flags)
		i(int64(l.Last))
		i(l.Length)
		i(int64(l.LAC))
	}
	ids := AppendIDs(nil, f.Deleted)
	u(uint64(len(ids)))
	b = append(b, ids...)
	u(uint64(len(f.Losses)))
	for _, l := range f.Losses {
		b = append(b, byte(l.Type))
		u(uint64(l.Count))
		i(int64(l.Ledger))
		i(int64(l.First))
		i(l.Length)
		i(int64(l.LAC))
		i(l.From)
		i(l.To)
	}
	return b
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) u() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) i() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

// count reads a number of items of which each takes at least min bytes.
func (d *decoder) count(min int) int {
	n := d.u()
	if n > uint64(len(d.b)/min) {
		d.bad = true
		return 0
	}
	return int(n)
}

// DecodeFooter is the inverse of AppendTo. The runs alias b.
func DecodeFooter(b []byte) (*Footer, error) {
	d := &decoder{b: b}
	if v := d.u(); v > footerVersion {
		return nil, fmt.Errorf("segment footer: %w (format %d)", ErrNewer, v)
	}
	f := &Footer{Segment: d.u(), Size: d.i(), End: d.i()}
	f.First = Chain{Seq: d.u(), CRC: uint32(d.u())}
	f.Last = Chain{Seq: d.u(), CRC: uint32(d.u())}
	for n := d.count(5); n > 0 && !d.bad; n-- {
		r := Run{Ledger: ledgerfs.LedgerID(d.i()), First: ledgerfs.EntryID(d.i())}
		count := d.u()
		r.Off = d.i()
		r.Steps = d.take(d.u())
		if count > RunEntries || r.Off < 0 || r.First < 0 {
			d.bad = true
		}
		r.Count = int(count)
		f.Runs = append(f.Runs, r)
	}
	for n := d.count(5); n > 0 && !d.bad; n-- {
		f.Ledgers = append(f.Ledgers, LedgerState{Ledger: ledgerfs.LedgerID(d.i()), Flags: d.byte(),
			Last: ledgerfs.EntryID(d.i()), Length: d.i(), LAC: ledgerfs.EntryID(d.i())})
	}
	ids, err := DecodeIDs(d.take(d.u()))
	f.Deleted = ids
	for n := d.count(8); n > 0 && !d.bad; n-- {
		l := Loss{DirEntry: DirEntry{Type: Type(d.byte()), Count: int(d.u()), Ledger: ledgerfs.LedgerID(d.i()),
			First: ledgerfs.EntryID(d.i()), Length: d.i(), LAC: ledgerfs.EntryID(d.i())}}
		l.From, l.To = d.i(), d.i()
		f.Losses = append(f.Losses, l)
	}
	if d.bad || err != nil || len(d.b) != 0 {
		return nil, fmt.Errorf("segment footer: %w", ErrFormat)
	}
	return f, nil
}

// A SealBlock is the last block of a full segment's file: it names the place of the footer, which is
// the payload of the only record of a footer batch.
type SealBlock struct {
	Segment uint64
	Off     int64
	Length  int64 // of the footer batch
}

// Encode fills the block b.
func (k *SealBlock) Encode(b []byte, s Seed) {
	le := binary.LittleEndian
	clear(b[:SealSize])
	le.PutUint32(b[0:], sealMagic)
	le.PutUint32(b[4:], Version)
	le.PutUint64(b[8:], k.Segment)
	le.PutUint64(b[16:], uint64(k.Off))
	le.PutUint64(b[24:], uint64(k.Length))
	le.PutUint32(b[32:], s.crc(b[:32]))
}

// DecodeSealBlock reads the last block of a file.
func DecodeSealBlock(b []byte, s Seed) (SealBlock, error) {
	le := binary.LittleEndian
	if len(b) < 36 || le.Uint32(b) != sealMagic || le.Uint32(b[32:]) != s.crc(b[:32]) {
		return SealBlock{}, fmt.Errorf("seal block: %w", ErrFormat)
	}
	if v := le.Uint32(b[4:]); v > Version {
		return SealBlock{}, fmt.Errorf("seal block: %w (format %d)", ErrNewer, v)
	}
	return SealBlock{Segment: le.Uint64(b[8:]), Off: int64(le.Uint64(b[16:])), Length: int64(le.Uint64(b[24:]))}, nil
}

// FooterRoom is the room that a footer of n encoded bytes takes in the file, the seal block included.
func FooterRoom(n int) int64 { return int64(Room(n)) + SealSize }

// OpenFooter takes the footer out of its batch, which was read at off.
func OpenFooter(b []byte, number uint64, off int64, s Seed) (*Footer, error) {
	h, err := DecodeHead(b, s)
	if err != nil {
		return nil, err
	}
	if !h.Footer || !h.At(number, off) || h.Length != len(b) || h.Records != 1 ||
		crc32.Update(uint32(s), castagnoli, b[HeadSize:]) != h.BodyCRC {
		return nil, fmt.Errorf("footer batch: %w", ErrFormat)
	}
	r, err := DecodeRecord(b[HeadSize:])
	if err != nil {
		return nil, err
	}
	f, err := DecodeFooter(r.Payload)
	if err != nil {
		return nil, err
	}
	if f.Segment != number {
		return nil, fmt.Errorf("footer of segment %d in segment %d: %w", f.Segment, number, ErrFormat)
	}
	return f, nil
}

// An Index is the index in memory of a segment that has no footer yet. It belongs to whoever holds the
// store's lock.
type Index struct {
	runs    map[ledgerfs.LedgerID][]Run // by first entry
	states  map[ledgerfs.LedgerID]*LedgerState
	deleted map[ledgerfs.LedgerID]bool
	Losses  []Loss
	size    int // bound on the encoded size
}

// NewIndex returns an empty index.
func NewIndex() *Index {
	return &Index{runs: map[ledgerfs.LedgerID][]Run{}, states: map[ledgerfs.LedgerID]*LedgerState{},
		deleted: map[ledgerfs.LedgerID]bool{}, size: 128}
}

// Bounds on what one more record adds to the encoded footer.
const (
	stateBytes = 64
	runBytes   = 48
	stepBytes  = 10
)

// Grow is a bound on what one more record adds to the encoded footer.
const Grow = stateBytes + runBytes + stepBytes

// Size is a bound on the encoded size of the footer.
func (x *Index) Size() int { return x.size }

func (x *Index) state(id ledgerfs.LedgerID) *LedgerState {
	s := x.states[id]
	if s == nil {
		s = &LedgerState{Ledger: id, Last: ledgerfs.NoEntry, LAC: ledgerfs.NoEntry}
		x.states[id] = s
		x.size += stateBytes
	}
	return s
}

// Record notes a record at a place of the file.
func (x *Index) Record(r *Record, off int64) error {
	switch r.Type {
	case Add:
		s := x.state(r.Ledger)
		if r.Entry > s.Last {
			s.Last, s.Length = r.Entry, r.Length
		}
		s.LAC = max(s.LAC, r.LAC)
		x.add(r.Ledger, r.Entry, off, len(r.Payload))
	case Install:
		x.state(r.Ledger).Flags |= FlagInstalled
	case Fence:
		x.state(r.Ledger).Flags |= FlagInstalled | FlagFenced
	case ExplicitLAC:
		s := x.state(r.Ledger)
		s.LAC = max(s.LAC, r.LAC)
	case State:
		s := x.state(r.Ledger)
		s.Flags |= uint8(r.Entry)
		s.LAC = max(s.LAC, r.LAC)
	case Delete:
		x.delete(r.Ledger)
	case Tombstones:
		ids, err := DecodeIDs(r.Payload)
		if err != nil {
			return err
		}
		for _, id := range ids {
			x.delete(id)
		}
	}
	return nil
}

func (x *Index) delete(id ledgerfs.LedgerID) {
	if !x.deleted[id] {
		x.deleted[id] = true
		x.size += 10
	}
}

func (x *Index) add(id ledgerfs.LedgerID, e ledgerfs.EntryID, off int64, n int) {
	runs := x.runs[id]
	if k := len(runs) - 1; k >= 0 && runs[k].Last()+1 == e && runs[k].Count < RunEntries && runs[k].end <= off {
		runs[k].Append(off, n)
		x.size += stepBytes
		return
	}
	r := Run{Ledger: id, First: e}
	r.Append(off, n)
	x.size += runBytes + stepBytes
	// Recovery writes entries in any order: keep the runs sorted.
	k, _ := slices.BinarySearchFunc(runs, e, func(r Run, e ledgerfs.EntryID) int {
		if r.First < e {
			return -1
		}
		return 1
	})
	x.runs[id] = slices.Insert(runs, k, r)
}

// Find returns the run that holds the entry, or nil. The run is valid until the next change.
func (x *Index) Find(id ledgerfs.LedgerID, e ledgerfs.EntryID) *Run {
	runs := x.runs[id]
	k, _ := slices.BinarySearchFunc(runs, e, func(r Run, e ledgerfs.EntryID) int {
		if r.Last() < e {
			return -1
		}
		return 1
	})
	// A run may lie inside another's range only if an entry was stored again after damage; entries of
	// one run are consecutive, so looking at the neighbours' ranges is enough otherwise.
	for ; k < len(runs); k++ {
		if runs[k].First <= e && e <= runs[k].Last() {
			return &runs[k]
		}
		if runs[k].First > e {
			break
		}
	}
	return nil
}

// Footer makes the footer, without the fields that describe the file.
func (x *Index) Footer() *Footer {
	f := &Footer{Losses: x.Losses}
	ids := make([]ledgerfs.LedgerID, 0, len(x.runs))
	for id := range x.runs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		f.Runs = append(f.Runs, x.runs[id]...)
	}
	for _, s := range x.states {
		f.Ledgers = append(f.Ledgers, *s)
	}
	slices.SortFunc(f.Ledgers, func(a, b LedgerState) int { return int(min(max(a.Ledger-b.Ledger, -1), 1)) })
	for id := range x.deleted {
		f.Deleted = append(f.Deleted, id)
	}
	slices.Sort(f.Deleted)
	return f
}

// Lose notes what damage took from the segment: the names of entries stay known as lost, control records take
// effect as if they were there.
func (x *Index) Lose(l Loss) error {
	x.size += 64
	switch l.Type {
	case Add:
		s := x.state(l.Ledger)
		if last := l.First + ledgerfs.EntryID(l.Count) - 1; last > s.Last {
			s.Last, s.Length = last, l.Length
		}
		s.LAC = max(s.LAC, l.LAC)
	case Tombstones, Checkpoint:
		l.DirEntry = DirEntry{}
	case 0:
	default:
		if err := x.Record(&Record{Type: l.Type, Ledger: l.Ledger, Entry: l.First, LAC: l.LAC}, 0); err != nil {
			return err
		}
	}
	x.Losses = append(x.Losses, l)
	return nil
}

// Drop forgets the entries and the state of a deleted ledger.
func (x *Index) Drop(id ledgerfs.LedgerID) {
	delete(x.runs, id)
	delete(x.states, id)
}

// Live is the number of ledgers that have entries in the segment.
func (x *Index) Live() int { return len(x.runs) }
