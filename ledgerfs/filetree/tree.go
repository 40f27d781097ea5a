package filetree

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

const (
	// notifyInterval is the least time between two reports of growth of one file: at most 50 a second.
	notifyInterval = 20 * time.Millisecond
	// openTimeout bounds how long a topic may take to open.
	openTimeout = 30 * time.Second
	// maxList is the most entries of one List.
	maxList = 10_000
)

// The defaults of Config.
const (
	DefaultIdle     = 10 * time.Minute
	DefaultMaxFiles = 100_000
)

var (
	errClosed = fmt.Errorf("file tree is closed: %w", ENOTCONN)
	// errOtherText: the caller's offsets belong to a text that this one does not continue.
	errOtherText = fmt.Errorf("another text has this name now: %w", ESTALE)
)

// Config says where a Tree has its topics from.
type Config struct {
	Topics    Topics
	Entries   Entries
	Publisher Publisher    // nil: nothing can be appended
	Log       *slog.Logger // nil: slog.Default()
	// Idle is how long the index of a topic that nobody asks for is kept; DefaultIdle if 0.
	Idle time.Duration
	// MaxFiles bounds the topics whose index is kept: beyond it the one that was idle the longest, and is not
	// watched, goes. DefaultMaxFiles if 0.
	MaxFiles int
}

// Attr is what stat shows.
type Attr struct {
	Ino uint64
	Dir bool
	// Writable says that appending is possible.
	Writable bool
	// The file's text is [Base, End): text offsets, see the package comment.
	Base, End int64
	// Gen changes when offsets lose their meaning. Reads that carry it fail with ESTALE rather than return
	// bytes of another text.
	Gen   uint64
	Mtime time.Time // the greatest publish time, never going back; the birth of an empty topic
	Btime time.Time // when the topic was created
}

// Size is the file's size as far as retention has left it.
func (a *Attr) Size() int64 { return a.End - a.Base }

// A DirEntry is one name of a directory.
type DirEntry struct {
	Name string // encoded: an entry of a path
	Dir  bool
}

// A Tree is the topics of a node as files. It starts goroutines; Close ends them.
type Tree struct {
	topics    Topics
	entries   Entries
	publisher Publisher
	log       *slog.Logger
	born      time.Time
	idle      time.Duration
	maxFiles  int

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	renderers sync.Pool

	mu struct {
		sync.Mutex
		closed bool
		files  map[topicname.Name]*file
		// queue holds the files that have grown and wait to be counted by one of the workers.
		queue   []*file
		workers int
		sweep   *time.Timer // set while there are files
	}
	wg sync.WaitGroup
}

