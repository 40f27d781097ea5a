package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/internal/segment"
)

// errNoRoom says that preparing a segment would use what is held in reserve.
var errNoRoom = errors.New("no room for another segment")

// keepFree bounds the files that are kept to be used again.
const keepFree = 4

// prepare keeps one segment ready beyond the active one.
func (s *Store) prepare() {
	for {
		select {
		case <-s.stop:
			return
		case <-s.wantSeg:
		}
		for {
			s.mu.Lock()
			wanted := len(s.core.ready) == 0 && s.core.failed == nil
			s.mu.Unlock()
			if !wanted {
				break
			}
			g, err := s.makeSegment(s.urgent)
			if err != nil {
				if !errors.Is(err, errNoRoom) {
					s.log.Error("cannot prepare a segment", "err", err)
				}
				s.step(event{kind: evNoRoom})
				break
			}
			s.step(event{kind: evReady, seg: g})
		}
		if g := s.step(event{kind: evRefill}).refill; g != nil {
			var err error
			g.fresh, err = s.fill(g.files.w, g.fresh, g.size, s.urgent)
			s.step(event{kind: evRefilled, seg: g})
			if err != nil {
				s.fail(fmt.Errorf("fill segment %d: %w", g.number, err))
			}
		}
	}
}

// fillChunk is how much of a segment is filled at a time: what a batch that wants the segment may have to wait for.
const fillChunk = 1 << 20

// fill writes zeroes to a segment's file from an offset on until it is full or urgent. It returns where it stopped, 0 if
// nothing is left to be filled.
func (s *Store) fill(w disk.File, from, size int64, urgent func() bool) (fresh int64, err error) {
	zero := disk.AlignedBlock(fillChunk)
	for off := from; off < size; {
		if urgent() {
			return off, nil
		}
		n := min(int64(len(zero)), size-off)
		if err := w.WriteAt(zero[:n], off); err != nil {
			return off, err
		}
		off += n
	}
	return 0, nil
}

