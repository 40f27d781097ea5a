package store

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/internal/index"
	"github.com/daybook/daybook/ledgerfs/internal/journal"
	"github.com/daybook/daybook/ledgerfs/internal/segment"
)

// identity is what a store's directories have in common.
type identity struct {
	Format      int                  `json:"format"`
	Incarnation ledgerfs.Incarnation `json:"-"`
	Name        string               `json:"incarnation"`
	SegmentSize int64                `json:"segment_size"`
}

const identityFormat = 1

// seqStep separates the sequence numbers of two lives of the process, so that what the first was writing when
// it died never passes for what the second writes.
const seqStep = 1 << 16

// Open opens the store, formatting it if its directories are empty, and recovers what a crash left.
func Open(cfg Config) (*Store, error) {
	s, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Dir, err)
	}
	return s, nil
}

func open(cfg Config) (_ *Store, err error) {
	cfg.Dir = filepath.Clean(cfg.Dir)
	if cfg.JournalDir == "" {
		cfg.JournalDir = filepath.Join(cfg.Dir, segmentDir)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.WriteCache == 0 {
		cfg.WriteCache = 32 << 20
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 64 << 20
	}
	s := &Store{cfg: cfg, fs: cfg.FS, log: cfg.Log,
		wantSeg: make(chan struct{}, 1), tendNow: make(chan struct{}, 1), stop: make(chan struct{})}
	s.work.L, s.slow.L = &s.mu, &s.mu
	if s.fs == nil {
		// Taking the lock comes first: the self-test must not write into a running store's directory.
		boot := &disk.OS{}
		if err := boot.MkdirAll(cfg.Dir); err != nil {
			return nil, err
		}
		s.fs = boot
	} else if err := s.fs.MkdirAll(cfg.Dir); err != nil {
		return nil, err
	}
	if s.lock, err = s.fs.Lock(s.dir(lockFile)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if err := s.fs.MkdirAll(cfg.JournalDir); err != nil {
		return nil, err
	}
	if cfg.FS == nil {
		o, err := disk.NewOS(cfg.JournalDir)
		if err != nil {
			return nil, err
		}
		if !o.Direct {
			s.log.Warn("direct writes do not work here: each commit is a write and a sync", "dir", cfg.JournalDir)
		}
		s.fs = o
	}
	if err := s.identify(); err != nil {
		return nil, err
	}
	s.seed = segment.SeedOf(s.id.Incarnation)
	s.core = core{
		cfg: limits{
			segmentSize: s.id.SegmentSize,
			maxBatch:    int(min(slabSize, s.id.SegmentSize/4)),
			maxBytes:    cfg.MaxInFlight,
			maxPayload:  int(min(segment.MaxPayload, s.id.SegmentSize-min(s.id.SegmentSize/4, 256<<10))),
		},
		seed: s.seed, ledger: newTable(), deleted: map[ledgerfs.LedgerID]uint64{},
		segs: map[uint64]*seg{}, slowIn: map[ledgerfs.LedgerID]int{},
		holes: map[ledgerfs.LedgerID][]hole{}, cache: cache{max: cfg.WriteCache},
	}
	if err := s.openIndex(); err != nil {
		return nil, err
	}
	if err := s.recover(); err != nil {
		return nil, err
	}
	if err := s.openBallast(); err != nil {
		return nil, err
	}
	s.journal = journal.Start[*batch](s)
	s.bg.Go(s.prepare)
	s.bg.Go(s.decide)
	s.bg.Go(s.tend)
	notify(s.wantSeg)
	notify(s.tendNow)
	return s, nil
}

// identify reads the identity from both directories, or formats them if they are empty.
func (s *Store) identify() error {
	a, errA := s.readIdentity(s.cfg.Dir)
	b, errB := s.readIdentity(s.segDir())
	missA, missB := errors.Is(errA, fs.ErrNotExist), errors.Is(errB, fs.ErrNotExist)
	switch {
	case errA != nil && !missA:
		return errA
	case errB != nil && !missB:
		return errB
	case !missA && !missB:
		if a != b {
			return fmt.Errorf("%w: %s is of incarnation %v, %s of %v", ErrIdentity, s.cfg.Dir, a.Incarnation, s.segDir(), b.Incarnation)
		}
		s.id = a
		return nil
	case !missA:
		return fmt.Errorf("%w: %s has no %s, but %s has: the segments are missing, mount or restore them", ErrIdentity,
			s.segDir(), IdentityFile, s.cfg.Dir)
	}
	// The segments' directory is formatted first: without the other, nothing was ever stored.
	names, err := s.fs.List(s.segDir())
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, ok := parseName(n, "seg-"); ok {
			return fmt.Errorf("%w: %s holds segments, but %s has no %s: restore the directory, or move both away to start empty",
				ErrIdentity, s.segDir(), s.cfg.Dir, IdentityFile)
		}
	}
	if ok, err := s.fs.Exists(s.dir(indexDir)); err != nil || ok {
		return errors.Join(err, fmt.Errorf("%w: %s holds an index, but no %s", ErrIdentity, s.cfg.Dir, IdentityFile))
	}
	return s.format()
}

func (s *Store) readIdentity(dir string) (id identity, err error) {
	name := filepath.Join(dir, IdentityFile)
	b, err := disk.ReadFile(s.fs, name, 1<<16)
	if err != nil {
		return id, err
	}
	return parseIdentity(name, b)
}

func parseIdentity(name string, b []byte) (id identity, err error) {
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("%w: %s: %w", ErrIdentity, name, err)
	}
	if id.Format > identityFormat {
		return id, fmt.Errorf("%s: %w (format %d, this program knows %d)", name, ErrNewer, id.Format, identityFormat)
	}
	if id.Incarnation, err = ledgerfs.ParseIncarnation(id.Name); err != nil {
		return id, fmt.Errorf("%w: %s: %w", ErrIdentity, name, err)
	}
	if id.SegmentSize < 16*segment.BlockSize || id.SegmentSize%segment.BlockSize != 0 {
		return id, fmt.Errorf("%w: %s: segment size %d", ErrIdentity, name, id.SegmentSize)
	}
	return id, nil
}

