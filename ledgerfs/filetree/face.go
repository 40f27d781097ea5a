package filetree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/topicread"
)

const (
	// markSpacing is how much text lies between two marks of a ledger: what a read at a random place renders in
	// vain, at most. A mark is 16 bytes, so the index of a topic is some 16 KiB a GiB.
	markSpacing = 256 << 10
	// countChunk is how much payload is read at a time for counting and, at most, for reading.
	countChunk = 1 << 20
	// minReadChunk is the least that a read asks of the topic at a time.
	minReadChunk = 64 << 10
	// scratchKeep bounds the rendering buffers that are kept for reuse.
	scratchKeep = 4 << 20
)

// A mark says where in its segment's text an entry begins.
type mark struct {
	off   int64 // from the segment's base
	entry ledgerfs.EntryID
}

// A segment is the text of one ledger. All fields but ledger are guarded by the face's lock.
type segment struct {
	ledger   ledgerfs.LedgerID
	base     int64
	length   int64
	complete bool   // length is final
	recorded bool   // the chain knows it, or is not to
	marks    []mark // ascending; the first is {0, 0}; at most markSpacing apart as far as they reach
}

// addMark adds a mark if it is due. Marks may be offered in any order, by several readers.
func (s *segment) addMark(off int64, e ledgerfs.EntryID) {
	if off >= s.marks[len(s.marks)-1].off+markSpacing {
		s.marks = append(s.marks, mark{off, e})
	}
}

// before is the last mark at or before off.
func (s *segment) before(off int64) mark {
	i, ok := slices.BinarySearchFunc(s.marks, off, func(m mark, off int64) int { return cmp.Compare(m.off, off) })
	if !ok {
		i--
	}
	return s.marks[i]
}

// A cursor is where a read stopped: a mark for the read that follows it.
type cursor struct {
	ledger ledgerfs.LedgerID
	mark
}

// A face is one view of an open topic: its text index. Its text grows only by count, which one goroutine at a
// time runs; everybody reads.
type face struct {
	file *file
	view View

	mu struct {
		sync.Mutex
		segs []*segment
		// Text [base, end) is readable: segs cover it. Both only grow, unless gen changes.
		base, end int64
		// next is the first position that is not counted, zero before the first count; fence is the one
		// up to which, or into which, the counting went.
		next  ledgerfs.Position
		fence chain.Fence
		// origin is 0 where offset 0 is the topic's first message ever, else the ledger with which counting
		// began because what lies before is unknown.
		origin ledgerfs.LedgerID
		mtime  int64 // ms; the greatest publish time
		// nextIndex is the index in the topic of the first message that is not counted; 0 if unknown.
		nextIndex int64
		run       *run
		// cursors are the ends of the last few reads.
		cursors    [4]cursor
		nextCursor int
		terminated bool
		// holes are the entries that were counted as lost; nil if there are none.
		holes map[ledgerfs.Position]bool
	}
}

// A run is one pass of counting that callers may wait for.
type run struct {
	done chan struct{}
	err  error
}

// extent is what a face knows of its text.
type extent struct {
	base, end  int64
	gen        uint64
	mtime      int64
	fence      chain.Fence
	terminated bool
	holes      bool // some entry was counted as lost
}

// created is when the topic was created, ms since 1970; 0 before anything was counted.
func (x *extent) created() int64 {
	if x.fence.Record == nil {
		return 0
	}
	return x.fence.Record.Created
}

func (fc *face) extent() extent {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	return extent{
		base: fc.mu.base, end: fc.mu.end, gen: fc.genLocked(), mtime: fc.mu.mtime,
		fence: fc.mu.fence, terminated: fc.mu.terminated, holes: len(fc.mu.holes) > 0,
	}
}

// genLocked tells apart texts that do not share offsets.
func (fc *face) genLocked() uint64 {
	return fc.file.ino(fc.view) ^ uint64(fc.mu.origin)
}