// New makes a tree.
func New(cfg Config) *Tree {
	t := &Tree{
		topics: cfg.Topics, entries: cfg.Entries, publisher: cfg.Publisher,
		log: cfg.Log, born: time.Now(),
		idle: cmp.Or(cfg.Idle, DefaultIdle), maxFiles: cmp.Or(cfg.MaxFiles, DefaultMaxFiles),
	}
	if t.log == nil {
		t.log = slog.Default()
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.mu.files = map[topicname.Name]*file{}
	return t
}

// Close ends what the tree does in the background and waits for it. Calls that are under way fail.
func (t *Tree) Close() {
	t.mu.Lock()
	t.mu.closed = true
	files := t.mu.files
	t.mu.files = map[topicname.Name]*file{}
	t.mu.queue = nil
	if t.mu.sweep != nil {
		t.mu.sweep.Stop()
	}
	t.mu.Unlock()
	t.cancel()
	for _, f := range files {
		f.close()
	}
	t.wg.Wait()
}

// goRun runs fn in a goroutine that Close awaits; false if the tree is closed.
func (t *Tree) goRun(fn func(ctx context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return false
	}
	t.wg.Go(func() { fn(t.ctx) })
	return true
}

// A file is a topic that somebody asked for.
//
// Locks are taken in the order face, tree, file, watcher; a file's ref is taken last.
type file struct {
	tree   *Tree
	name   topicname.Name
	opened chan struct{} // closed when topic or err is set
	topic  Topic
	err    error
	stop   func()

	used     atomic.Int64 // when it was last asked for, ns
	dirty    atomic.Bool  // in the queue, or waiting for nextFeed
	nextFeed atomic.Int64 // when growth may be reported again, ns

	mu struct {
		sync.Mutex
		faces   [chain.NumViews]*face
		watches []*watch
	}
	// ref counts the calls and counts under way: the topic is closed after the last of them.
	ref struct {
		sync.Mutex
		n      int
		closed bool // no more are let in
	}
}

// acquire lets a call in; false if the file was closed. release ends it.
func (f *file) acquire() bool {
	f.ref.Lock()
	defer f.ref.Unlock()
	if f.ref.closed {
		return false
	}
	f.ref.n++
	return true
}

// hold is acquire for who is within a call already.
func (f *file) hold() {
	f.ref.Lock()
	defer f.ref.Unlock()
	f.ref.n++
}

func (f *file) release() {
	f.ref.Lock()
	f.ref.n--
	last := f.ref.closed && f.ref.n == 0
	f.ref.Unlock()
	if last {
		f.end()
	}
}

// close lets nobody in any more.
func (f *file) close() {
	f.ref.Lock()
	last := !f.ref.closed && f.ref.n == 0
	f.ref.closed = true
	f.ref.Unlock()
	if last {
		f.end()
	}
}

// end gives up the topic; it is called once.
func (f *file) end() {
	if f.topic != nil {
		f.stop()
		f.topic.Close()
	}
}

func (f *file) isClosed() bool {
	f.ref.Lock()
	defer f.ref.Unlock()
	return f.ref.closed
}

func (f *file) ino(v View) uint64 {
	inc := f.topic.Incarnation()
	return ino(KindTopic, v, inc[:])
}

// face is the face's index, made when it is first asked for.
func (f *file) face(v View) *face {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.faces[v] == nil {
		f.mu.faces[v] = &face{file: f, view: v}
	}
	return f.mu.faces[v]
}

// open finds the open topic of that name, or opens it, and acquires it: the caller releases it.
func (t *Tree) open(ctx context.Context, name topicname.Name) (*file, error) {
	for {
		t.mu.Lock()
		f := t.mu.files[name]
		if f == nil && !t.mu.closed {
			f = &file{tree: t, name: name, opened: make(chan struct{})}
			f.ref.n = 1 // load's
			f.used.Store(time.Now().UnixNano())
			t.mu.files[name] = f
			if t.mu.sweep == nil {
				t.mu.sweep = time.AfterFunc(t.idle/4, t.evict)
			}
			t.wg.Go(func() { t.load(f) })
			if len(t.mu.files) > t.maxFiles {
				t.wg.Go(t.evict)
			}
		}
		t.mu.Unlock()
		if f == nil {
			return nil, errClosed
		}
		select {
		case <-f.opened:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.err != nil {
			return nil, f.err
		}
		if f.acquire() {
			f.used.Store(time.Now().UnixNano())
			return f, nil
		}
		// Closed meanwhile, and forgotten before that.
	}
}

// load opens f's topic. It runs for all who wait, whether or not the first of them still does.
func (t *Tree) load(f *file) {
	defer f.release()
	ctx, cancel := context.WithTimeout(t.ctx, openTimeout)
	defer cancel()
	topic, err := t.topics.Open(ctx, f.name)
	if err == nil {
		f.topic = topic
		f.stop = topic.Notify(f.kick)
		close(f.opened)
		return
	}
	t.mu.Lock()
	if t.mu.files[f.name] == f {
		delete(t.mu.files, f.name)
	}
	t.mu.Unlock()
	f.err = fmt.Errorf("open %s: %w", f.name, err)
	close(f.opened)
}

// drop forgets a file: its topic is gone, or it was idle.
func (t *Tree) drop(f *file) {
	t.mu.Lock()
	if t.mu.files[f.name] == f {
		delete(t.mu.files, f.name)
	}
	t.mu.Unlock()
	f.close()
}

// evict drops the files that nobody watches and nobody asked for in a while, and, above the bound on their
// number, those that were idle the longest.
func (t *Tree) evict() {
	type idle struct {
		f    *file
		used int64
	}
	var cold []idle
	t.mu.Lock()
	if t.mu.closed {
		t.mu.Unlock()
		return
	}
	n := len(t.mu.files)
	for _, f := range t.mu.files {
		f.mu.Lock()
		busy := len(f.mu.watches) > 0
		f.mu.Unlock()
		f.ref.Lock()
		busy = busy || f.ref.n > 0
		f.ref.Unlock()
		if !busy {
			cold = append(cold, idle{f, f.used.Load()})
		}
	}
	slices.SortFunc(cold, func(a, b idle) int { return cmp.Compare(a.used, b.used) })
	limit := time.Now().Add(-t.idle).UnixNano()
	excess := n - t.maxFiles*9/10
	if n <= t.maxFiles {
		excess = 0
	}
	var gone []*file
	for i, c := range cold {
		if c.used > limit && i >= excess {
			break
		}
		gone = append(gone, c.f)
		delete(t.mu.files, c.f.name)
	}
	t.mu.sweep.Stop()
	t.mu.sweep = nil
	if len(t.mu.files) > 0 {
		t.mu.sweep = time.AfterFunc(t.idle/4, t.evict)
	}
	t.mu.Unlock()
	for _, f := range gone {
		f.close()
	}
}

// kick notes that the topic has grown. It is called for every notification of the topic, from anywhere.
func (f *file) kick() {
	if f.dirty.Swap(true) {
		return
	}
	if d := time.Until(time.Unix(0, f.nextFeed.Load())); d > 0 {
		time.AfterFunc(d, f.enqueue)
		return
	}
	f.enqueue()
}

func (f *file) enqueue() {
	t := f.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return
	}
	t.mu.queue = append(t.mu.queue, f)
	if t.mu.workers < runtime.GOMAXPROCS(0) {
		t.mu.workers++
		t.wg.Go(t.work)
	}
}

// work counts what has grown until nothing has.
func (t *Tree) work() {
	for {
		t.mu.Lock()
		if len(t.mu.queue) == 0 {
			t.mu.workers--
			t.mu.Unlock()
			return
		}
		f := t.mu.queue[0]
		t.mu.queue = slices.Delete(t.mu.queue, 0, 1)
		t.mu.Unlock()
		f.feed()
	}
}

// feed counts what the topic has grown by, in the faces that somebody asked for.
func (f *file) feed() {
	f.nextFeed.Store(time.Now().Add(notifyInterval).UnixNano())
	f.dirty.Store(false) // from here on another notification counts
	if !f.acquire() {
		return
	}
	defer f.release()
	f.mu.Lock()
	faces := f.mu.faces
	f.mu.Unlock()
	for _, fc := range faces {
		if fc == nil {
			continue
		}
		if err := fc.fresh(f.tree.ctx); err != nil {
			f.failed(err)
			return
		}
		f.grown(fc)
	}
}

// failed handles an error of a topic outside of a call: what was deleted is forgotten, and who watches it is
// told.
func (f *file) failed(err error) {
	if !gone(err) {
		if f.tree.ctx.Err() == nil {
			f.tree.log.Warn("growth of a topic not counted", "topic", f.name.String(), "err", err)
		}
		return
	}
	f.tree.drop(f)
	f.mu.Lock()
	watches := slices.Clone(f.mu.watches)
	f.mu.Unlock()
	for _, w := range watches {
		w.changed()
	}
}

// grown tells the watchers of a face that there is more of it.
func (f *file) grown(fc *face) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.mu.watches {
		if w.view == fc.view {
			w.changed()
		}
	}
}

