// Package watch delivers the changes of the metadata state to watchers: each change of a watcher's prefix
// exactly once, in revision order, all changes of a revision together.
//
// # How
//
// Publish, called by the apply step's driver, puts a revision into the queue of each watcher whose prefix it
// touches, and never waits. A queue is bounded: when it is full, the watcher lags, and later reads what it
// missed from the stored events (Source), in the goroutine that called Next. A new watcher that starts in
// the past is a watcher that lags from the start. So a slow or stopped watcher costs its bounded queue, and
// falls out with raftmeta.ErrCompacted once the events it needs are dropped.
//
// A watcher that sees no change gets a bookmark at most every BookmarkInterval while revisions go by, so
// that it can resume without reading what never concerned it.
//
// # Goroutines
//
// None. One timer runs while there are revisions that have not been bookmarked yet. Methods of Hub and of
// watchers may be called by any goroutine; Publish by one at a time, in revision order.
package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daybook/daybook/raftmeta"
)

// BookmarkInterval is the least time between the bookmarks of a watcher.
const BookmarkInterval = time.Second

// The bounds of a watcher's queue, and of what it reads at once when it lags.
const (
	maxQueue      = 256
	maxQueueBytes = 4 << 20
)

// A Source reads stored events.
type Source interface {
	// Events calls yield for each revision in (after, upTo] that changed something, in order, until yield
	// returns false. It fails with raftmeta.ErrCompacted if some of them are no longer kept.
	Events(after, upTo raftmeta.Revision, yield func(raftmeta.Revision, []raftmeta.Event) bool) error
}

// A Hub passes revisions on to its watchers.
type Hub struct {
	src Source
	mu  struct {
		sync.Mutex
		rev      raftmeta.Revision    // the newest published
		prefixes map[string]*audience // by prefix
		lengths  map[int]int          // length of a prefix to the number of audiences with it
		bookmark *time.Timer          // nil until first used
		armed    bool
		err      error // why the hub is closed
	}
}

// An audience is the watchers of one prefix.
type audience struct {
	watchers map[*watcher]struct{}
	pending  []raftmeta.Event // of the revision being published
}

// NewHub returns a hub that goes on after revision rev, the newest that src holds.
func NewHub(src Source, rev raftmeta.Revision) *Hub {
	h := &Hub{src: src}
	h.mu.rev = rev
	h.mu.prefixes = make(map[string]*audience)
	h.mu.lengths = make(map[int]int)
	return h
}

// Publish passes on the changes of a revision, which src already holds. Events is not kept, what it points to
// is.
func (h *Hub) Publish(rev raftmeta.Revision, events []raftmeta.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.rev = rev
	if len(h.mu.prefixes) == 0 {
		return
	}
	var touched []*audience
	for _, e := range events {
		for n := range h.mu.lengths {
			if n > len(e.Item.Key) {
				continue
			}
			if a := h.mu.prefixes[e.Item.Key[:n]]; a != nil {
				if a.pending == nil {
					touched = append(touched, a)
				}
				a.pending = append(a.pending, e)
			}
		}
	}
	for _, a := range touched {
		b := raftmeta.WatchBatch{Rev: rev, Events: a.pending}
		a.pending = nil
		for w := range a.watchers {
			w.offerLocked(b)
		}
	}
	if !h.mu.armed {
		h.mu.armed = true
		if h.mu.bookmark == nil {
			h.mu.bookmark = time.AfterFunc(BookmarkInterval, h.bookmarks)
		} else {
			h.mu.bookmark.Reset(BookmarkInterval)
		}
	}
}

// Reload says that the source was replaced by one whose newest revision is rev >= the newest published. All
// watchers go on by reading the source.
func (h *Hub) Reload(rev raftmeta.Revision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.rev = max(rev, h.mu.rev)
	for _, a := range h.mu.prefixes {
		for w := range a.watchers {
			w.overflow = true
			w.wakeLocked()
		}
	}
}

// bookmarks tells every watcher that may take a bookmark to do so.
func (h *Hub) bookmarks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.armed = false
	for _, a := range h.mu.prefixes {
		for w := range a.watchers {
			w.bookmark = true
			w.wakeLocked()
		}
	}
}

// Watch returns a watcher of the changes under prefix with revisions > after.
func (h *Hub) Watch(prefix string, after raftmeta.Revision) (raftmeta.Watcher, error) {
	if after < 0 {
		return nil, fmt.Errorf("%w: watch after revision %d", raftmeta.ErrInvalid, after)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.err != nil {
		return nil, h.mu.err
	}
	a := h.mu.prefixes[prefix]
	if a == nil {
		a = &audience{watchers: make(map[*watcher]struct{})}
		h.mu.prefixes[prefix] = a
		h.mu.lengths[len(prefix)]++
	}
	w := &watcher{
		hub: h, prefix: prefix, seen: after, scanned: after, clean: max(after, h.mu.rev),
		wake: make(chan struct{}, 1),
	}
	a.watchers[w] = struct{}{}
	return w, nil
}

// Fail ends all watchers with err; new ones may be made.
func (h *Hub) Fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failLocked(err)
}

// Close ends all watchers with err, and fails with it whoever comes later.
func (h *Hub) Close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.err != nil {
		return
	}
	h.mu.err = err
	h.failLocked(err)
	if h.mu.bookmark != nil {
		h.mu.bookmark.Stop()
	}
}