func (s *Store) format() error {
	id := identity{Format: identityFormat, SegmentSize: s.cfg.SegmentSize &^ (segment.BlockSize - 1)}
	if id.SegmentSize == 0 {
		u, err := s.fs.Usage(s.segDir())
		if err != nil {
			return err
		}
		for id.SegmentSize = 64 << 20; id.SegmentSize > 8<<20 && id.SegmentSize > u.Total/32; {
			id.SegmentSize /= 2
		}
	}
	id.SegmentSize = max(id.SegmentSize, 16*segment.BlockSize)
	rand.Read(id.Incarnation[:])
	id.Name = id.Incarnation.String()
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	for _, dir := range []string{s.segDir(), s.cfg.Dir} {
		if err := disk.WriteFileAtomic(s.fs, dir, IdentityFile, b); err != nil {
			return err
		}
	}
	s.id = id
	s.log.Info("formatted", "dir", s.cfg.Dir, "incarnation", id.Name, "segment_bytes", id.SegmentSize)
	return nil
}

// openIndex opens the index, or makes it anew if it is missing, damaged or another store's.
func (s *Store) openIndex() error {
	dir := s.dir(indexDir)
	if err := s.fs.MkdirAll(dir); err != nil {
		return err
	}
	x, err := index.Open(s.fs.Pebble(), dir, s.id.Incarnation, s.log, s.fail)
	if errors.Is(err, index.ErrStale) {
		s.log.Warn("index is rebuilt", "err", err)
		if err := s.fs.Pebble().RemoveAll(dir); err != nil {
			return err
		}
		if err := s.fs.MkdirAll(dir); err != nil {
			return err
		}
		x, err = index.Open(s.fs.Pebble(), dir, s.id.Incarnation, s.log, s.fail)
	}
	s.index = x
	return err
}