// gone reports whether err says that the topic does not exist any more.
func gone(err error) bool {
	return !errors.Is(err, errOtherText) && (errors.Is(err, ENOENT) || errors.Is(err, ESTALE))
}

// with runs fn on the open topic; if the topic turns out to be gone, once more on the one that has its name now.
func (t *Tree) with(ctx context.Context, p Path, fn func(fc *face) error) error {
	name, err := p.Name()
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		f, err := t.open(ctx, name)
		if err != nil {
			return err
		}
		lost := false
		if err = fn(f.face(p.View)); err != nil && gone(err) {
			// A trimmed offset is ESTALE too, and its topic is well.
			_, ferr := f.topic.Fence(ctx)
			lost = ferr != nil && gone(ferr)
		}
		if lost {
			t.drop(f)
		}
		f.release()
		if !lost || try == 1 {
			return err
		}
	}
}

// resolve replaces hashed parts of a path by the names that they stand for.
func (t *Tree) resolve(ctx context.Context, p Path) (Path, error) {
	if p.hashed == 0 {
		return p, nil
	}
	lists := [3]func() ([]string, error){
		func() ([]string, error) { return t.topics.Tenants(ctx) },
		func() ([]string, error) { return t.topics.Namespaces(ctx, p.Tenant) },
		func() ([]string, error) { return t.topics.Topics(ctx, p.Tenant, p.Namespace) },
	}
	for i, part := range [3]*string{&p.Tenant, &p.Namespace, &p.Topic} {
		if p.hashed&(1<<i) == 0 {
			continue
		}
		names, err := lists[i]()
		if err != nil {
			return p, err
		}
		j := slices.IndexFunc(names, func(n string) bool { return topicname.EncodeFileName(n) == *part })
		if j < 0 {
			return p, fmt.Errorf("name %q: %w", *part, ENOENT)
		}
		*part = names[j]
	}
	p.hashed = 0
	return p, nil
}

