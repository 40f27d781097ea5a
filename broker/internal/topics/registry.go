package topics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
)

// sequenceKey is the sequence of brokers' starts, from which the names of producers are made unique.
const sequenceKey = "seq/producer-names"

// Config is what a registry needs.
type Config struct {
	Cluster string
	// Owner is the broker's id, for statistics.
	Owner   string
	Store   raftmeta.Store
	Ledgers *mledger.Factory
	Policy  Policy
	// Storage says how a topic's ledgers are kept; nil: mledger's defaults for all.
	Storage func(ctx context.Context, n topicname.Name) (mledger.Options, error)
	Logger  *slog.Logger // slog.Default() if nil
}

// A Registry is the topics of one broker. All methods may be called by any goroutine.
type Registry struct {
	cfg Config
	log *slog.Logger
	// ctx ends when Close has run out of time: loading is given up.
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	names struct {
		sync.Mutex
		start int64 // of this broker, 0: not asked for yet
		next  atomic.Int64
	}

	mu struct {
		sync.Mutex
		slots map[topicname.Name]*slot
		// deleted says when topics were deleted within the last tombstone.
		deleted map[topicname.Name]time.Time
		closed  bool
	}
}

// A slot is the place of a topic that is loaded, or on its way in or out.
type slot struct {
	// ready is closed when loading has ended, with topic or err set.
	ready chan struct{}
	topic *topic.Topic
	err   error
	// gone is closed when the slot has been taken out: a topic on its way out keeps its place until then. It is nil
	// while nobody closes the topic.
	gone chan struct{}
}

// New makes a registry without topics.
func New(cfg Config) *Registry {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	r := &Registry{cfg: cfg, log: cfg.Logger}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.mu.slots = make(map[topicname.Name]*slot)
	return r
}

// Topic returns the loaded topic, loading and, as o says, creating it first. TopicNotFound if it does not exist;
// NotAllowedError for a non-persistent topic.
func (r *Registry) Topic(ctx context.Context, n topicname.Name, o Options) (*topic.Topic, error) {
	if n.Domain != topicname.Persistent {
		return nil, serr.NotAllowedError.Errorf("Broker is unable to load non-persistent topic")
	}
	for {
		s, mine, err := r.slot(n)
		if err != nil {
			return nil, err
		}
		if mine {
			r.work.Go(func() { r.load(s, n, o) })
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, fmt.Errorf("load %s: %w", n, ctx.Err())
		}
		if s.err == nil {
			return s.topic, nil
		}
		if !mine && o.Create && errors.Is(s.err, serr.TopicNotFound) {
			continue // somebody asked without creating
		}
		return nil, s.err
	}
}

// slot is the topic's place; mine says that it is new, and the caller's to load.
func (r *Registry) slot(n topicname.Name) (s *slot, mine bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.closed {
		return nil, false, serr.ServiceNotReady.Errorf("the broker is shutting down")
	}
	if s := r.mu.slots[n]; s != nil {
		if s.gone != nil {
			return nil, false, serr.ServiceNotReady.Errorf("topic %s is being unloaded", n)
		}
		return s, false, nil
	}
	s = &slot{ready: make(chan struct{})}
	r.mu.slots[n] = s
	return s, true, nil
}

func (r *Registry) load(s *slot, n topicname.Name, o Options) {
	s.topic, s.err = r.open(r.ctx, n, o)
	if s.err != nil {
		r.drop(n, s)
	}
	close(s.ready)
}

func (r *Registry) drop(n topicname.Name, s *slot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.slots[n] == s {
		delete(r.mu.slots, n)
	}
}

