// Package metaserver assembles a node of the metadata store: a Raft member whose log and state share one pebble
// database, with sessions and watches above it.
//
// # Promises
//
// Server.Store keeps those of package raftmeta. A commit is answered after it is synced on a quorum; a crash at
// any moment loses nothing that was answered. A sole voter elects itself at once, so that Open returns ready to
// serve.
//
// An error of a write or a sync, or corrupt data, stops the node for good: Config.Fatal is told, and every call
// fails with raftmeta.ErrUnavailable and the cause. Only a new process may open the directory again.
//
// # Format
//
// The keys are drawn in raftlog and state. The identity record carries the format of the directory; a
// directory of a newer format is refused with ErrNewerFormat.
//
// # Goroutines
//
// One owns the node (package node), one for each session that this process has open sends its keep-alives, and
// pebble has its own. Nothing runs for an idle watch, and nothing ticks while there is one voter.
package metaserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/internal/command"
	"github.com/daybook/daybook/raftmeta/internal/lease"
	"github.com/daybook/daybook/raftmeta/internal/metapb"
	"github.com/daybook/daybook/raftmeta/internal/node"
	"github.com/daybook/daybook/raftmeta/internal/raftlog"
	"github.com/daybook/daybook/raftmeta/internal/snapshot"
	"github.com/daybook/daybook/raftmeta/internal/state"
	"github.com/daybook/daybook/raftmeta/internal/watch"
)

// Format is the newest format of a directory that this version reads and the one it writes.
const Format = 1

// The database's format is fixed, so that a newer pebble does not by itself make directories that the former
// version of this program cannot open.
const pebbleFormat = pebble.FormatValueSeparation

// A new node's log goes on after this entry, which nobody ever proposed: Raft takes members from a state, and
// a state is always of some entry.
const firstIndex, firstTerm = 1, 1

// ErrNewerFormat says that a directory was written by a newer version.
var ErrNewerFormat = errors.New("metadata directory has a newer format")

// ErrIdentity says that a directory belongs to another node.
var ErrIdentity = errors.New("metadata directory of another node")

// Config says what node to run. Only Dir is needed.
type Config struct {
	// Dir is made if it does not exist. One process at a time may open it.
	Dir string
	// FS holds Dir; the operating system's if nil.
	FS vfs.FS
	// NodeID is the member's number in the cluster, never used for another node; 1 if zero.
	NodeID uint64
	// Logger gets what an operator must know; nothing is logged if nil.
	Logger *slog.Logger
	// Fatal is told, once, why the node has stopped for good. It must not wait for the server. After it
	// every call fails.
	Fatal func(error)
	// HasSpace says whether the reserve of disk space is whole; if it is not, commits that put something
	// fail with raftmeta.ErrNoSpace. Always whole if nil.
	HasSpace func() bool
	// RetainRevisions and RetainFor bound how far back a watch can begin: 100 000 revisions and 1 h if
	// zero.
	RetainRevisions int64
	RetainFor       time.Duration
	// CacheBytes and MemTableBytes bound memory: 8 MiB and 4 MiB if zero.
	CacheBytes    int64
	MemTableBytes uint64

	// What makes the node one of several; a sole voter has none of it.
	send func([]node.Outbound) // carries messages to peers
	join []byte                // the cluster whose leader will bring a new node up, by a snapshot
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("metadata directory is not set")
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.NodeID == 0 {
		c.NodeID = 1
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Fatal == nil {
		c.Fatal = func(error) {}
	}
	if c.HasSpace == nil {
		c.HasSpace = func() bool { return true }
	}
	if c.RetainRevisions <= 0 {
		c.RetainRevisions = 100_000
	}
	if c.RetainFor <= 0 {
		c.RetainFor = time.Hour
	}
	if c.CacheBytes <= 0 {
		c.CacheBytes = 8 << 20
	}
	if c.MemTableBytes == 0 {
		c.MemTableBytes = 4 << 20
	}
	return c, nil
}

// A Server is a running node.
type Server struct {
	cfg     Config
	db      *pebble.DB
	node    *node.Node
	hub     *watch.Hub
	leases  *lease.Table
	cluster []byte
	early   failure // before there is a node
	closing sync.Once

	fullOnce sync.Once
	mu       struct {
		sync.Mutex
		closed   bool
		sessions map[raftmeta.SessionID]*lease.Session
	}
	reads sync.RWMutex // held for reading while the database is read, so that Close waits
}

// A failure is what pebble may report before there is a node to stop.
type failure struct {
	over chan struct{} // closed once err is set
	mu   sync.Mutex
	err  error
	node *node.Node
}

func (f *failure) set(err error) {
	f.mu.Lock()
	if f.err == nil {
		f.err = err
		close(f.over)
	}
	n := f.node
	f.mu.Unlock()
	if n != nil {
		n.Fail(err)
	}
}

// attach passes failures on to n, also one that has already happened.
func (f *failure) attach(n *node.Node) {
	f.mu.Lock()
	f.node = n
	err := f.err
	f.mu.Unlock()
	if err != nil {
		n.Fail(err)
	}
}

// Open starts the node of cfg.Dir and waits until it serves.
func Open(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, leases: lease.NewTable()}
	s.mu.sessions = make(map[raftmeta.SessionID]*lease.Session)
	s.early.over = make(chan struct{})
	if err := checkPebbleFormat(cfg); err != nil {
		return nil, err
	}
	opened := make(chan error, 1)
	go func() { opened <- s.open() }()
	select {
	case err = <-opened:
	case <-s.early.over: // whoever met the failure may be stuck in pebble
		err = s.early.err
	}
	if err != nil {
		return nil, fmt.Errorf("open metadata in %s: %w", cfg.Dir, err)
	}
	return s, nil
}