func (t *Tree) parse(ctx context.Context, path string) (Path, error) {
	p, err := ParsePath(path)
	if err != nil {
		return p, err
	}
	return t.resolve(ctx, p)
}

// Stat describes a file or directory. The size counts every message that was acknowledged before the call.
func (t *Tree) Stat(ctx context.Context, path string) (Attr, error) {
	p, err := t.parse(ctx, path)
	if err != nil {
		return Attr{}, err
	}
	dir := Attr{Dir: true, Mtime: t.born, Btime: t.born}
	switch p.Kind {
	case KindRoot:
		dir.Ino = ino(KindRoot, 0)
		return dir, nil
	case KindTenant:
		names, err := t.topics.Tenants(ctx)
		if err != nil {
			return Attr{}, err
		}
		if !slices.Contains(names, p.Tenant) {
			return Attr{}, fmt.Errorf("tenant %q: %w", p.Tenant, ENOENT)
		}
		dir.Ino = ino(KindTenant, 0, []byte(p.Tenant))
		return dir, nil
	case KindNamespace:
		names, err := t.topics.Namespaces(ctx, p.Tenant)
		if err != nil {
			return Attr{}, err
		}
		if !slices.Contains(names, p.Namespace) {
			return Attr{}, fmt.Errorf("namespace %q of tenant %q: %w", p.Namespace, p.Tenant, ENOENT)
		}
		dir.Ino = ino(KindNamespace, 0, []byte(p.Tenant), []byte(p.Namespace))
		return dir, nil
	}
	var a Attr
	err = t.with(ctx, p, func(fc *face) error {
		fence, err := fc.file.topic.Fence(ctx)
		if err != nil {
			return err
		}
		born := time.UnixMilli(fence.Record.Created)
		if p.Kind == KindFaces {
			inc := fc.file.topic.Incarnation()
			a = Attr{Ino: ino(KindFaces, 0, inc[:]), Dir: true, Mtime: born, Btime: born}
			return nil
		}
		if err := fc.fresh(ctx); err != nil {
			return err
		}
		a = t.attr(fc, fc.extent(), born)
		return nil
	})
	return a, err
}

func (t *Tree) attr(fc *face, x extent, born time.Time) Attr {
	a := Attr{
		Ino: fc.file.ino(fc.view), Base: x.base, End: x.end, Gen: x.gen, Mtime: born, Btime: born,
		Writable: fc.view == ViewLine && t.publisher != nil && !x.terminated,
	}
	if x.mtime > 0 {
		a.Mtime = time.UnixMilli(x.mtime)
	}
	return a
}

// List returns up to limit names of a directory, those after a name that a List has returned, in the order of
// bytes; more says that there are others behind them. The faces of topics are not listed beside them.
func (t *Tree) List(ctx context.Context, path, after string, limit int) (entries []DirEntry, more bool, err error) {
	p, err := t.parse(ctx, path)
	if err != nil {
		return nil, false, err
	}
	var names []string
	switch p.Kind {
	case KindRoot:
		names, err = t.topics.Tenants(ctx)
	case KindTenant:
		names, err = t.topics.Namespaces(ctx, p.Tenant)
	case KindNamespace:
		names, err = t.topics.Topics(ctx, p.Tenant, p.Namespace)
	case KindFaces:
		_, err = t.Stat(ctx, path)
		names = []string{"ndjson"}
	default:
		return nil, false, fmt.Errorf("list %q: %w", path, ENOTDIR)
	}
	if err != nil {
		return nil, false, err
	}
	if limit < 1 || limit > maxList {
		limit = maxList
	}
	all := make([]string, 0, len(names))
	for _, n := range names {
		if e := topicname.EncodeFileName(n); e > after {
			all = append(all, e)
		}
	}
	slices.Sort(all)
	for _, n := range all[:min(limit, len(all))] {
		entries = append(entries, DirEntry{Name: n, Dir: p.Kind < KindNamespace})
	}
	return entries, len(all) > limit, nil
}