func (r *Registry) open(ctx context.Context, n topicname.Name, o Options) (*topic.Topic, error) {
	if err := r.cfg.Policy.CheckNamespace(ctx, n.NamespaceName()); err != nil {
		return nil, err
	}
	var storage mledger.Options
	if r.cfg.Storage != nil {
		var err error
		if storage, err = r.cfg.Storage(ctx, n); err != nil {
			return nil, err
		}
	}
	storage.Properties = o.Properties
	l, err := r.cfg.Ledgers.Open(ctx, n, storage)
	if errors.Is(err, mledger.ErrNotFound) {
		if !o.Create {
			return nil, serr.TopicNotFound.Errorf("Topic %s does not exist", n)
		}
		if err := n.CanCreate(); err != nil {
			return nil, serr.InvalidTopicName.Wrapf(err, "%s", err.Error())
		}
		if o.Comeback && r.justDeleted(n) {
			return nil, serr.TopicNotFound.Errorf("Topic %s was deleted", n)
		}
		if !o.Explicit {
			if err := r.cfg.Policy.CheckCreate(ctx, n); err != nil {
				return nil, err
			}
		}
		storage.CreateIf = []raftmeta.Cond{r.cfg.Policy.Stands(n.NamespaceName())}
		l, err = r.cfg.Ledgers.OpenOrCreate(ctx, n, storage)
		if errors.Is(err, mledger.ErrNotFound) {
			return nil, serr.TopicNotFound.Wrapf(err, "Namespace not found")
		}
	}
	if err != nil {
		r.log.Error("cannot load topic", "topic", n.String(), "error", err)
		return nil, serr.ServiceNotReady.Wrapf(err, "topic %s cannot be loaded", n)
	}
	return topic.New(topic.Config{
		Name: n, Ledger: l, Owner: r.cfg.Owner, Logger: r.log, Host: host{r},
	}), nil
}

// host is the registry as its topics see it.
type host struct{ *Registry }

// AllowSubscription implements topic.Host.
func (r host) AllowSubscription(ctx context.Context, n topicname.Name) (bool, error) {
	return r.cfg.Policy.AllowSubscriptionCreation(ctx, n)
}

// Dead implements topic.Host.
func (r host) Dead(t *topic.Topic) {
	if err := r.close(r.ctx, t.Name(), t, (*topic.Topic).Close); err != nil {
		r.log.Warn("cannot close a topic that was taken over", "topic", t.Name(), "error", err)
	}
}

// ProducerName makes "<cluster>-<n>-<m>": n is different for every start of a broker, m counts. It implements
// topic.Host.
func (r host) ProducerName(ctx context.Context) (string, error) {
	r.names.Lock()
	defer r.names.Unlock()
	if r.names.start == 0 {
		res, err := r.cfg.Store.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Next(sequenceKey, 1)}})
		if err != nil {
			return "", serr.ServiceNotReady.Wrapf(err, "no name can be made for the producer")
		}
		r.names.start = res.Results[0].N
	}
	return fmt.Sprintf("%s-%d-%d", r.cfg.Cluster, r.names.start, r.names.next.Add(1)-1), nil
}

// Loaded returns the topic if it is loaded now.
func (r *Registry) Loaded(n topicname.Name) (*topic.Topic, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.mu.slots[n]
	if s == nil || s.gone != nil {
		return nil, false
	}
	select {
	case <-s.ready:
		return s.topic, s.err == nil
	default:
		return nil, false
	}
}

// All are the topics that are loaded now, by name.
func (r *Registry) All() []*topic.Topic {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ts []*topic.Topic
	for _, s := range r.mu.slots {
		select {
		case <-s.ready:
			if s.err == nil && s.gone == nil {
				ts = append(ts, s.topic)
			}
		default:
		}
	}
	slices.SortFunc(ts, func(a, b *topic.Topic) int { return strings.Compare(a.Name().String(), b.Name().String()) })
	return ts
}

