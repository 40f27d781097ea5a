// Package index finds entries in sealed segments, and keeps what is known of every ledger, in pebble.
//
// The index is disposable: it is written without a log and rebuilt from the segments' footers. Its changes
// are atomic and survive a crash in the order in which they were made, so that a segment whose record is
// there has all of its runs there.
//
// # Format
//
//	"f"                          format u8 | incarnation[16]
//	"r" ledger last segment      first | count | off | steps      uvarints; one record per run
//	"l" ledger                   flags | last | length | lac | home
//	"t" ledger                   home                             tombstone of a deleted ledger
//	"s" segment                  size | end | chains | live runs | live bytes | doubt
//	"h" ledger first segment     count | length | lac             entries that damage took
//	"d" segment from             to | up to ledger                            what damage took without a name
//
// Numbers in keys are 8 bytes big-endian. home is the segment whose control records hold the ledger's flags:
// before it is given up they must be written again.
package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/segment"
)

const format = 1

// ErrStale says that the index belongs to another store or format, or is damaged: it must be rebuilt.
var ErrStale = errors.New("index must be rebuilt")

var errFailed = errors.New("index has failed")

// An Index is an open index. Its methods may be called by any goroutine, those that change it by one at a
// time.
type Index struct {
	db      *pebble.DB
	bg      chan error    // the newest error of pebble's background work
	closing chan struct{} // ends the wait after such an error
	stop    *stopper
}

// Ledger is what the index knows of a ledger.
type Ledger struct {
	segment.LedgerState
	Home uint64
}

// Segment is what the index knows of a sealed segment.
type Segment struct {
	Number      uint64
	Size        int64
	End         int64
	First, Last segment.Chain
	LiveRuns    int64
	LiveBytes   int64
}

// Hole is a run of entries that damage took.
type Hole struct {
	Ledger ledgerfs.LedgerID
	First  ledgerfs.EntryID
	Count  int
	Length int64
	LAC    ledgerfs.EntryID
}

// Open opens the index in dir, which must exist, or makes an empty one. After an error that pebble cannot live
// with, fatal is called once, and calls that are under way may never return.
func Open(fs vfs.FS, dir string, inc ledgerfs.Incarnation, log *slog.Logger, fatal func(error)) (_ *Index, err error) {
	stop := &stopper{fatal: fatal, opening: true, over: make(chan struct{})}
	defer func() {
		// Pebble panics where a directory cannot be synced.
		if p := recover(); p != nil {
			err = fmt.Errorf("open index %s: %v", dir, p)
		}
		stop.opened()
	}()
	cache := pebble.NewCache(2 << 20)
	defer cache.Unref()
	opts := &pebble.Options{
		FS:                          stopFS{fs, stop},
		Cache:                       cache,
		DisableWAL:                  true,
		MemTableSize:                4 << 20,
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                128,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      logger{log, stop},
	}
	x := &Index{bg: make(chan error, 1), closing: make(chan struct{}), stop: stop}
	opts.EventListener = &pebble.EventListener{BackgroundError: x.background}
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("open index %s: %w: %w", dir, ErrStale, err)
	}
	x.db = db
	want := append([]byte{format}, inc[:]...)
	v, closer, err := db.Get([]byte("f"))
	if errors.Is(err, pebble.ErrNotFound) {
		err = db.Set([]byte("f"), want, pebble.NoSync)
	} else if err == nil {
		if len(v) > 0 && v[0] > format {
			err = fmt.Errorf("index %s: %w (format %d)", dir, segment.ErrNewer, v[0])
		} else if !bytes.Equal(v, want) {
			err = fmt.Errorf("index %s: %w: of another store or format", dir, ErrStale)
		}
		closer.Close()
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return x, nil
}

// logger passes on pebble's errors only: its infos are not for operators.
type logger struct {
	log  *slog.Logger
	stop *stopper
}

func (l logger) Infof(string, ...any) {}
func (l logger) Errorf(format string, a ...any) {
	l.log.Error("index", "err", fmt.Sprintf(format, a...))
}

// Fatalf is called by pebble when it cannot go on; it must not return.
func (l logger) Fatalf(format string, a ...any) { l.stop.end(fmt.Errorf(format, a...)) }

// background is told of failed flushes and compactions. Pebble tries again as soon as it returns, so it holds
// pebble back for a while.
func (x *Index) background(err error) {
	select {
	case <-x.bg:
	default:
	}
	select {
	case x.bg <- err:
	default:
	}
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-x.closing:
	}
}