func (s *Server) open() (err error) {
	cfg := s.cfg
	if s.db, err = s.openOrCreate(); err != nil {
		return err
	}
	defer func() {
		if err != nil && s.node == nil { // a node that has failed leaves the database alone
			_ = s.db.Close()
		}
	}()
	if err := s.markCreated(); err != nil {
		return err
	}
	id, err := s.identity()
	if err != nil {
		return err
	}
	s.cluster = id.Cluster
	machine, err := state.Load(node.View{R: s.db})
	if err != nil {
		return err
	}
	log, err := raftlog.Open(s.db, func() (uint64, uint64, *raftpb.ConfState) {
		a := machine.Applied()
		return a.Index, a.Term, node.ConfFromPB(a.Conf)
	})
	if err != nil {
		return err
	}
	s.hub = watch.NewHub(source{s}, machine.Applied().Rev)
	s.node, err = node.Start(node.Config{
		ID: cfg.NodeID, Cluster: s.cluster, DB: s.db, Log: log, Machine: machine, Hub: s.hub, Leases: s.leases,
		Logger: cfg.Logger, RetainRevisions: cfg.RetainRevisions, RetainFor: cfg.RetainFor,
		Send: cfg.send, Ended: s.ended, Failed: s.failed,
	})
	if err != nil {
		return err
	}
	s.early.attach(s.node)
	if cfg.send != nil {
		return nil // others may have to be up first
	}
	return s.node.Wait(context.Background())
}

// createdName is the file in Dir that says that the database was whole once. Pebble makes several files in a new
// directory before it syncs the directory, so that a crash may keep the marker that names a manifest and lose the
// manifest.
const createdName = "CREATED"

// openOrCreate opens the database. One that has lost its manifest and never was whole, so that nothing was ever
// answered from it, is made anew.
func (s *Server) openOrCreate() (*pebble.DB, error) {
	fs, dir := s.cfg.FS, s.cfg.Dir
	db, err := openDB(dir, s.options())
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return db, err
	}
	if _, serr := fs.Stat(fs.PathJoin(dir, createdName)); !errors.Is(serr, os.ErrNotExist) {
		return nil, err
	}
	if err := fs.RemoveAll(dir); err != nil {
		return nil, err
	}
	return openDB(dir, s.options())
}