// urgent reports whether the next segment will be needed soon.
func (s *Store) urgent() bool {
	select {
	case <-s.stop:
		return true
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.failed != nil || s.core.busy()
}

// makeSegment makes the next segment, from a file to be used again if there is one. A fresh file is taken from
// the file system whole, so that no later write to it can find the disk full, and, as long as it is not urgent,
// filled with zeroes, since first writes to it are slow. It fails with errNoRoom, or whatever went wrong; a
// failed write or sync here concerns no data yet.
func (s *Store) makeSegment(urgent func() bool) (*seg, error) {
	n := s.nextSeg
	s.mu.Lock()
	var old string
	if k := len(s.free); k > 0 {
		old = s.free[k-1]
		s.free = s.free[:k-1]
	}
	s.mu.Unlock()
	from := old
	if old == "" {
		from = s.segPath(newFile)
		u, err := s.fs.Usage(s.segDir())
		if err != nil {
			return nil, err
		}
		if u.Free-s.id.SegmentSize < s.reserve(u) {
			return nil, errNoRoom
		}
	}
	g, err := s.formatSegment(from, n, old == "", urgent)
	if err != nil {
		if old == "" {
			s.fs.Remove(from)
		}
		if errors.Is(err, syscall.ENOSPC) {
			return nil, fmt.Errorf("%w: %w", errNoRoom, err)
		}
		return nil, err
	}
	s.nextSeg++
	return g, nil
}

func (s *Store) formatSegment(from string, n uint64, fresh bool, urgent func() bool) (*seg, error) {
	size := s.id.SegmentSize
	f, err := s.fs.Open(from, disk.Create|disk.Write)
	if err != nil {
		return nil, err
	}
	err = f.Allocate(size)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	w, err := s.fs.Open(from, disk.Durable)
	if err != nil {
		return nil, err
	}
	var unwritten int64
	if fresh && s.cfg.FS == nil {
		if unwritten, err = s.fill(w, segment.FileHeaderSize, size, urgent); err != nil {
			w.Close()
			return nil, err
		}
	}
	h := segment.FileHeader{Kind: segment.InPlace, Number: n, Size: size, Incarnation: s.id.Incarnation}
	b := disk.AlignedBlock(segment.FileHeaderSize)
	h.Encode(b)
	err = w.WriteAt(b, 0)
	if err == nil {
		err = s.fs.Rename(from, s.segmentName(n))
	}
	if err == nil {
		err = s.fs.SyncDir(s.segDir())
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return &seg{number: n, size: size, end: segment.FileHeaderSize, fresh: unwritten, index: segment.NewIndex(), files: files{w: w}}, nil
}

// reserve is what must stay free on the file system, for the index, the metadata store and others.
func (s *Store) reserve(u disk.Usage) int64 { return min(max(u.Total/64, 256<<10), 64<<20) }

// ballastSize is the size of the reserve file.
func (s *Store) ballastSize(u disk.Usage) int64 { return min(max(u.Total/32, 256<<10), 64<<20) }

// measure looks at the room on the file system and takes or gives up the reserve file.
func (s *Store) measure() error {
	u, err := s.fs.Usage(s.segDir())
	if err != nil {
		return err
	}
	want, keep := s.ballastSize(u), s.reserve(u)
	switch {
	case s.ballast > 0 && u.Free < keep/2:
		s.log.Warn("disk is full: reserve given up", "free_bytes", u.Free, "reserve_bytes", s.ballast)
		if err := s.fs.Remove(s.dir(reserveFile)); err != nil {
			return err
		}
		s.ballast = 0
	case s.ballast == 0 && u.Free >= want+2*keep:
		if err := s.takeBallast(want); err != nil && !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		if u, err = s.fs.Usage(s.segDir()); err != nil {
			return err
		}
	}
	low := u.Free < keep || s.ballast == 0
	s.mu.Lock()
	changed := s.core.low != low
	s.space = Space{Total: u.Total, Free: u.Free, Reserve: keep, Held: s.ballast}
	// Room may have come back without having been low: try again. Or there is time now to fill what is ready.
	if !low && s.core.noRoom && len(s.core.ready) == 0 || len(s.core.ready) > 0 && s.core.ready[0].fresh > 0 && !s.core.busy() {
		notify(s.wantSeg)
	}
	s.mu.Unlock()
	if changed {
		if low {
			s.log.Warn("disk is low: normal adds are refused", "free_bytes", u.Free, "reserve_bytes", keep)
		} else {
			s.log.Info("disk has room again", "free_bytes", u.Free)
		}
		s.step(event{kind: evSpace, low: low})
	}
	return nil
}

// GiveUpReserve removes the reserve file of a store that is not open, so that what must be opened before the store
// finds room on a full disk. The store takes the reserve again when there is room for it.
func GiveUpReserve(dir string) error {
	if err := os.Remove(filepath.Join(dir, reserveFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("give up the reserve: %w", err)
	}
	return nil
}

func (s *Store) takeBallast(size int64) error {
	name := s.dir(reserveFile)
	f, err := s.fs.Open(name, disk.Create|disk.Write)
	if err != nil {
		return err
	}
	err = f.Allocate(size)
	if err == nil {
		err = f.Sync()
	}
	f.Close()
	if err == nil {
		err = s.fs.SyncDir(s.cfg.Dir)
	}
	if err != nil {
		s.fs.Remove(name)
		return err
	}
	s.ballast = size
	return nil
}

// tend does everything that is not urgent. Only it changes the index.
func (s *Store) tend() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			if err := s.measure(); err != nil {
				s.log.Error("cannot measure the disk", "err", err)
			}
			s.trimFiles()
			s.mu.Lock()
			again := s.reclaim
			s.mu.Unlock()
			if !again {
				continue
			}
		case <-s.tendNow:
		}
		if err := s.tendOnce(); err != nil {
			s.fail(err)
		}
	}
}