// Failed is closed when the index has ended itself: calls may then never return.
func (x *Index) Failed() <-chan struct{} { return x.stop.over }

// Close releases the index without making it durable; Flush does. An index that failed is left alone.
func (x *Index) Close() error {
	select {
	case <-x.stop.over:
		return nil
	default:
	}
	close(x.closing)
	done := make(chan error, 1)
	go func() { done <- x.db.Close() }()
	select {
	case err := <-done:
		return err
	case <-x.stop.over:
		return nil
	}
}

// Flush makes all changes durable. If it fails they stay in memory, and a later Flush may succeed.
func (x *Index) Flush() error {
	select {
	case <-x.bg:
	default:
	}
	done := make(chan error, 1)
	go func() {
		flushed, err := x.db.AsyncFlush()
		if err == nil {
			select {
			case <-flushed:
			case err = <-x.bg:
			case <-x.stop.over:
				err = errFailed
			}
		}
		done <- err
	}()
	var err error
	select {
	case err = <-done:
	case <-x.stop.over:
		err = errFailed
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("flush index: %w", err)
}

func key(prefix byte, n ...uint64) []byte {
	b := make([]byte, 1, 1+8*len(n))
	b[0] = prefix
	for _, v := range n {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func keyNumber(k []byte, i int) uint64 {
	if len(k) < 9+8*i {
		return 0
	}
	return binary.BigEndian.Uint64(k[1+8*i:])
}

// fields decodes n varints.
func fields(b []byte, v ...*int64) ([]byte, error) {
	for _, p := range v {
		d, n := binary.Varint(b)
		if n <= 0 {
			return nil, fmt.Errorf("index record: %w", segment.ErrFormat)
		}
		*p = d
		b = b[n:]
	}
	return b, nil
}

func appendFields(b []byte, v ...int64) []byte {
	for _, d := range v {
		b = binary.AppendVarint(b, d)
	}
	return b
}

func (s *Segment) encode() []byte {
	return appendFields(nil, s.Size, s.End, int64(s.First.Seq), int64(s.First.CRC), int64(s.Last.Seq), int64(s.Last.CRC),
		s.LiveRuns, s.LiveBytes)
}

func decodeSegment(number uint64, b []byte) (Segment, error) {
	s := Segment{Number: number}
	var fs, fc, ls, lc int64
	_, err := fields(b, &s.Size, &s.End, &fs, &fc, &ls, &lc, &s.LiveRuns, &s.LiveBytes)
	s.First = segment.Chain{Seq: uint64(fs), CRC: uint32(fc)}
	s.Last = segment.Chain{Seq: uint64(ls), CRC: uint32(lc)}
	return s, err
}

func decodeLedger(id ledgerfs.LedgerID, b []byte) (Ledger, error) {
	l := Ledger{LedgerState: segment.LedgerState{Ledger: id}}
	var flags, last, lac, home int64
	_, err := fields(b, &flags, &last, &l.Length, &lac, &home)
	l.Flags, l.Last, l.LAC, l.Home = uint8(flags), ledgerfs.EntryID(last), ledgerfs.EntryID(lac), uint64(home)
	return l, err
}

func decodeRun(k, v []byte) (segment.Run, uint64, error) {
	var first, count, off int64
	rest, err := fields(v, &first, &count, &off)
	if err != nil || len(k) != 25 || count < 1 || count > segment.RunEntries {
		return segment.Run{}, 0, fmt.Errorf("index run: %w", segment.ErrFormat)
	}
	r := segment.Run{Ledger: ledgerfs.LedgerID(keyNumber(k, 0)), First: ledgerfs.EntryID(first), Count: int(count), Off: off}
	r.Steps = bytes.Clone(rest)
	if r.Last() != ledgerfs.EntryID(keyNumber(k, 1)) {
		return segment.Run{}, 0, fmt.Errorf("index run: %w", segment.ErrFormat)
	}
	return r, keyNumber(k, 2), nil
}

// get reads a key; nil if it does not exist.
func (x *Index) get(k []byte) ([]byte, error) {
	v, closer, err := x.db.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	defer closer.Close()
	return bytes.Clone(v), nil
}

// AddSegment indexes a sealed segment. Runs and states of ledgers that are, or get, deleted are left out.
func (x *Index) AddSegment(f *segment.Footer) (Segment, error) {
	b := x.db.NewBatch()
	defer b.Close()
	s := Segment{Number: f.Segment, Size: f.Size, End: f.End, First: f.First, Last: f.Last}
	dead := map[ledgerfs.LedgerID]bool{}
	freed := map[uint64]*Segment{}
	for _, id := range f.Deleted {
		dead[id] = true
		if err := x.deleteLedger(b, id, f.Segment, freed); err != nil {
			return s, err
		}
	}
	for _, l := range f.Ledgers {
		if dead[l.Ledger] {
			continue
		}
		if gone, err := x.Deleted(l.Ledger); err != nil {
			return s, err
		} else if gone {
			dead[l.Ledger] = true
			continue
		}
		v, err := x.get(key('l', uint64(l.Ledger)))
		if err != nil {
			return s, err
		}
		have := Ledger{LedgerState: segment.LedgerState{Ledger: l.Ledger, Last: ledgerfs.NoEntry, LAC: ledgerfs.NoEntry}}
		if v != nil {
			if have, err = decodeLedger(l.Ledger, v); err != nil {
				return s, err
			}
		}
		if l.Flags != 0 {
			have.Flags |= l.Flags
			have.Home = max(have.Home, f.Segment)
		}
		if l.Last > have.Last {
			have.Last, have.Length = l.Last, l.Length
		}
		have.LAC = max(have.LAC, l.LAC)
		b.Set(key('l', uint64(l.Ledger)), appendFields(nil, int64(have.Flags), int64(have.Last), have.Length,
			int64(have.LAC), int64(have.Home)), nil)
	}
	var val []byte
	for i := range f.Runs {
		r := &f.Runs[i]
		if dead[r.Ledger] {
			continue
		}
		val = appendFields(val[:0], int64(r.First), int64(r.Count), r.Off)
		val = append(val, r.Steps...)
		b.Set(key('r', uint64(r.Ledger), uint64(r.Last()), f.Segment), val, nil)
		s.LiveRuns++
		s.LiveBytes += r.Bytes()
	}
	for _, l := range f.Losses {
		if l.Doubt() {
			b.Set(key('d', f.Segment, uint64(l.From)), appendFields(nil, l.To, int64(l.Ledger)), nil)
		} else if l.Type == segment.Add && !dead[l.Ledger] {
			b.Set(key('h', uint64(l.Ledger), uint64(l.First), f.Segment), appendFields(nil, int64(l.Count), l.Length, int64(l.LAC)), nil)
		}
	}
	b.Set(key('s', f.Segment), s.encode(), nil)
	for n, d := range freed {
		b.Set(key('s', n), d.encode(), nil)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return s, fmt.Errorf("index segment %d: %w", f.Segment, err)
	}
	return s, nil
}

// DeleteLedger replaces everything known of a ledger by a tombstone and returns the segments whose live counts
// changed.
func (x *Index) DeleteLedger(id ledgerfs.LedgerID, home uint64) (map[uint64]*Segment, error) {
	b := x.db.NewBatch()
	defer b.Close()
	freed := map[uint64]*Segment{}
	if err := x.deleteLedger(b, id, home, freed); err != nil {
		return nil, err
	}
	for n, d := range freed {
		b.Set(key('s', n), d.encode(), nil)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return nil, fmt.Errorf("delete ledger %d from index: %w", id, err)
	}
	return freed, nil
}

func (x *Index) deleteLedger(b *pebble.Batch, id ledgerfs.LedgerID, home uint64, freed map[uint64]*Segment) error {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: key('r', uint64(id)), UpperBound: key('r', uint64(id)+1)})
	if err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	any := false
	for ok := it.First(); ok; ok = it.Next() {
		r, n, err := decodeRun(it.Key(), it.Value())
		if err != nil {
			it.Close()
			return err
		}
		any = true
		s := freed[n]
		if s == nil {
			v, err := x.get(key('s', n))
			if err == nil && v != nil {
				var d Segment
				if d, err = decodeSegment(n, v); err == nil {
					s = &d
				}
			}
			if err != nil {
				it.Close()
				return err
			}
			if s == nil {
				continue
			}
			freed[n] = s
		}
		s.LiveRuns--
		s.LiveBytes -= r.Bytes()
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	if any {
		b.DeleteRange(key('r', uint64(id)), key('r', uint64(id)+1), nil)
	}
	b.DeleteRange(key('h', uint64(id)), key('h', uint64(id)+1), nil)
	b.Delete(key('l', uint64(id)), nil)
	b.Set(key('t', uint64(id)), appendFields(nil, int64(home)), nil)
	return nil
}

// Deleted reports whether the ledger has a tombstone.
func (x *Index) Deleted(id ledgerfs.LedgerID) (bool, error) {
	v, err := x.get(key('t', uint64(id)))
	return v != nil, err
}

// Rehome notes that a ledger's flags, or its tombstone, were written again in another segment.
func (x *Index) Rehome(ledgers, tombstones []ledgerfs.LedgerID, home uint64) error {
	b := x.db.NewBatch()
	defer b.Close()
	for _, id := range ledgers {
		v, err := x.get(key('l', uint64(id)))
		if err != nil || v == nil {
			return err
		}
		l, err := decodeLedger(id, v)
		if err != nil {
			return err
		}
		b.Set(key('l', uint64(id)), appendFields(nil, int64(l.Flags), int64(l.Last), l.Length, int64(l.LAC), int64(home)), nil)
	}
	for _, id := range tombstones {
		b.Set(key('t', uint64(id)), appendFields(nil, int64(home)), nil)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

// Find returns the run that holds the entry and its segment; ok is false if there is none.
func (x *Index) Find(id ledgerfs.LedgerID, e ledgerfs.EntryID) (r segment.Run, number uint64, ok bool, err error) {
	it, err := x.db.NewIter(&pebble.IterOptions{
		LowerBound: key('r', uint64(id), uint64(e)), UpperBound: key('r', uint64(id)+1)})
	if err != nil {
		return r, 0, false, fmt.Errorf("read index: %w", err)
	}
	defer it.Close()
	if !it.First() {
		if err := it.Error(); err != nil {
			return r, 0, false, fmt.Errorf("read index: %w", err)
		}
		return r, 0, false, nil
	}
	r, number, err = decodeRun(it.Key(), it.Value())
	if err != nil || r.First > e {
		return segment.Run{}, 0, false, err
	}
	return r, number, true, nil
}

// DropSegment forgets a segment that is given up.
func (x *Index) DropSegment(n uint64) error {
	b := x.db.NewBatch()
	defer b.Close()
	b.Delete(key('s', n), nil)
	b.DeleteRange(key('d', n), key('d', n+1), nil)
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

func (x *Index) each(prefix byte, f func(k, v []byte) error) error {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefix}, UpperBound: []byte{prefix + 1}})
	if err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := f(it.Key(), it.Value()); err != nil {
			it.Close()
			return err
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	return nil
}

// Ledgers calls f for every ledger that is not deleted.
func (x *Index) Ledgers(f func(Ledger) error) error {
	return x.each('l', func(k, v []byte) error {
		l, err := decodeLedger(ledgerfs.LedgerID(keyNumber(k, 0)), v)
		if err != nil {
			return err
		}
		return f(l)
	})
}

// Segments calls f for every segment.
func (x *Index) Segments(f func(Segment) error) error {
	return x.each('s', func(k, v []byte) error {
		s, err := decodeSegment(keyNumber(k, 0), v)
		if err != nil {
			return err
		}
		return f(s)
	})
}

// Homes returns the ledgers and the tombstones whose home is the segment.
func (x *Index) Homes(n uint64) (ledgers []Ledger, tombstones []ledgerfs.LedgerID, err error) {
	err = x.Ledgers(func(l Ledger) error {
		if l.Home == n {
			ledgers = append(ledgers, l)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	err = x.each('t', func(k, v []byte) error {
		var home int64
		if _, err := fields(v, &home); err != nil {
			return err
		}
		if uint64(home) == n {
			tombstones = append(tombstones, ledgerfs.LedgerID(keyNumber(k, 0)))
		}
		return nil
	})
	return ledgers, tombstones, err
}

// Holes calls f for every hole.
func (x *Index) Holes(f func(Hole) error) error {
	return x.each('h', func(k, v []byte) error {
		h := Hole{Ledger: ledgerfs.LedgerID(keyNumber(k, 0)), First: ledgerfs.EntryID(keyNumber(k, 1))}
		var count, lac int64
		if _, err := fields(v, &count, &h.Length, &lac); err != nil {
			return err
		}
		if count < 1 || count > math.MaxInt32 {
			return fmt.Errorf("index hole: %w", segment.ErrFormat)
		}
		h.Count, h.LAC = int(count), ledgerfs.EntryID(lac)
		return f(h)
	})
}

// A Doubt says that damage took something without a name, of any ledger up to UpTo.
type Doubt struct {
	Segment uint64
	UpTo    ledgerfs.LedgerID
}

// Doubts calls f for every doubt.
func (x *Index) Doubts(f func(Doubt) error) error {
	return x.each('d', func(k, v []byte) error {
		var to, upTo int64
		if _, err := fields(v, &to, &upTo); err != nil {
			return err
		}
		return f(Doubt{keyNumber(k, 0), ledgerfs.LedgerID(upTo)})
	})
}