// markCreated says, durably, that the database is whole. Nothing is answered before.
func (s *Server) markCreated() error {
	fs, dir := s.cfg.FS, s.cfg.Dir
	name := fs.PathJoin(dir, createdName)
	if _, err := fs.Stat(name); err == nil {
		return nil
	}
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openDB opens the database. Pebble panics where it cannot sync its directory; no harm is done as long as nobody uses it.
func openDB(dir string, o *pebble.Options) (_ *pebble.DB, err error) {
	defer func() {
		if why := recover(); why != nil {
			cause, ok := why.(error)
			if _, bug := why.(runtime.Error); bug || !ok {
				panic(why)
			}
			err = cause
		}
	}()
	return pebble.Open(dir, o)
}

// checkPebbleFormat looks at the database's format before pebble, whose answer to a newer one says nothing of
// what to do.
func checkPebbleFormat(cfg Config) error {
	if _, err := cfg.FS.Stat(cfg.Dir); err != nil {
		return nil // pebble makes it, or says why it cannot
	}
	desc, err := pebble.Peek(cfg.Dir, cfg.FS)
	if err != nil {
		// Pebble has no error value for a format that it has never heard of.
		if strings.Contains(err.Error(), "unknown format major version") {
			return newerFormat(cfg.Dir, err.Error())
		}
		return nil // opening says it better
	}
	if desc.Exists && desc.FormatMajorVersion > pebbleFormat {
		return newerFormat(cfg.Dir, fmt.Sprintf("database format %d, this version knows %d", desc.FormatMajorVersion, pebbleFormat))
	}
	return nil
}

func newerFormat(dir, what string) error {
	return fmt.Errorf("%w: %s: %s; run the version of daybook that wrote it, or a newer one, or move the directory away to begin anew",
		ErrNewerFormat, dir, what)
}

func (s *Server) options() *pebble.Options {
	o := &pebble.Options{
		FS: s.cfg.FS, CacheSize: s.cfg.CacheBytes, MemTableSize: s.cfg.MemTableBytes, MemTableStopWritesThreshold: 4,
		FormatMajorVersion: pebbleFormat, MaxOpenFiles: 200, Logger: pebbleLogger{s.cfg.Logger, s.early.set},
	}
	o.Experimental.CompactionScheduler = newOneCompaction()
	o.EventListener = &pebble.EventListener{
		BackgroundError: s.backgroundError,
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.early.set(fmt.Errorf("pebble: corruption in %s: %w", i.Path, i.Details))
		},
	}
	return o
}

// backgroundError is told that a flush or a compaction has failed. Pebble tries again at once. Where only the
// disk is full that is right, if not so soon: nothing is lost, the write-ahead log has it all, and space may come
// back. Any other error is the node's end.
func (s *Server) backgroundError(err error) {
	if !vfs.IsNoSpaceError(err) {
		s.early.set(fmt.Errorf("pebble: background work: %w", err))
		return
	}
	s.fullOnce.Do(func() {
		s.cfg.Logger.Warn("disk is full: metadata is kept in its log until there is space", "dir", s.cfg.Dir, "err", err)
	})
	time.Sleep(100 * time.Millisecond)
}

// identity reads who the directory belongs to; a new one is made this node's.
func (s *Server) identity() (*metapb.Identity, error) {
	id, err := raftlog.ReadIdentity(s.db)
	if err != nil {
		return nil, err
	}
	if id == nil {
		return s.bootstrap()
	}
	switch {
	case id.Format > Format:
		return nil, newerFormat(s.cfg.Dir, fmt.Sprintf("format %d, this version knows %d", id.Format, Format))
	case id.Format != Format || len(id.Cluster) != 16:
		return nil, fmt.Errorf("%w: identity of format %d", raftlog.ErrCorrupt, id.Format)
	case id.Node != s.cfg.NodeID:
		return nil, fmt.Errorf("%w: it is of node %d, this is node %d", ErrIdentity, id.Node, s.cfg.NodeID)
	}
	return id, nil
}