// tendOnce seals, deletes and reclaims what there is. An error is one that ends the store.
func (s *Store) tendOnce() error {
	for {
		s.mu.Lock()
		if s.core.failed != nil {
			s.mu.Unlock()
			return nil
		}
		var g *seg
		if len(s.sealing) > 0 {
			g = s.sealing[0]
			s.sealing = slices.Delete(s.sealing, 0, 1)
		}
		dead := make(map[ledgerfs.LedgerID]uint64, len(s.core.deleted))
		for id, home := range s.core.deleted {
			dead[id] = home
		}
		reclaim := s.reclaim
		s.reclaim = false
		s.mu.Unlock()
		switch {
		case g != nil:
			if err := s.seal(g); err != nil {
				return fmt.Errorf("seal segment %d: %w", g.number, err)
			}
		case len(dead) > 0:
			if err := s.applyDeletes(dead); err != nil {
				return err
			}
		case reclaim:
			return s.giveBack()
		default:
			return nil
		}
		s.mu.Lock()
		s.reclaim = true
		s.mu.Unlock()
		select {
		case <-s.stop:
			return nil
		default:
		}
	}
}

// seal writes the footer of a full segment and puts it into the index.
func (s *Store) seal(g *seg) error {
	s.mu.Lock()
	f := g.index.Footer()
	f.Segment, f.Size, f.End, f.First, f.Last = g.number, g.size, g.end, g.first, g.last
	s.mu.Unlock()
	if err := s.writeFooter(g, f); err != nil {
		return err
	}
	info, err := s.index.AddSegment(f)
	if err != nil {
		return err
	}
	s.step(event{kind: evSealed, seg: g, live: info.LiveRuns, bytes: info.LiveBytes})
	if err := g.files.w.Close(); err != nil {
		return err
	}
	g.files.w = nil
	return nil
}

func (s *Store) writeFooter(g *seg, f *segment.Footer) error {
	enc := f.AppendTo(nil)
	if segment.FooterRoom(len(enc)) > g.size-g.end {
		// A scan finds everything that the footer would say: only recovery is slower without.
		s.log.Warn("segment has no room for its footer", "segment", g.number, "bytes", len(enc))
		return nil
	}
	rec := controlRecord(segment.Checkpoint, 0, 0)
	rec.Payload = enc
	rec.Digest = ledgerfs.EntryDigest(rec.Ledger, rec.Entry, rec.LAC, rec.Length, enc)
	var b segment.Batch
	b.Reset(s.seed, g.last.Seq+1, disk.AlignedBlock(segment.Room(len(enc))))
	b.Append(&rec)
	data, _ := b.Seal(g.number, g.end, g.end, g.last.CRC, true)
	if err := g.files.w.WriteAt(data, g.end); err != nil {
		return err
	}
	k := segment.SealBlock{Segment: g.number, Off: g.end, Length: int64(len(data))}
	blk := disk.AlignedBlock(segment.SealSize)
	k.Encode(blk, s.seed)
	return g.files.w.WriteAt(blk, g.size-segment.SealSize)
}

// applyDeletes moves tombstones to the index.
func (s *Store) applyDeletes(dead map[ledgerfs.LedgerID]uint64) error {
	ids := make([]ledgerfs.LedgerID, 0, len(dead))
	for id, home := range dead {
		changed, err := s.index.DeleteLedger(id, home)
		if err != nil {
			return err
		}
		s.mu.Lock()
		for n, info := range changed {
			if g := s.core.segs[n]; g != nil {
				g.live, g.bytes = info.LiveRuns, info.LiveBytes
			}
		}
		s.mu.Unlock()
		ids = append(ids, id)
	}
	s.step(event{kind: evApplied, ids: ids})
	return nil
}