// recover reads the log: what the index knows it need not, of full segments it reads the footers, the others it
// scans.
func (s *Store) recover() error {
	started := time.Now()
	names, err := s.fs.List(s.segDir())
	if err != nil {
		return err
	}
	var numbers []uint64
	var free []string
	for _, name := range names {
		if n, ok := parseName(name, "seg-"); ok {
			numbers = append(numbers, n)
			s.nextSeg = max(s.nextSeg, n)
		} else if n, ok := parseName(name, "free-"); ok {
			free = append(free, name)
			s.nextSeg = max(s.nextSeg, n)
		} else if strings.HasSuffix(name, ".tmp") {
			if err := s.fs.Remove(s.segPath(name)); err != nil {
				return err
			}
		}
	}
	slices.Sort(numbers)
	s.nextSeg++
	if err := s.keepFreeFiles(free, numbers); err != nil {
		return err
	}
	// What is seen may not be durable yet, if only the process died.
	for _, dir := range []string{s.segDir(), s.cfg.Dir} {
		if err := s.fs.SyncDir(dir); err != nil {
			return err
		}
	}
	indexed := map[uint64]index.Segment{}
	if err := s.index.Segments(func(g index.Segment) error { indexed[g.Number] = g; return nil }); err != nil {
		return err
	}
	for n := range indexed {
		if _, ok := slices.BinarySearch(numbers, n); !ok {
			return fmt.Errorf("%w: %s is missing", ErrIdentity, s.segmentName(n))
		}
	}
	if err := s.loadIndexed(); err != nil {
		return err
	}
	r := &recovery{s: s, seen: map[ledgerfs.LedgerID]bool{}}
	for _, n := range numbers {
		info, ok := indexed[n]
		if !ok {
			if info, ok, err = s.importFooter(n); err != nil {
				return err
			}
		}
		if ok {
			s.core.segs[n] = &seg{number: n, size: info.Size, end: info.End, first: info.First, last: info.Last,
				rolled: true, live: info.LiveRuns, bytes: info.LiveBytes}
			r.prev = info.Last
			continue
		}
		if err := r.scan(n, numbers); err != nil {
			return err
		}
	}
	if err := r.finish(); err != nil {
		return err
	}
	s.reclaim = true
	s.log.Info("recovered", "segments", len(numbers), "scanned", r.scanned, "records", r.records,
		"losses", r.losses, "took", time.Since(started).Round(time.Millisecond))
	return nil
}

// keepFreeFiles takes over the files that can be used again. One that is also, or may also be, a segment under
// another name, because a crash caught it between its names, is dropped.
func (s *Store) keepFreeFiles(names []string, numbers []uint64) error {
	for _, name := range names {
		name = s.segPath(name)
		f, err := s.fs.Open(name, 0)
		if err != nil {
			return err
		}
		b := make([]byte, segment.FileHeaderSize)
		size, err := f.Size()
		if err == nil && size >= int64(len(b)) {
			err = disk.ReadFull(f, b, 0)
		}
		f.Close()
		if err != nil {
			return err
		}
		h, err := segment.DecodeFileHeader(b)
		if errors.Is(err, ErrNewer) {
			return err
		}
		if _, used := slices.BinarySearch(numbers, h.Number); err != nil || used || size != s.id.SegmentSize {
			if err := s.fs.Remove(name); err != nil {
				return err
			}
			continue
		}
		s.free = append(s.free, name)
	}
	return nil
}