func (s *Server) bootstrap() (*metapb.Identity, error) {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return nil, err
	}
	empty := !it.First()
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, err
	}
	if !empty {
		return nil, fmt.Errorf("%w: the database has data, but no identity", raftlog.ErrCorrupt)
	}
	id := &metapb.Identity{Format: Format, Cluster: make([]byte, 16), Node: s.cfg.NodeID}
	rand.Read(id.Cluster)
	first := state.Applied{Index: firstIndex, Term: firstTerm, Conf: &metapb.ConfState{Voters: []uint64{s.cfg.NodeID}}}
	if s.cfg.join != nil {
		// No members: the node waits to be told who leads.
		id.Cluster, first = s.cfg.join, state.Applied{Conf: &metapb.ConfState{}}
	}
	b := s.db.NewBatch()
	defer b.Close()
	if err := raftlog.Bootstrap(b, id, first.Index, first.Term); err != nil {
		return nil, err
	}
	header, err := state.New(first).Header()
	if err != nil {
		return nil, err
	}
	if err := b.Set(header.Key, header.Value, nil); err != nil {
		return nil, err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return nil, err
	}
	s.early.mu.Lock()
	defer s.early.mu.Unlock()
	return id, s.early.err
}

// Store returns the node's store, which is valid until Close.
func (s *Server) Store() raftmeta.Store { return store{s} }

// Export writes the whole state, as of some moment of the call, in the form that a follower is brought up
// with (see package snapshot).
func (s *Server) Export(ctx context.Context, w io.Writer) error {
	done, err := s.read()
	if err != nil {
		return err
	}
	defer done()
	snap := s.db.NewSnapshot()
	defer snap.Close()
	return snapshot.Export(ctx, node.View{R: snap}, s.cluster, w)
}

// Compact drops the events of revisions up to rev; watches that begin below fail with raftmeta.ErrCompacted.
// The node does the same by itself as Config says.
func (s *Server) Compact(ctx context.Context, rev raftmeta.Revision) error {
	_, err := s.node.Propose(ctx, command.CompactEvents{Rev: rev})
	return err
}

// Close stops the node. Sessions are not ended: a new node keeps them for a full TTL, or until their owner
// opens a later one. All calls fail with raftmeta.ErrClosed.
func (s *Server) Close() error {
	var err error
	s.closing.Do(func() {
		s.mu.Lock()
		s.mu.closed = true
		sessions := s.mu.sessions
		s.mu.sessions = nil
		s.mu.Unlock()
		clean := s.node.Stop(errClosed())
		s.hub.Close(errClosed())
		for _, ses := range sessions {
			ses.End()
			<-ses.Done()
		}
		if !clean {
			return // the database must not be touched again
		}
		s.reads.Lock() // never unlocked: no read begins after this
		err = s.db.Close()
	})
	return err
}

func errClosed() error { return fmt.Errorf("metadata node: %w", raftmeta.ErrClosed) }

// read opens a stretch in which the database may be read, or says why it may not.
func (s *Server) read() (done func(), err error) {
	if !s.reads.TryRLock() {
		return nil, errClosed()
	}
	if err := s.node.Err(); err != nil {
		s.reads.RUnlock()
		return nil, err
	}
	return s.reads.RUnlock, nil
}

// ended tells owners in this process that their sessions are gone.
func (s *Server) ended(ids []raftmeta.SessionID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if ses := s.mu.sessions[id]; ses != nil {
			delete(s.mu.sessions, id)
			ses.End()
		}
	}
}

func (s *Server) failed(cause error) {
	s.cfg.Logger.Error("metadata node has failed and is stopped", "dir", s.cfg.Dir, "err", cause)
	s.cfg.Fatal(cause)
}

// pebbleLogger keeps pebble quiet, except for what is fatal to it.
type pebbleLogger struct {
	l    *slog.Logger
	fail func(error)
}

func (p pebbleLogger) Infof(string, ...any) {}

func (p pebbleLogger) Errorf(f string, v ...any) {
	p.l.Warn("metadata database", "msg", fmt.Sprintf(f, v...))
}

// Fatalf must not return: pebble would go on over what has failed. It keeps the goroutine that it was called
// by, for what is left of the process's life.
func (p pebbleLogger) Fatalf(f string, v ...any) {
	e := fatalError{text: fmt.Sprintf(f, v...)}
	for _, a := range v {
		if err, ok := a.(error); ok {
			e.causes = append(e.causes, err)
		}
	}
	p.fail(e)
	select {}
}

// A fatalError is a message of pebble's with the errors that it was made of.
type fatalError struct {
	text   string
	causes []error
}

func (e fatalError) Error() string   { return e.text }
func (e fatalError) Unwrap() []error { return e.causes }