// giveBack gives up the sealed segments in which nothing is alive. What they say of ledgers that are alive
// elsewhere, and of deleted ones, is first written again.
func (s *Store) giveBack() error {
	s.mu.Lock()
	var dead []*seg
	for _, g := range s.core.segs {
		if g.index == nil && g.live == 0 && g.pins == 0 {
			dead = append(dead, g)
		}
	}
	s.mu.Unlock()
	if len(dead) == 0 {
		return nil
	}
	slices.SortFunc(dead, func(a, b *seg) int { return int(int64(a.number) - int64(b.number)) })
	for _, g := range dead {
		if err := s.carryOver(g); err != nil {
			if errors.Is(err, ledgerfs.ErrNoSpace) || errors.Is(err, ledgerfs.ErrClosed) {
				return nil // later
			}
			return fmt.Errorf("give up segment %d: %w", g.number, err)
		}
	}
	for _, g := range dead {
		if err := s.index.DropSegment(g.number); err != nil {
			return err
		}
	}
	// Nothing in the index may refer to a file that is used again.
	if err := s.index.Flush(); err != nil {
		s.log.Error("segments cannot be given back yet", "err", err)
		return nil
	}
	s.mu.Lock()
	dead = slices.DeleteFunc(dead, func(g *seg) bool { return g.pins > 0 })
	for _, g := range dead {
		delete(s.core.segs, g.number)
	}
	s.mu.Unlock()
	var free []string
	s.mu.Lock()
	room := keepFree - len(s.free)
	if s.core.low {
		room = 0
	}
	s.mu.Unlock()
	for _, g := range dead {
		if err := s.fds.forget(g); err != nil {
			return err
		}
		if g.size != s.id.SegmentSize || len(free) >= room {
			if err := s.fs.Remove(s.segmentName(g.number)); err != nil {
				return err
			}
			continue
		}
		name := s.segPath(freeFile(g.number))
		if err := s.fs.Rename(s.segmentName(g.number), name); err != nil {
			return err
		}
		free = append(free, name)
	}
	if err := s.fs.SyncDir(s.segDir()); err != nil {
		return err
	}
	// Only now may the files be written: their old names can no longer come back.
	s.mu.Lock()
	s.free = append(s.free, free...)
	s.mu.Unlock()
	s.log.Info("gave back segments", "count", len(dead))
	if err := s.measure(); err != nil {
		s.log.Error("cannot measure the disk", "err", err)
	}
	s.mu.Lock()
	if len(s.core.ready) == 0 {
		notify(s.wantSeg)
	}
	s.mu.Unlock()
	return nil
}

// carryOver writes again what only this segment says of ledgers.
func (s *Store) carryOver(g *seg) error {
	ledgers, tombs, err := s.index.Homes(g.number)
	if err != nil {
		return err
	}
	var ops []*op
	for _, l := range ledgers {
		r := controlRecord(segment.State, l.Ledger, ledgerfs.EntryID(l.Flags))
		r.LAC = l.LAC
		r.Digest = ledgerfs.EntryDigest(r.Ledger, r.Entry, r.LAC, r.Length, nil)
		ops = append(ops, &op{rec: r, done: make(chan error, 1)})
	}
	const perRecord = 1000
	for ids := range slices.Chunk(tombs, perRecord) {
		r := segment.Record{Type: segment.Tombstones, LAC: ledgerfs.NoEntry, Payload: segment.AppendIDs(nil, ids)}
		r.Digest = ledgerfs.EntryDigest(r.Ledger, r.Entry, r.LAC, r.Length, r.Payload)
		ops = append(ops, &op{rec: r, done: make(chan error, 1)})
	}
	for _, o := range ops {
		fx := s.step(event{kind: evOp, op: o})
		fx.tell()
	}
	home := uint64(0)
	var failed error
	for _, o := range ops {
		if err := <-o.done; err != nil {
			failed = err
			continue
		}
		if home == 0 || o.seg < home {
			home = o.seg
		}
	}
	if failed != nil || home == 0 {
		return failed
	}
	ids := make([]ledgerfs.LedgerID, len(ledgers))
	for i, l := range ledgers {
		ids[i] = l.Ledger
	}
	return s.index.Rehome(ids, tombs, home)
}
