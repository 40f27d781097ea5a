package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/internal/segment"
)

// files are the open files of a segment.
type files struct {
	w disk.File // for the journal, until the segment is sealed
	r disk.File // for readers; guarded by fdCache.mu
}

// fdCache bounds the files that are open for reading.
type fdCache struct {
	mu   sync.Mutex
	open []*seg
}

const maxReadFiles = 256

// loc is the place of an entry. Its segment is pinned until it was fetched.
type loc struct {
	seg     *seg
	off     int64
	payload int
	cached  []byte
}

func (l *loc) size() int { return segment.RecordSize + l.payload }

// Read is ledgerfs.Bookie's.
func (s *Store) Read(ctx context.Context, req ledgerfs.ReadRequest) (ledgerfs.ReadResponse, error) {
	resp, err := s.read(ctx, req)
	if err != nil {
		return ledgerfs.ReadResponse{}, fmt.Errorf("read %d:%d: %w", req.Ledger, req.First, err)
	}
	return resp, nil
}

func (s *Store) read(ctx context.Context, req ledgerfs.ReadRequest) (resp ledgerfs.ReadResponse, err error) {
	if err := ctx.Err(); err != nil {
		return resp, err
	}
	if req.First < 0 {
		return resp, ledgerfs.ErrBadRequest
	}
	if req.Fence {
		if err := s.fence(ctx, req.Ledger); err != nil {
			return resp, err
		}
	}
	s.mu.Lock()
	l := s.core.ledger.get(req.Ledger)
	if l == nil || l.flags&(ledgerKnown|ledgerDeleting) != ledgerKnown {
		s.mu.Unlock()
		return resp, s.absent(req.Ledger)
	}
	err = s.downLocked()
	resp.MaxLAC = l.lac
	s.mu.Unlock()
	if err != nil {
		return resp, err
	}
	locs, err := s.locate(req.Ledger, req.First, max(req.MaxEntries, 1), max(req.MaxBytes, 1))
	if err != nil {
		return resp, err
	}
	if len(locs) == 0 {
		return resp, s.missing(req.Ledger, req.First)
	}
	resp.Entries, err = s.fetch(req.Ledger, req.First, locs)
	return resp, err
}

// missing says why an entry of a known ledger was not found.
func (s *Store) missing(id ledgerfs.LedgerID, e ledgerfs.EntryID) error {
	s.mu.Lock()
	known := s.core.ledger.get(id) != nil
	hole := s.core.inHole(id, e)
	doubt := id <= s.core.doubtful
	s.mu.Unlock()
	switch {
	case !known:
		return s.absent(id)
	case hole:
		return ledgerfs.ErrCorrupt
	case doubt:
		return ledgerfs.ErrUnknownState
	}
	return ledgerfs.ErrNoEntry
}

// locate finds consecutive entries from first on, none if the first is not here, and pins their segments.
//
// Memory is asked before the index: a segment goes from one to the other by being added to the index first.
func (s *Store) locate(id ledgerfs.LedgerID, first ledgerfs.EntryID, maxEntries, maxBytes int) ([]loc, error) {
	var locs []loc
	bytes := 0
	next := first
	var bad error
	take := func(g *seg, r *segment.Run) (more bool) { // holding mu
		more = true
		ok := r.Places(next, func(e ledgerfs.EntryID, off int64, n int) bool {
			if len(locs) > 0 && (len(locs) >= maxEntries || bytes+n > maxBytes) {
				more = false
				return false
			}
			l := loc{seg: g, off: off, payload: n}
			l.cached = s.core.cache.get(g.number, off, l.size())
			g.pins++
			locs = append(locs, l)
			bytes += n
			next++
			return true
		})
		if !ok {
			bad = fmt.Errorf("%w: run of entry %d:%d", ledgerfs.ErrCorrupt, id, next)
		}
		return more && ok && len(locs) < maxEntries
	}
	s.mu.Lock()
	for {
		l := s.core.ledger.get(id)
		if l == nil || next > l.last {
			break
		}
		if g, r := s.core.find(id, next); r != nil {
			if !take(g, r) {
				break
			}
			continue
		}
		s.mu.Unlock()
		r, number, ok, err := s.index.Find(id, next)
		s.mu.Lock()
		if err != nil {
			bad = fmt.Errorf("%w: %w", ledgerfs.ErrIO, err)
			break
		}
		if !ok {
			break
		}
		g := s.core.segs[number]
		if g == nil {
			if s.core.ledger.get(id) != nil { // else it was deleted and the segment given up meanwhile
				bad = fmt.Errorf("%w: the index names segment %d, which is not there", ledgerfs.ErrIO, number)
			}
			break
		}
		if !take(g, &r) {
			break
		}
	}
	s.mu.Unlock()
	if len(locs) == 0 {
		return nil, bad
	}
	return locs, nil
}