func (h *Hub) failLocked(err error) {
	for _, a := range h.mu.prefixes {
		for w := range a.watchers {
			w.endLocked(err)
		}
	}
}

// A watcher has delivered all changes up to seen. What comes after is, in this order: next, the stored events
// of (seen, scanned]; those of (scanned, clean], still to be read; then queue, which holds all changes after
// clean, unless overflow is set: then it holds those before the first that found it full.
type watcher struct {
	hub    *Hub
	prefix string
	wake   chan struct{} // capacity 1

	// Below here: guarded by hub.mu.
	seen     raftmeta.Revision
	scanned  raftmeta.Revision
	clean    raftmeta.Revision
	next     []raftmeta.WatchBatch
	queue    []raftmeta.WatchBatch
	bytes    int // of queue
	overflow bool
	bookmark bool // a bookmark is due
	err      error
}

func size(events []raftmeta.Event) int {
	n := 0
	for _, e := range events {
		n += 100 + len(e.Item.Key) + len(e.Item.Value)
	}
	return n
}

func (w *watcher) wakeLocked() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) offerLocked(b raftmeta.WatchBatch) {
	if b.Rev <= w.clean || w.overflow {
		return
	}
	n := size(b.Events)
	if len(w.queue) > 0 && (len(w.queue) == maxQueue || w.bytes+n > maxQueueBytes) {
		w.overflow = true
		return
	}
	w.queue = append(w.queue, b)
	w.bytes += n
	w.wakeLocked()
}

func (w *watcher) endLocked(err error) {
	if w.err != nil {
		return
	}
	w.err = err
	w.queue, w.bytes = nil, 0
	h := w.hub
	if a := h.mu.prefixes[w.prefix]; a != nil {
		delete(a.watchers, w)
		if len(a.watchers) == 0 {
			delete(h.mu.prefixes, w.prefix)
			if h.mu.lengths[len(w.prefix)]--; h.mu.lengths[len(w.prefix)] == 0 {
				delete(h.mu.lengths, len(w.prefix))
			}
		}
	}
	w.wakeLocked()
}

func (w *watcher) Close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	w.endLocked(fmt.Errorf("watch %q: %w", w.prefix, raftmeta.ErrClosed))
}

func (w *watcher) Next(ctx context.Context) (raftmeta.WatchBatch, error) {
	for {
		b, ok, err := w.poll(ctx)
		if ok || err != nil {
			return b, err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return raftmeta.WatchBatch{}, ctx.Err()
		}
	}
}

// poll returns what can be delivered now, if anything.
func (w *watcher) poll(ctx context.Context) (raftmeta.WatchBatch, bool, error) {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if w.err != nil {
			return raftmeta.WatchBatch{}, false, w.err
		}
		if err := ctx.Err(); err != nil {
			return raftmeta.WatchBatch{}, false, err
		}
		switch {
		case len(w.next) > 0:
			b := w.next[0]
			w.next[0] = raftmeta.WatchBatch{}
			w.next = w.next[1:]
			w.seen, w.bookmark = b.Rev, false
			return b, true, nil
		case w.scanned < w.clean:
			from, to := w.scanned, w.clean
			h.mu.Unlock()
			next, scanned, err := w.read(ctx, from, to)
			h.mu.Lock()
			if err != nil {
				if !errors.Is(err, raftmeta.ErrCompacted) {
					err = fmt.Errorf("%w: %w", raftmeta.ErrUnavailable, err)
				}
				w.endLocked(fmt.Errorf("watch %q: %w", w.prefix, err))
				continue
			}
			w.next, w.scanned = next, scanned
		case len(w.queue) > 0:
			b := w.queue[0]
			w.queue[0] = raftmeta.WatchBatch{}
			w.queue = w.queue[1:]
			w.bytes -= size(b.Events)
			w.seen, w.bookmark = b.Rev, false
			return b, true, nil
		case w.overflow:
			// From here on the queue takes what is newer than the newest revision; what lies between is
			// read from the source.
			w.overflow, w.scanned, w.clean = false, max(w.seen, w.scanned), max(w.clean, h.mu.rev)
		case w.bookmark && h.mu.rev > w.seen:
			w.seen, w.bookmark = h.mu.rev, false
			return raftmeta.WatchBatch{Rev: w.seen}, true, nil
		default:
			return raftmeta.WatchBatch{}, false, nil
		}
	}
}

// read reads changes of (from, to] from the source and says up to which revision it has read.
func (w *watcher) read(ctx context.Context, from, to raftmeta.Revision) (next []raftmeta.WatchBatch, scanned raftmeta.Revision, err error) {
	bytes := 0
	scanned = to
	err = w.hub.src.Events(from, to, func(rev raftmeta.Revision, events []raftmeta.Event) bool {
		events = slices.DeleteFunc(events, func(e raftmeta.Event) bool { return !strings.HasPrefix(e.Item.Key, w.prefix) })
		if len(events) > 0 {
			next = append(next, raftmeta.WatchBatch{Rev: rev, Events: events})
			bytes += size(events)
		}
		if len(next) == maxQueue || bytes >= maxQueueBytes || ctx.Err() != nil {
			scanned = rev
			return false
		}
		return true
	})
	return next, scanned, err
}