// fresh waits until every message that was acknowledged before the call is counted.
func (fc *face) fresh(ctx context.Context) error {
	fence, err := fc.file.topic.Fence(ctx)
	if err != nil {
		return err
	}
	for {
		fc.mu.Lock()
		fc.trimLocked(fence)
		if fence.Last.Less(fc.mu.next) {
			fc.mu.Unlock()
			return nil
		}
		r := fc.startLocked()
		fc.mu.Unlock()
		select {
		case <-r.done:
			if r.err != nil {
				return r.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// startLocked joins the present run of count or starts one. A run belongs to the tree, not to whoever asked:
// counting a large topic goes on when the one who asked has given up.
func (fc *face) startLocked() *run {
	if fc.mu.run != nil {
		return fc.mu.run
	}
	r := &run{done: make(chan struct{})}
	fc.file.hold()
	if !fc.file.tree.goRun(func(ctx context.Context) {
		defer fc.file.release()
		r.err = fc.count(ctx)
		fc.mu.Lock()
		fc.mu.run = nil
		fc.mu.Unlock()
		close(r.done)
	}) {
		r.err = errClosed
		close(r.done)
		fc.file.release() // not the last: the caller is within a call
		return r
	}
	fc.mu.run = r
	return r
}

// count brings the index up to the topic's fence.
func (fc *face) count(ctx context.Context) error {
	fence, err := fc.file.topic.Fence(ctx)
	if err != nil {
		return err
	}
	fc.mu.Lock()
	fc.trimLocked(fence)
	next := fc.mu.next
	fc.mu.Unlock()
	t := fc.file.tree
	r := t.renderer(fc.file, fence)
	defer r.release()
	var scan Scan
	closeScan := func() {
		if scan != nil {
			scan.Close()
			scan = nil
		}
	}
	defer closeScan()
	var lens []int64
	for !fence.Last.Less(next) {
		if n, ok := fc.adopt(fence, next); ok {
			closeScan() // it goes on behind the ledger
			next = n
			fc.file.grown(fc)
			continue
		}
		if scan == nil {
			scan = t.entries.Scan(fence, next, fence.Last.Next())
		}
		entries, err := scan.Next(ctx)
		if lost, ok := errors.AsType[*topicread.EntryError](err); ok {
			next = lost.Position.Next()
			fc.addHole(fence, lost)
			continue
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("count %s of %s at %s: %w", viewName(fc.view), fc.file.name, next, err)
		}
		if err == io.EOF {
			// Ledgers without entries lie between here and the fence.
			next = fence.Last.Next()
			fc.addCounted(fence, nil, nil, next, 0, 0)
			break
		}
		var mtime int64
		lens = lens[:0]
		for i := range entries {
			e := &entries[i]
			n, err := r.length(ctx, fc.view, e)
			if err != nil {
				return fmt.Errorf("count %s of %s at %s: %w", viewName(fc.view), fc.file.name, position(e), err)
			}
			lens = append(lens, n)
			mtime = max(mtime, r.publishTime)
		}
		next = position(&entries[len(entries)-1]).Next()
		fc.addCounted(fence, entries, lens, next, mtime, r.nextIndex())
		fc.file.grown(fc)
	}
	fc.mu.Lock()
	fc.mu.terminated = fence.Record.State == chain.Terminated
	if n := len(fc.mu.segs); n > 0 {
		if i, ok := fence.Record.Find(fc.mu.segs[n-1].ledger); ok && fence.Record.Ledgers[i].Closed && !fc.mu.next.Less(fence.Record.Ledgers[i].Last().Next()) {
			fc.completeLocked()
		}
	}
	fc.mu.Unlock()
	fc.record(ctx, fence)
	return nil
}

func position(e *ledgerfs.Entry) ledgerfs.Position {
	return ledgerfs.Position{Ledger: e.Ledger, Entry: e.Entry}
}

// adopt takes a ledger's recorded length, if next is where a ledger begins whose length is recorded, and
// returns where counting goes on.
func (fc *face) adopt(fence chain.Fence, next ledgerfs.Position) (ledgerfs.Position, bool) {
	ledgers := fence.Record.Ledgers
	i, _ := fence.Record.Find(next.Ledger)
	if i < len(ledgers) && ledgers[i].ID == next.Ledger && next.Entry > 0 {
		if !ledgers[i].Closed || int64(next.Entry) < ledgers[i].Entries {
			return next, false
		}
		i++ // next is behind this ledger's end
	}
	if i >= len(ledgers) {
		return next, false
	}
	l := &ledgers[i]
	text := l.Text[fc.view]
	if !l.Closed || l.ID >= fence.Last.Ledger && fence.Last != l.Last() ||
		!text.Known || text.Base < 0 || text.Length < 0 || l.RenderVersion != renderVersion {
		return next, false
	}
	fc.mu.Lock()
	defer fc.mu.Unlock()
	switch {
	case fc.mu.origin != 0:
		return next, false
	case len(fc.mu.segs) == 0 && fc.mu.end == 0:
		fc.mu.base, fc.mu.end = text.Base, text.Base
	case fc.mu.end != text.Base:
		return next, false
	}
	fc.completeLocked()
	if text.Length > 0 {
		fc.mu.segs = append(fc.mu.segs, &segment{
			ledger: l.ID, base: text.Base, length: text.Length, complete: true, recorded: true, marks: []mark{{}},
		})
	}
	fc.mu.end += text.Length
	if l.TimesKnown {
		fc.mu.mtime = max(fc.mu.mtime, l.GreatestPublishTime)
	}
	fc.mu.nextIndex = l.FirstIndex + l.Messages
	fc.mu.next = ledgerfs.Position{Ledger: l.ID + 1}
	fc.mu.fence = fence
	return fc.mu.next, true
}

// addCounted makes counted entries part of the text.
func (fc *face) addCounted(fence chain.Fence, entries []ledgerfs.Entry, lens []int64, next ledgerfs.Position, mtime, nextIndex int64) {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	if fc.mu.next == (ledgerfs.Position{}) && len(fence.Record.Ledgers) > 0 && fence.Record.Ledgers[0].FirstIndex > 0 {
		fc.mu.origin = fence.Record.Ledgers[0].ID // what was trimmed before is not known
	}
	for i := range entries {
		e := &entries[i]
		var s *segment
		if n := len(fc.mu.segs); n > 0 {
			s = fc.mu.segs[n-1]
		}
		if s == nil || s.ledger != e.Ledger {
			fc.completeLocked()
			s = &segment{ledger: e.Ledger, base: fc.mu.end, marks: []mark{{0, e.Entry}}}
			fc.mu.segs = append(fc.mu.segs, s)
		}
		s.addMark(s.length, e.Entry)
		s.length += lens[i]
		fc.mu.end += lens[i]
	}
	if len(entries) > 0 {
		fc.mu.nextIndex = nextIndex
	}
	fc.mu.mtime = max(fc.mu.mtime, mtime)
	fc.mu.next = next
	fc.mu.fence = fence
}

// addHole makes an entry of which no sound copy exists part of the text: it shows nothing, and everything around it
// stays readable.
func (fc *face) addHole(fence chain.Fence, lost *topicread.EntryError) {
	fc.file.tree.log.Error("an entry is lost: its messages are missing in the topic's text", "topic", fc.file.name.String(), "position", lost.Position.String(), "err", lost.Err)
	// The entry of no bytes has a segment, if it is its ledger's first.
	e := ledgerfs.Entry{Ledger: lost.Position.Ledger, Entry: lost.Position.Entry}
	fc.addCounted(fence, []ledgerfs.Entry{e}, []int64{0}, lost.Position.Next(), 0, 0)
	fc.mu.Lock()
	defer fc.mu.Unlock()
	if fc.mu.holes == nil {
		fc.mu.holes = map[ledgerfs.Position]bool{}
	}
	fc.mu.holes[lost.Position] = true
	// Not recorded: whoever counts again may find it repaired.
	fc.mu.segs[len(fc.mu.segs)-1].recorded = true
}

// isHole reports whether the entry was counted as lost: it stays so, though it may have been repaired since.
func (fc *face) isHole(e *ledgerfs.Entry) bool {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	return fc.mu.holes[position(e)]
}

// completeLocked notes that no more text will come to the last segment.
func (fc *face) completeLocked() {
	if n := len(fc.mu.segs); n > 0 {
		fc.mu.segs[n-1].complete = true
	}
}

// trimLocked forgets the segments of ledgers that retention has removed.
func (fc *face) trimLocked(fence chain.Fence) {
	ledgers := fence.Record.Ledgers
	if fc.mu.next == (ledgerfs.Position{}) || len(ledgers) == 0 {
		return // nothing is counted yet, or nothing ever was there
	}
	first := ledgers[0].ID
	if n := len(fc.mu.segs); n > 0 && fc.mu.segs[n-1].ledger < first && ledgers[0].FirstIndex != fc.mu.nextIndex {
		// Ledgers were removed that had not been counted to their end: where the text goes on is not known.
		fc.resetLocked()
		return
	}
	i := 0
	for i < len(fc.mu.segs) && fc.mu.segs[i].ledger < first {
		i++
	}
	if i == 0 {
		return
	}
	fc.mu.segs = slices.Delete(fc.mu.segs, 0, i)
	fc.mu.base = fc.mu.end
	if len(fc.mu.segs) > 0 {
		fc.mu.base = fc.mu.segs[0].base
	}
}

// resetLocked forgets everything: the text begins anew, in another gen if its origin is unknown.
func (fc *face) resetLocked() {
	fc.mu.segs, fc.mu.base, fc.mu.end, fc.mu.holes = nil, 0, 0, nil
	fc.mu.next, fc.mu.origin = ledgerfs.Position{}, 0
	fc.mu.cursors = [4]cursor{}
}

// record stores the lengths of sealed ledgers that the chain does not have yet.
func (fc *face) record(ctx context.Context, fence chain.Fence) {
	type item struct {
		seg  *segment
		text [chain.NumViews]chain.Text
	}
	var items []item
	fc.mu.Lock()
	if fc.mu.origin == 0 {
		for _, s := range fc.mu.segs {
			i, ok := fence.Record.Find(s.ledger)
			if s.recorded || !s.complete || !ok || !fence.Record.Ledgers[i].Closed {
				continue
			}
			if l := &fence.Record.Ledgers[i]; l.Text[fc.view].Known && l.RenderVersion == renderVersion {
				s.recorded = true
				continue
			}
			it := item{seg: s}
			it.text[fc.view] = chain.Text{Known: true, Base: s.base, Length: s.length}
			items = append(items, it)
		}
	}
	fc.mu.Unlock()
	for _, it := range items {
		if err := fc.file.topic.SetText(ctx, it.seg.ledger, renderVersion, it.text); err != nil {
			fc.file.tree.log.Warn("text length of a ledger not recorded",
				"topic", fc.file.name.String(), "ledger", int64(it.seg.ledger), "err", err)
			return
		}
		fc.mu.Lock()
		it.seg.recorded = true
		fc.mu.Unlock()
	}
}

// readAt appends to dst up to n bytes of text from offset off on. It returns fewer only at the end of the text,
// as of some moment during the call.
func (fc *face) readAt(ctx context.Context, dst []byte, gen uint64, off int64, n int) ([]byte, extent, error) {
	x := fc.extent()
	if off+int64(n) > x.end || x.base == x.end {
		if err := fc.fresh(ctx); err != nil {
			return dst, x, err
		}
		x = fc.extent()
	}
	switch {
	case gen != 0 && gen != x.gen:
		return dst, x, fmt.Errorf("read %s of %s: %w", viewName(fc.view), fc.file.name, errOtherText)
	case off < x.base:
		return dst, x, fmt.Errorf("read %s of %s at %d, trimmed up to %d: %w", viewName(fc.view), fc.file.name, off, x.base, ESTALE)
	case off >= x.end || n <= 0:
		return dst, x, nil
	}
	want := min(off+int64(n), x.end)
	seg, from, ok := fc.locate(off)
	if !ok {
		return dst, x, fmt.Errorf("read %s of %s at %d: %w", viewName(fc.view), fc.file.name, off, ESTALE)
	}
	dst = slices.Grow(dst, int(want-off))
	r := fc.file.tree.renderer(fc.file, x.fence)
	defer r.release()
	pos, cur := ledgerfs.Position{Ledger: seg.ledger, Entry: from.entry}, seg.base+from.off
	var scan Scan // of a long read: it reads ahead
	if want-cur > countChunk {
		scan = fc.file.tree.entries.Scan(x.fence, pos, fc.behind(want, x.fence.Last))
		defer scan.Close()
	}
	for cur < want {
		var entries []ledgerfs.Entry
		var err error
		if scan != nil {
			entries, err = scan.Next(ctx)
		} else {
			entries, err = fc.file.tree.entries.Read(ctx, x.fence, pos, int(max(want-cur, minReadChunk)))
		}
		if lost, ok := errors.AsType[*topicread.EntryError](err); ok {
			pos = lost.Position.Next()
			continue // counted as a hole; if not, the text ends too early and that is seen
		}
		if err == io.EOF || err == nil && len(entries) == 0 {
			return dst, x, fc.mismatch(cur)
		}
		if err != nil {
			return dst, x, fmt.Errorf("read %s of %s at %s: %w", viewName(fc.view), fc.file.name, pos, err)
		}
		for i := range entries {
			e := &entries[i]
			if e.Ledger != seg.ledger {
				if seg, ok = fc.segment(e.Ledger, cur); !ok {
					return dst, x, fc.mismatch(cur)
				}
			}
			start := cur
			if x.holes && fc.isHole(e) {
				continue
			}
			if cur >= off {
				n := len(dst)
				if dst, err = r.appendText(ctx, dst, fc.view, e); err == nil {
					cur += int64(len(dst) - n)
					dst = dst[:len(dst)-int(max(cur-want, 0))]
				}
			} else if r.buf, err = r.appendText(ctx, r.buf[:0], fc.view, e); err == nil {
				cur += int64(len(r.buf))
				if cur > off {
					dst = append(dst, r.buf[off-start:min(want, cur)-start]...)
				}
			}
			if err != nil {
				return dst, x, fmt.Errorf("read %s of %s at %s: %w", viewName(fc.view), fc.file.name, position(e), err)
			}
			fc.passed(seg, start, e.Entry, cur >= want)
			if cur >= want {
				break
			}
		}
		pos = position(&entries[len(entries)-1]).Next()
	}
	return dst, x, nil
}

func (fc *face) mismatch(off int64) error {
	return fmt.Errorf("text of %s of %s does not agree with its index at %d: %w", viewName(fc.view), fc.file.name, off, EIO)
}

// locate finds the segment of an offset and the nearest known place at or before it.
func (fc *face) locate(off int64) (*segment, mark, bool) {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	i, ok := slices.BinarySearchFunc(fc.mu.segs, off, func(s *segment, off int64) int {
		switch {
		case s.base+s.length <= off:
			return -1
		case s.base > off:
			return 1
		}
		return 0
	})
	if !ok {
		return nil, mark{}, false
	}
	s := fc.mu.segs[i]
	m := s.before(off - s.base)
	for _, c := range fc.mu.cursors {
		if c.ledger == s.ledger && c.off > m.off && c.off <= off-s.base {
			m = c.mark
		}
	}
	return s, m, true
}

// behind is a position up to which a read has to look for text before the offset want, as near as is known.
func (fc *face) behind(want int64, last ledgerfs.Position) ledgerfs.Position {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	for _, s := range slices.Backward(fc.mu.segs) {
		if s.base >= want {
			continue
		}
		i, _ := slices.BinarySearchFunc(s.marks, want-s.base, func(m mark, off int64) int { return cmp.Compare(m.off, off) })
		if i < len(s.marks) {
			return ledgerfs.Position{Ledger: s.ledger, Entry: s.marks[i].entry}
		}
		break
	}
	return last.Next()
}

// segment is the segment of a ledger that a read comes to at offset cur; there it must begin.
func (fc *face) segment(id ledgerfs.LedgerID, cur int64) (*segment, bool) {
	fc.mu.Lock()
	defer fc.mu.Unlock()
	for _, s := range fc.mu.segs {
		if s.ledger == id {
			return s, s.base == cur
		}
	}
	return nil, false
}

// passed notes that an entry begins at off: as a mark if one is due, as a cursor if the read ends in it.
func (fc *face) passed(seg *segment, off int64, e ledgerfs.EntryID, end bool) {
	rel := off - seg.base
	fc.mu.Lock()
	defer fc.mu.Unlock()
	if last := seg.marks[len(seg.marks)-1]; rel < last.off+markSpacing && !end {
		return
	}
	seg.addMark(rel, e)
	if end {
		fc.mu.cursors[fc.mu.nextCursor] = cursor{seg.ledger, mark{rel, e}}
		fc.mu.nextCursor = (fc.mu.nextCursor + 1) % len(fc.mu.cursors)
	}
}