// ReadAt appends to dst up to n bytes of a file's text from offset off on, and returns the file's attributes as
// of the read. Fewer than n bytes mean the end of the file. With gen not 0, ESTALE says that off belongs to
// another text; ESTALE also answers offsets below Base.
func (t *Tree) ReadAt(ctx context.Context, dst []byte, path string, gen uint64, off int64, n int) ([]byte, Attr, error) {
	var a Attr
	p, err := t.parse(ctx, path)
	if err == nil && p.Dir() {
		err = fmt.Errorf("read %q: %w", path, EISDIR)
	}
	if err == nil && (off < 0 || n < 0) {
		err = fmt.Errorf("read %q at %d, %d bytes: %w", path, off, n, EINVAL)
	}
	if err != nil {
		return dst, a, err
	}
	start := len(dst)
	err = t.with(ctx, p, func(fc *face) error {
		out, x, err := fc.readAt(ctx, dst[:start], gen, off, n)
		if err != nil {
			return err
		}
		dst = out
		a = t.attr(fc, x, time.UnixMilli(x.created()))
		return nil
	})
	return dst, a, err
}

// Append publishes records as messages, in order; see Publisher.
func (t *Tree) Append(ctx context.Context, path string, records [][]byte) (acked int, err error) {
	p, err := t.parse(ctx, path)
	if err != nil {
		return 0, err
	}
	switch {
	case p.Dir():
		return 0, fmt.Errorf("append to %q: %w", path, EISDIR)
	case p.View != ViewLine || t.publisher == nil:
		return 0, fmt.Errorf("append to %q: %w", path, EPERM)
	}
	name, err := p.Name()
	if err != nil {
		return 0, err
	}
	return t.publisher.Append(ctx, name, records)
}

// Create makes a topic, if its namespace allows that, and describes it. It is no error if it exists. Names that
// only editors and the like make are refused (JunkName).
func (t *Tree) Create(ctx context.Context, path string) (Attr, error) {
	p, err := ParsePath(path)
	if err != nil {
		return Attr{}, err
	}
	if p.Kind != KindTopic || p.View != ViewLine || p.hashed != 0 || JunkName(path[strings.LastIndexByte(path, '/')+1:]) {
		return Attr{}, fmt.Errorf("create %q: %w", path, EPERM)
	}
	name, err := p.Name()
	if err != nil {
		return Attr{}, fmt.Errorf("create %q: %w", path, EINVAL)
	}
	if err := t.topics.Create(ctx, name); err != nil {
		return Attr{}, fmt.Errorf("create %q: %w", path, err)
	}
	return t.Stat(ctx, path)
}

// Attributes are the extended attributes of a topic's face, "user.topic.…" to text; none of directories.
func (t *Tree) Attributes(ctx context.Context, path string) (map[string]string, error) {
	p, err := t.parse(ctx, path)
	if err != nil {
		return nil, err
	}
	if p.Kind != KindTopic {
		_, err := t.Stat(ctx, path)
		return nil, err
	}
	m := map[string]string{}
	err = t.with(ctx, p, func(fc *face) error {
		if err := fc.fresh(ctx); err != nil {
			return err
		}
		fence, err := fc.file.topic.Fence(ctx)
		if err != nil {
			return err
		}
		x := fc.extent()
		inc := fc.file.topic.Incarnation()
		m["user.topic.name"] = fc.file.name.String()
		m["user.topic.id"] = hex.EncodeToString(inc[:])
		m["user.topic.view"] = viewName(fc.view)
		m["user.topic.first_offset"] = strconv.FormatInt(x.base, 10)
		m["user.topic.end_offset"] = strconv.FormatInt(x.end, 10)
		m["user.topic.last_id"] = fence.Last.String()
		m["user.topic.terminated"] = strconv.FormatBool(fence.Record.State == chain.Terminated)
		return nil
	})
	return m, err
}