// loadIndexed takes over what the index says of ledgers.
func (s *Store) loadIndexed() error {
	c := &s.core
	err := s.index.Ledgers(func(x index.Ledger) error {
		c.load(&x.LedgerState)
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.index.Holes(func(h index.Hole) error {
		c.holes[h.Ledger] = append(c.holes[h.Ledger], hole{h.First, h.Count})
		return nil
	}); err != nil {
		return err
	}
	// Holes that were mended are in the index as entries.
	for id, hs := range c.holes {
		for _, h := range slices.Clone(hs) {
			for e := h.first; e < h.first+ledgerfs.EntryID(h.count); e++ {
				if _, _, ok, err := s.index.Find(id, e); err != nil {
					return err
				} else if ok {
					c.fill(id, e)
				}
			}
		}
	}
	return s.index.Doubts(func(d index.Doubt) error {
		c.doubtful = max(c.doubtful, d.UpTo)
		return nil
	})
}

// load merges what a footer or the index says of a ledger.
func (c *core) load(x *segment.LedgerState) {
	l := c.ledger.get(x.Ledger)
	if l == nil {
		l = c.ledger.add(x.Ledger)
	}
	l.flags |= ledgerKnown
	if x.Flags&segment.FlagFenced != 0 {
		l.flags |= ledgerFenced | ledgerFencedDurably
	}
	if x.Last > l.last {
		l.last, l.length = x.Last, x.Length
	}
	l.tail = max(l.tail, l.last)
	l.lac = max(l.lac, x.LAC)
}

// importFooter takes a segment into the index by its footer; ok is false if it has none.
func (s *Store) importFooter(n uint64) (info index.Segment, ok bool, err error) {
	f, err := s.fs.Open(s.segmentName(n), 0)
	if err != nil {
		return info, false, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil || size < segment.FileHeaderSize+segment.SealSize {
		return info, false, err
	}
	b := make([]byte, segment.SealSize)
	if err := disk.ReadFull(f, b, size-segment.SealSize); err != nil {
		return info, false, err
	}
	k, err := segment.DecodeSealBlock(b, s.seed)
	if errors.Is(err, ErrNewer) {
		return info, false, err
	}
	if err != nil || k.Segment != n || k.Off < segment.FileHeaderSize || k.Length < segment.BlockSize || k.Off > size || k.Length > size-k.Off {
		return info, false, nil
	}
	b = make([]byte, k.Length)
	if err := disk.ReadFull(f, b, k.Off); err != nil {
		return info, false, err
	}
	foot, err := segment.OpenFooter(b, n, k.Off, s.seed)
	if errors.Is(err, ErrNewer) {
		return info, false, err
	}
	if err != nil {
		s.log.Error("segment footer is damaged: the segment is scanned", "segment", n, "err", err)
		return info, false, nil
	}
	info, err = s.index.AddSegment(foot)
	if err != nil {
		return info, false, err
	}
	c := &s.core
	for _, id := range foot.Deleted {
		c.ledger.remove(id)
		delete(c.holes, id)
	}
	for i := range foot.Ledgers {
		if gone, err := s.index.Deleted(foot.Ledgers[i].Ledger); err != nil {
			return info, false, err
		} else if !gone {
			c.load(&foot.Ledgers[i])
		}
	}
	for i := range foot.Runs {
		r := &foot.Runs[i]
		for e := r.First; len(c.holes[r.Ledger]) > 0 && e <= r.Last(); e++ {
			c.fill(r.Ledger, e)
		}
	}
	for _, l := range foot.Losses {
		if l.Type == segment.Add && c.ledger.get(l.Ledger) != nil {
			c.holes[l.Ledger] = append(c.holes[l.Ledger], hole{l.First, l.Count})
		} else if l.Doubt() {
			c.doubtful = max(c.doubtful, l.Ledger)
		}
	}
	return info, true, nil
}

// recovery scans the segments that have no footer, in order.
type recovery struct {
	s       *Store
	seen    map[ledgerfs.LedgerID]bool // ledgers that were looked up among the deleted
	open    []*seg
	prev    segment.Chain // the end of the segment before
	scanned int
	records int
	losses  int
}

func (r *recovery) scan(n uint64, all []uint64) error {
	s, c := r.s, &r.s.core
	// Past the page cache, where that works: it is several times as fast, and nothing is read twice.
	f, err := s.fs.Open(s.segmentName(n), disk.Durable)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size < segment.FileHeaderSize+segment.SealSize {
		return fmt.Errorf("%w: %s has %d bytes", ErrIdentity, s.segmentName(n), size)
	}
	head := disk.AlignedBlock(segment.FileHeaderSize)
	if err := disk.ReadFull(f, head, 0); err != nil {
		return err
	}
	if h, err := segment.DecodeFileHeader(head); errors.Is(err, ErrNewer) {
		return err
	} else if err == nil && h.Incarnation != s.id.Incarnation {
		return fmt.Errorf("%w: %s is of incarnation %v", ErrIdentity, s.segmentName(n), h.Incarnation)
	} else if err != nil || h.Number != n {
		s.log.Error("segment header is damaged", "segment", n, "err", err)
	}
	g := &seg{number: n, size: size, index: segment.NewIndex()}
	c.segs[n] = g
	c.unsealed = slices.Insert(c.unsealed, 0, g)
	var next *segment.Chain
	if _, ok := slices.BinarySearch(all, n+1); ok {
		if next, err = s.startOf(n + 1); err != nil {
			return err
		}
	}
	res, err := segment.Scan(f, size, n, s.seed, next, func(rec *segment.Record, off int64) error {
		r.records++
		return r.record(rec, g, off)
	})
	if err != nil {
		return fmt.Errorf("scan segment %d: %w", n, err)
	}
	r.scanned++
	g.end, g.last = res.End, res.Chain
	for _, l := range res.Losses {
		if err := r.lose(g, l); err != nil {
			return err
		}
	}
	g.first = segment.Chain{CRC: res.First}
	if res.End == segment.FileHeaderSize {
		g.first, g.last = r.prev, r.prev // nothing here yet
	}
	r.open = append(r.open, g)
	r.prev = g.last
	return nil
}

// startOf returns what the first batch of a segment says that it follows, with its own sequence number; nil if
// there is none, or it is damaged.
func (s *Store) startOf(n uint64) (*segment.Chain, error) {
	f, err := s.fs.Open(s.segmentName(n), 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, segment.HeadSize)
	if err := disk.ReadFull(f, b, segment.FileHeaderSize); err != nil {
		return nil, err
	}
	h, err := segment.DecodeHead(b, s.seed)
	if errors.Is(err, ErrNewer) {
		return nil, err
	}
	if err != nil || !h.At(n, segment.FileHeaderSize) {
		return nil, nil
	}
	return &segment.Chain{Seq: h.Seq, CRC: h.PrevCRC}, nil
}

// record takes a record over as if it had just become durable.
func (r *recovery) record(rec *segment.Record, g *seg, off int64) error {
	c := &r.s.core
	switch rec.Type {
	case segment.Tombstones:
		ids, err := segment.DecodeIDs(rec.Payload)
		if err != nil {
			return fmt.Errorf("tombstones at %d of segment %d: %w", off, g.number, err)
		}
		for _, id := range ids {
			c.ledger.remove(id)
			c.deleted[id] = g.number
			for _, o := range c.unsealed {
				o.index.Drop(id)
			}
		}
	case segment.Delete, segment.Checkpoint:
	default:
		if ok, err := r.alive(rec.Ledger); err != nil || !ok {
			return err
		}
	}
	c.apply(rec, g, off)
	if l := c.ledger.get(rec.Ledger); l != nil {
		l.flags |= ledgerKnown
		l.tail = max(l.tail, l.last)
	}
	return nil
}

// alive makes sure that a ledger that occurs in the log is known, unless it was deleted.
func (r *recovery) alive(id ledgerfs.LedgerID) (bool, error) {
	c := &r.s.core
	if c.ledger.get(id) != nil {
		return true, nil
	}
	if _, gone := c.deleted[id]; gone {
		return false, nil
	}
	if r.seen[id] {
		return false, nil
	}
	gone, err := r.s.index.Deleted(id)
	if err != nil {
		return false, err
	}
	if gone {
		r.seen[id] = true
		return false, nil
	}
	c.ledger.add(id)
	return true, nil
}

// lose notes what damage took.
func (r *recovery) lose(g *seg, l segment.Loss) error {
	c := &r.s.core
	r.losses++
	if l.Type == segment.Tombstones || l.Type == segment.Checkpoint {
		l.DirEntry = segment.DirEntry{}
	}
	r.s.log.Error("damage in the log", "segment", g.number, "from", l.From, "to", l.To,
		"type", l.Type, "ledger", l.Ledger, "first", l.First, "count", l.Count)
	switch l.Type {
	case 0:
		// Anything may have been there: of every ledger up to the highest known.
		for id := range c.ledger.byID {
			l.Ledger = max(l.Ledger, id)
		}
		for id := range c.deleted {
			l.Ledger = max(l.Ledger, id)
		}
		c.doubtful = max(c.doubtful, l.Ledger)
	case segment.Add:
		if ok, err := r.alive(l.Ledger); err != nil || !ok {
			return err
		}
		led := c.ledger.get(l.Ledger)
		led.flags |= ledgerKnown
		if last := l.First + ledgerfs.EntryID(l.Count) - 1; last > led.last {
			led.last, led.length = last, l.Length
		}
		led.tail = max(led.tail, led.last)
		led.lac = max(led.lac, l.LAC)
		c.holes[l.Ledger] = append(c.holes[l.Ledger], hole{l.First, l.Count})
		for e := l.First; e < l.First+ledgerfs.EntryID(l.Count); e++ {
			if _, run := c.find(l.Ledger, e); run != nil { // written again since
				c.fill(l.Ledger, e)
			}
		}
	default:
		rec := controlRecord(l.Type, l.Ledger, l.First)
		rec.LAC = l.LAC
		return r.record(&rec, g, 0)
	}
	return g.index.Lose(l)
}

// finish chooses the active segment, makes the end of the log durable and hands the rest to be sealed.
func (r *recovery) finish() error {
	s, c := r.s, &r.s.core
	if c.doubtful > 0 {
		// A lost Fence must not let a deposed writer go on.
		for id, i := range c.ledger.byID {
			if id <= c.doubtful {
				c.ledger.chunks[i/tableChunk][i%tableChunk].flags |= ledgerFenced | ledgerFencedDurably
			}
		}
	}
	// Prepared segments without a batch come last; the first segment that can take more is the active one.
	active := -1
	for i, g := range r.open {
		if g.end > segment.FileHeaderSize {
			active = i
		}
	}
	if active < 0 && len(r.open) > 0 {
		active = 0
	}
	for i, g := range r.open {
		w, err := s.fs.Open(s.segmentName(g.number), disk.Durable)
		if err != nil {
			return err
		}
		g.files.w = w
		switch {
		case i < active:
			g.rolled = true
			s.sealing = append(s.sealing, g)
		case i == active:
			c.active = g
		default:
			c.ready = append(c.ready, g)
		}
	}
	if c.active != nil {
		// What was found may be in the page cache only: it becomes durable before anyone reads it.
		f, err := s.fs.Open(s.segmentName(c.active.number), disk.Write)
		if err != nil {
			return err
		}
		err = f.Sync()
		f.Close()
		if err != nil {
			return err
		}
	}
	c.chain = r.prev
	if c.active != nil {
		c.chain = c.active.last
	}
	c.seq = (max(c.chain.Seq, r.prev.Seq)/seqStep + 1) * seqStep
	if c.active == nil {
		deadline := time.Now().Add(100 * time.Millisecond)
		g, err := s.makeSegment(func() bool { return time.Now().After(deadline) })
		if err != nil {
			return err
		}
		c.Step(event{kind: evReady, seg: g})
		c.active.first, c.active.last = c.chain, c.chain
	}
	return nil
}

// openBallast takes over the reserve file, or takes it, and measures the room.
func (s *Store) openBallast() error {
	name := s.dir(reserveFile)
	if ok, err := s.fs.Exists(name); err != nil {
		return err
	} else if ok {
		f, err := s.fs.Open(name, 0)
		if err != nil {
			return err
		}
		s.ballast, err = f.Size()
		f.Close()
		if err != nil {
			return err
		}
	}
	return s.measure()
}