// Exists reports whether the topic is stored, loaded or not.
func (r *Registry) Exists(ctx context.Context, n topicname.Name) (bool, error) {
	if n.Domain != topicname.Persistent {
		return false, nil
	}
	if _, ok := r.Loaded(n); ok {
		return true, nil
	}
	it, err := r.cfg.Store.Get(ctx, chain.Key(n))
	switch {
	case errors.Is(err, raftmeta.ErrNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("find topic %s: %w", n, err)
	}
	return lives(it), nil
}

// lives reports whether a stored topic is there for its users: not if its deletion has begun. One whose record cannot be
// read is there, and says so when it is used.
func lives(it raftmeta.Item) bool {
	rec, err := chain.Decode(it.Value)
	return err != nil || rec.State != chain.Deleted
}

// List returns the stored topics of a namespace in name order, partitions one by one.
func (r *Registry) List(ctx context.Context, ns topicname.Namespace) ([]topicname.Name, error) {
	prefix := chain.NamespacePrefix(ns)
	var names []topicname.Name
	for from := prefix; ; {
		items, _, err := r.cfg.Store.Range(ctx, from, raftmeta.PrefixEnd(prefix), listPage)
		if err != nil {
			return nil, fmt.Errorf("list topics of %s: %w", ns, err)
		}
		for _, it := range items {
			n, err := chain.ParseKey(it.Key)
			if err != nil {
				return nil, fmt.Errorf("list topics of %s: %w", ns, err)
			}
			if lives(it) {
				names = append(names, n)
			}
		}
		if len(items) < listPage {
			break
		}
		from = items[len(items)-1].Key + "\x00"
	}
	slices.SortFunc(names, func(a, b topicname.Name) int { return strings.Compare(a.String(), b.String()) })
	return names, nil
}

// listPage is how many records are read at a time.
const listPage = 1000

// Delete removes a topic with its subscriptions and messages. Connected producers or consumers make it fail (412),
// or, with force, are closed. A topic that does not exist is TopicNotFound.
func (r *Registry) Delete(ctx context.Context, n topicname.Name, force bool) error {
	for {
		t, err := r.Topic(ctx, n, Options{})
		if err != nil {
			return err
		}
		mine := false
		err = r.close(ctx, n, t, func(t *topic.Topic, ctx context.Context) error {
			mine = true
			err := t.Delete(ctx, force)
			if err == nil {
				r.bury(n)
			}
			return err
		})
		if err != nil || mine {
			return err
		}
		// Somebody took it out between the two: what was unloaded is still to be deleted.
	}
}

// tombstone is how long the producers of a deleted topic do not bring it back by reconnecting.
const tombstone = time.Minute

// bury remembers that the topic was deleted, and forgets those that were deleted long ago.
func (r *Registry) bury(n topicname.Name) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(r.mu.deleted, func(_ topicname.Name, at time.Time) bool { return now.Sub(at) >= tombstone })
	if r.mu.deleted == nil {
		r.mu.deleted = make(map[topicname.Name]time.Time)
	}
	r.mu.deleted[n] = now
}

func (r *Registry) justDeleted(n topicname.Name) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.mu.deleted[n]
	return ok && time.Since(at) < tombstone
}

// Unload closes the topic's clients, brings its cursors to disk and forgets it; the next use loads it again. A topic
// that is not loaded is no error.
func (r *Registry) Unload(ctx context.Context, n topicname.Name) error {
	t, ok := r.Loaded(n)
	if !ok {
		return nil
	}
	return r.close(ctx, n, t, (*topic.Topic).Close)
}

// close takes a topic out by how; while it does, the topic answers that it is not ready.
func (r *Registry) close(ctx context.Context, n topicname.Name, t *topic.Topic, how func(*topic.Topic, context.Context) error) error {
	r.mu.Lock()
	s := r.mu.slots[n]
	if s == nil || s.topic != t {
		r.mu.Unlock()
		return nil // somebody else was faster
	}
	if gone := s.gone; gone != nil {
		r.mu.Unlock()
		select {
		case <-gone:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("unload %s: %w", n, ctx.Err())
		}
	}
	s.gone = make(chan struct{})
	r.mu.Unlock()

	err := how(t, ctx)

	r.mu.Lock()
	defer r.mu.Unlock()
	close(s.gone)
	if t.Closed() {
		delete(r.mu.slots, n)
	} else {
		s.gone = nil // it was in use after all
	}
	return err
}

// Close unloads everything, cursors flushed, and refuses every later use with ServiceNotReady.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	r.mu.closed = true
	r.mu.Unlock()
	stop := context.AfterFunc(ctx, r.cancel)
	defer stop()
	r.work.Wait() // topics on their way in
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, t := range r.All() {
		wg.Go(func() {
			if err := r.close(ctx, t.Name(), t, (*topic.Topic).Close); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	r.cancel()
	return errors.Join(errs...)
}
