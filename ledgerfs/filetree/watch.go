package filetree

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// MaxWatches is the most paths of one Watcher.
const MaxWatches = 1 << 16

// Growth says that a watched file has other attributes than were last reported.
type Growth struct {
	Path string
	Attr Attr
	// Gone: the topic that was watched does not exist any more. The path is not watched any longer.
	Gone bool
}

// A Watcher reports the growth of a set of files: of each at most 50 times a second, and the last state always. Its
// methods may be called by any goroutine. A watched file's index is kept.
type Watcher struct {
	tree *Tree
	mu   struct {
		sync.Mutex
		closed  bool
		watches map[string]*watch
		dirty   []*watch
	}
	wake chan struct{} // holds one token while dirty is not empty
}

// A watch is one path of a Watcher.
type watch struct {
	w    *Watcher
	path string
	view View
	file *file
	// Under w.mu:
	dirty    bool
	removed  bool
	reported Attr
	next     time.Time // when it may be reported again
}

// Watch makes a watcher of no files.
func (t *Tree) Watch() *Watcher {
	w := &Watcher{tree: t, wake: make(chan struct{}, 1)}
	w.mu.watches = map[string]*watch{}
	return w
}

// Add watches a file; its first report comes soon if the file is not as the caller knows it (End, Gen), or at its
// first growth. Adding a watched path again is no error. ENOENT, EISDIR and EFBIG (above MaxWatches) are.
func (w *Watcher) Add(ctx context.Context, path string, end int64, gen uint64) error {
	p, err := w.tree.parse(ctx, path)
	if err != nil {
		return err
	}
	if p.Dir() {
		return fmt.Errorf("watch %q: %w", path, EISDIR)
	}
	name, err := p.Name()
	if err != nil {
		return err
	}
	f, err := w.tree.open(ctx, name)
	if err != nil {
		return err
	}
	defer f.release()
	x := &watch{w: w, path: path, view: p.View, file: f}
	x.reported.End, x.reported.Gen = end, gen
	w.mu.Lock()
	switch {
	case w.mu.closed:
		w.mu.Unlock()
		return errClosed
	case w.mu.watches[path] != nil && w.mu.watches[path].file == f:
		w.mu.Unlock()
		return nil
	case len(w.mu.watches) >= MaxWatches:
		w.mu.Unlock()
		return fmt.Errorf("watch more than %d files: %w", MaxWatches, EFBIG)
	}
	old := w.mu.watches[path]
	w.mu.watches[path] = x
	w.mu.Unlock()
	if old != nil {
		old.detach()
	}
	f.mu.Lock()
	f.mu.watches = append(f.mu.watches, x)
	f.mu.Unlock()
	if e := f.face(p.View).extent(); e.gen != gen || e.end != end || f.isClosed() {
		x.changed()
	}
	f.kick() // counts a face that was not counted yet, and what came between
	return nil
}

// Remove ends the watching of a path.
func (w *Watcher) Remove(path string) {
	w.mu.Lock()
	x := w.mu.watches[path]
	delete(w.mu.watches, path)
	w.mu.Unlock()
	if x != nil {
		x.detach()
	}
}

func (x *watch) detach() {
	x.w.mu.Lock()
	x.removed = true
	x.w.mu.Unlock()
	x.file.mu.Lock()
	defer x.file.mu.Unlock()
	x.file.mu.watches = slices.DeleteFunc(x.file.mu.watches, func(y *watch) bool { return x == y })
}

// changed puts the watch on the list of those to be reported. It is called with the file's lock held.
func (x *watch) changed() {
	w := x.w
	w.mu.Lock()
	if !x.dirty && !x.removed {
		x.dirty = true
		w.mu.dirty = append(w.mu.dirty, x)
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Next waits for growth and returns it: one report for each file that has changed. It is for one goroutine.
func (w *Watcher) Next(ctx context.Context) ([]Growth, error) {
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.tree.ctx.Done():
			return nil, errClosed
		}
		var due []*watch
		var wait time.Duration
		now := time.Now()
		w.mu.Lock()
		keep := w.mu.dirty[:0]
		for _, x := range w.mu.dirty {
			switch d := x.next.Sub(now); {
			case x.removed:
				x.dirty = false
			case d > 0:
				keep = append(keep, x)
				if wait == 0 || d < wait {
					wait = d
				}
			default:
				x.dirty = false
				x.next = now.Add(notifyInterval)
				due = append(due, x)
			}
		}
		clear(w.mu.dirty[len(keep):])
		w.mu.dirty = keep
		w.mu.Unlock()
		if wait > 0 {
			time.AfterFunc(wait, func() {
				select {
				case w.wake <- struct{}{}:
				default:
				}
			})
		}
		var out []Growth
		for _, x := range due {
			if g, ok := x.report(); ok {
				out = append(out, g)
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
}

// report is what there is to say about a watch now, if anything.
func (x *watch) report() (Growth, bool) {
	if x.file.isClosed() {
		x.w.mu.Lock()
		if x.w.mu.watches[x.path] == x {
			delete(x.w.mu.watches, x.path)
		}
		x.w.mu.Unlock()
		x.detach()
		return Growth{Path: x.path, Gone: true}, true
	}
	fc := x.file.face(x.view)
	e := fc.extent()
	if e.fence.Record == nil {
		return Growth{}, false // not counted yet: the count will report
	}
	a := x.w.tree.attr(fc, e, time.UnixMilli(e.created()))
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	if a.End == x.reported.End && a.Gen == x.reported.Gen && a.Base == x.reported.Base {
		return Growth{}, false
	}
	x.reported = a
	return Growth{Path: x.path, Attr: a}, true
}

// Close ends the watching of every path.
func (w *Watcher) Close() {
	w.mu.Lock()
	w.mu.closed = true
	all := w.mu.watches
	w.mu.watches = map[string]*watch{}
	w.mu.Unlock()
	for _, x := range all {
		x.detach()
	}
}