// find looks for an entry in the segments that are not in the index yet.
func (c *core) find(id ledgerfs.LedgerID, e ledgerfs.EntryID) (*seg, *segment.Run) {
	for _, g := range c.unsealed {
		if r := g.index.Find(id, e); r != nil {
			return g, r
		}
	}
	return nil, nil
}

// Reads that are close to each other are done in one.
const (
	maxSpan = 1 << 20
	maxGap  = 32 << 10
)

// fetch reads located entries, unpins their segments, and checks what it read. It stops before the first
// entry that it cannot return; if that is the very first it says why.
func (s *Store) fetch(id ledgerfs.LedgerID, first ledgerfs.EntryID, locs []loc) ([]ledgerfs.Entry, error) {
	defer func() {
		s.mu.Lock()
		for i := range locs {
			if g := locs[i].seg; g.pins == 1 && g.rolled {
				s.reclaim = true
				defer notify(s.tendNow)
			}
			locs[i].seg.pins--
		}
		s.mu.Unlock()
	}()
	entries := make([]ledgerfs.Entry, 0, len(locs))
	var buf []byte // holds the file of spanSeg from spanOff on
	var spanSeg *seg
	var spanOff int64
	for i := range locs {
		l := &locs[i]
		b := l.cached
		if b == nil {
			if spanSeg != l.seg || l.off < spanOff || l.off+int64(l.size()) > spanOff+int64(len(buf)) {
				spanSeg, spanOff = l.seg, l.off
				end := l.off + int64(l.size())
				for k := i + 1; k < len(locs); k++ {
					n := &locs[k]
					if n.cached != nil || n.seg != l.seg || n.off < end || n.off-end > maxGap || n.off+int64(n.size())-spanOff > maxSpan {
						break
					}
					end = n.off + int64(n.size())
				}
				buf = make([]byte, end-spanOff)
				if err := s.readSegment(l.seg, buf, spanOff); err != nil {
					s.log.Error("read failed", "segment", l.seg.number, "offset", spanOff, "bytes", len(buf), "err", err)
					if i == 0 {
						return nil, fmt.Errorf("%w: %w", ledgerfs.ErrIO, err)
					}
					return entries, nil
				}
			}
			b = buf[l.off-spanOff:][:l.size()]
		}
		want := first + ledgerfs.EntryID(i)
		r, err := segment.DecodeRecord(b)
		if err == nil && (r.Type != segment.Add || r.Ledger != id || r.Entry != want || len(r.Payload) != l.payload) {
			err = fmt.Errorf("record of %d:%d found", r.Ledger, r.Entry)
		}
		if err != nil {
			s.log.Error("entry is damaged", "ledger", id, "entry", want, "segment", l.seg.number, "offset", l.off, "err", err)
			if i == 0 {
				return nil, fmt.Errorf("%w: segment %d at %d: %w", ledgerfs.ErrCorrupt, l.seg.number, l.off, err)
			}
			return entries, nil
		}
		entries = append(entries, ledgerfs.Entry{Ledger: id, Entry: want, LAC: r.LAC, Length: r.Length, Digest: r.Digest, Payload: r.Payload})
	}
	return entries, nil
}

func (s *Store) readSegment(g *seg, b []byte, off int64) error {
	f, err := s.reader(g)
	if err != nil {
		return err
	}
	return disk.ReadFull(f, b, off)
}

// reader returns the segment's file for reading; the segment is pinned, so it stays open meanwhile.
func (s *Store) reader(g *seg) (disk.File, error) {
	s.fds.mu.Lock()
	defer s.fds.mu.Unlock()
	if g.files.r != nil {
		return g.files.r, nil
	}
	f, err := s.fs.Open(s.segmentName(g.number), 0)
	if err != nil {
		return nil, err
	}
	g.files.r = f
	s.fds.open = append(s.fds.open, g)
	return f, nil
}

// trimFiles closes files that were opened long ago and that nobody reads.
func (s *Store) trimFiles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fds.mu.Lock()
	defer s.fds.mu.Unlock()
	over := len(s.fds.open) - maxReadFiles
	keep := s.fds.open[:0]
	for _, g := range s.fds.open {
		if over > 0 && g.pins == 0 {
			over--
			g.files.r.Close()
			g.files.r = nil
			continue
		}
		keep = append(keep, g)
	}
	clear(s.fds.open[len(keep):])
	s.fds.open = keep
}

// forget closes the reading file of a segment that is given up.
func (c *fdCache) forget(g *seg) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, o := range c.open {
		if o == g {
			c.open = append(c.open[:i], c.open[i+1:]...)
			err := g.files.r.Close()
			g.files.r = nil
			return err
		}
	}
	return nil
}

func (c *fdCache) closeAll() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, g := range c.open {
		errs = append(errs, g.files.r.Close())
		g.files.r = nil
	}
	c.open = nil
	return errors.Join(errs...)
}
