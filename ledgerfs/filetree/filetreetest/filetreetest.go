// Package filetreetest is a node in memory for tests of the file tree: topics whose ledgers roll, are trimmed and
// deleted at the test's word, a publisher that can be made to fail, and readers that hand out stored entries in
// the real stored form.
package filetreetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
)

// A Node implements filetree's Topics, Entries and Publisher. Its methods may be called by any goroutine.
type Node struct {
	mu         sync.Mutex
	namespaces map[topicname.Namespace]bool
	topics     map[topicname.Name]*Topic
	byID       map[chain.Incarnation]*Topic
	nextLedger ledgerfs.LedgerID
	clock      int64
	autoCreate bool
	appendHook func(n topicname.Name, records [][]byte) (int, error)
	reads      int
}

// New is a node with the namespace public/default, where topics are created by use.
func New() *Node {
	return &Node{
		namespaces: map[topicname.Namespace]bool{{Tenant: "public", Local: "default"}: true},
		topics:     map[topicname.Name]*Topic{},
		byID:       map[chain.Incarnation]*Topic{},
		autoCreate: true,
		clock:      1_700_000_000_000,
	}
}

// Name is the topic public/default/local.
func Name(local string) topicname.Name {
	n, err := topicname.Make(topicname.Persistent, "public", "default", local)
	if err != nil {
		panic(err)
	}
	return n
}

// AddNamespace makes a namespace.
func (n *Node) AddNamespace(tenant, local string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.namespaces[topicname.Namespace{Tenant: tenant, Local: local}] = true
}

// SetAutoCreate says whether topics are created by use.
func (n *Node) SetAutoCreate(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.autoCreate = on
}

// OnAppend has fn answer appends in place of the node; nil ends that. When fn has acknowledged some or all records,
// these are stored.
func (n *Node) OnAppend(fn func(t topicname.Name, records [][]byte) (int, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.appendHook = fn
}

// Reads is how often entries were read.
func (n *Node) Reads() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reads
}

// Topic returns the topic, created if need be.
func (n *Node) Topic(name topicname.Name) *Topic {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.topics[name]; t != nil {
		return t
	}
	t := &Topic{node: n, name: name, texts: map[ledgerfs.LedgerID]chain.Ledger{}}
	_, _ = rand.Read(t.incarnation[:])
	n.clock++
	t.created = n.clock
	n.topics[name], n.byID[t.incarnation] = t, t
	return t
}

// A Topic is one topic of a node.
type Topic struct {
	node        *Node
	name        topicname.Name
	incarnation chain.Incarnation
	created     int64

	// Under node.mu:
	ledgers    []*ledger
	listeners  map[int]func()
	nextID     int
	nextIndex  int64
	terminated bool
	deleted    bool
	texts      map[ledgerfs.LedgerID]chain.Ledger
	lost       map[ledgerfs.Position]bool
}

type ledger struct {
	id         ledgerfs.LedgerID
	firstIndex int64
	messages   int64
	entries    [][]byte
	closed     bool
}

// Append stores an entry as a producer sent it, which holds that many messages.
func (t *Topic) Append(messages int, payload []byte) ledgerfs.Position {
	t.node.mu.Lock()
	pos := t.appendLocked(messages, payload)
	t.node.mu.Unlock()
	t.notify()
	return pos
}

func (t *Topic) appendLocked(messages int, payload []byte) ledgerfs.Position {
	n := t.node
	if len(t.ledgers) == 0 || t.ledgers[len(t.ledgers)-1].closed {
		n.nextLedger++
		t.ledgers = append(t.ledgers, &ledger{id: n.nextLedger, firstIndex: t.nextIndex})
	}
	l := t.ledgers[len(t.ledgers)-1]
	n.clock++
	t.nextIndex += int64(messages)
	l.messages += int64(messages)
	stored := message.AppendBrokerEntry(nil, message.BrokerEntry{Timestamp: n.clock, Index: t.nextIndex - 1})
	l.entries = append(l.entries, append(stored, payload...))
	return ledgerfs.Position{Ledger: l.id, Entry: ledgerfs.EntryID(len(l.entries) - 1)}
}

// Publish stores each value as a message of its own.
func (t *Topic) Publish(values ...string) {
	t.node.mu.Lock()
	for _, v := range values {
		t.publishLocked([]byte(v))
	}
	t.node.mu.Unlock()
	t.notify()
}

// RollAndTrim does all in one step: it publishes unseen values, closes the ledger, begins another with the message v,
// and removes all but that.
func (t *Topic) RollAndTrim(v string, unseen ...string) {
	t.node.mu.Lock()
	for _, u := range unseen {
		t.publishLocked([]byte(u))
	}
	if n := len(t.ledgers); n > 0 {
		t.ledgers[n-1].closed = true
	}
	t.publishLocked([]byte(v))
	t.ledgers = t.ledgers[len(t.ledgers)-1:]
	t.node.mu.Unlock()
	t.notify()
}

func (t *Topic) publishLocked(v []byte) {
	b, err := message.AppendSingle(nil, &message.Header{ProducerName: "test", PublishTime: t.node.clock}, &message.Outgoing{Value: v})
	if err != nil {
		panic(err)
	}
	t.appendLocked(1, b)
}

// PublishBatch stores the values as one entry.
func (t *Topic) PublishBatch(c message.Compression, values ...string) {
	out := make([]message.Outgoing, len(values))
	for i, v := range values {
		out[i] = message.Outgoing{SequenceID: uint64(i), Value: []byte(v)}
	}
	b, err := message.AppendBatch(nil, &message.Header{ProducerName: "test", PublishTime: 1_700_000_000_000, Compression: c}, out)
	if err != nil {
		panic(err)
	}
	t.Append(len(values), b)
}

// Roll closes the present ledger; the next entry begins another.
func (t *Topic) Roll() {
	t.node.mu.Lock()
	if n := len(t.ledgers); n > 0 {
		t.ledgers[n-1].closed = true
	}
	t.node.mu.Unlock()
	t.notify()
}

// Trim removes the first n ledgers.
func (t *Topic) Trim(n int) {
	t.node.mu.Lock()
	t.ledgers = slices.Delete(t.ledgers, 0, min(n, len(t.ledgers)))
	t.node.mu.Unlock()
	t.notify()
}

// Ledgers is the number of ledgers.
func (t *Topic) Ledgers() int {
	t.node.mu.Lock()
	defer t.node.mu.Unlock()
	return len(t.ledgers)
}

// Recorded is how many ledgers have their length of text recorded for the view.
func (t *Topic) Recorded(v filetree.View) int {
	t.node.mu.Lock()
	defer t.node.mu.Unlock()
	n := 0
	for _, l := range t.texts {
		if l.Text[v].Known {
			n++
		}
	}
	return n
}

// Lose has reads say that no sound copy of the entry exists, or no more.
func (t *Topic) Lose(pos ledgerfs.Position, lost bool) {
	t.node.mu.Lock()
	defer t.node.mu.Unlock()
	if t.lost == nil {
		t.lost = map[ledgerfs.Position]bool{}
	}
	t.lost[pos] = lost
}

// Terminate ends the topic for writing.
func (t *Topic) Terminate() {
	t.node.mu.Lock()
	t.terminated = true
	t.node.mu.Unlock()
	t.notify()
}

// Delete removes the topic.
func (t *Topic) Delete() {
	t.node.mu.Lock()
	t.deleted = true
	delete(t.node.topics, t.name)
	delete(t.node.byID, t.incarnation)
	t.node.mu.Unlock()
	t.notify()
}

func (t *Topic) notify() {
	t.node.mu.Lock()
	fns := slices.Collect(maps.Values(t.listeners))
	t.node.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}

// Listeners is how many callers of Notify have not stopped.
func (t *Topic) Listeners() int {
	t.node.mu.Lock()
	defer t.node.mu.Unlock()
	return len(t.listeners)
}

// Incarnation implements filetree.Topic.
func (t *Topic) Incarnation() chain.Incarnation { return t.incarnation }

// Fence implements filetree.Topic.
func (t *Topic) Fence(ctx context.Context) (chain.Fence, error) {
	t.node.mu.Lock()
	defer t.node.mu.Unlock()
	if t.deleted {
		return chain.Fence{}, fmt.Errorf("topic %s was deleted: %w", t.name, filetree.ESTALE)
	}
	r := &chain.Record{Incarnation: t.incarnation, Created: t.created, NextIndex: t.nextIndex}
	if t.terminated {
		r.State = chain.Terminated
	}
	f := chain.Fence{Record: r, Last: ledgerfs.Position{Ledger: -1, Entry: -1}}
	for _, l := range t.ledgers {
		cl := t.texts[l.id]
		cl.ID, cl.FirstIndex, cl.Closed = l.id, l.firstIndex, l.closed
		if l.closed {
			cl.Entries, cl.Messages = int64(len(l.entries)), l.messages
		}
		r.Ledgers = append(r.Ledgers, cl)
		f.Last = ledgerfs.Position{Ledger: l.id, Entry: ledgerfs.EntryID(len(l.entries) - 1)}
	}
	return f, ctx.Err()
}

// Notify implements filetree.Topic.
func (t *Topic) Notify(fn func()) (stop func()) {
	t.node.mu.Lock()
	defer t.node.mu.Unlock()
	if t.listeners == nil {
		t.listeners = map[int]func(){}
	}
	id := t.nextID
	t.nextID++
	t.listeners[id] = fn
	return func() {
		t.node.mu.Lock()
		defer t.node.mu.Unlock()
		delete(t.listeners, id)
	}
}

// SetText implements filetree.Topic.
func (t *Topic) SetText(_ context.Context, id ledgerfs.LedgerID, version uint32, text [chain.NumViews]chain.Text) error {
	t.node.mu.Lock()
	defer t.node.mu.Unlock()
	l := t.texts[id]
	l.RenderVersion = version
	for v := range text {
		if text[v].Known {
			l.Text[v] = text[v]
		}
	}
	t.texts[id] = l
	return nil
}

// Close implements filetree.Topic.
func (t *Topic) Close() {}

// Tenants implements filetree.Topics.
func (n *Node) Tenants(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	set := map[string]bool{}
	for ns := range n.namespaces {
		set[ns.Tenant] = true
	}
	return slices.Collect(maps.Keys(set)), nil
}

// Namespaces implements filetree.Topics.
func (n *Node) Namespaces(_ context.Context, tenant string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for ns := range n.namespaces {
		if ns.Tenant == tenant {
			out = append(out, ns.Local)
		}
	}
	if out == nil {
		return nil, fmt.Errorf("tenant %q: %w", tenant, filetree.ENOENT)
	}
	return out, nil
}

// Topics implements filetree.Topics.
func (n *Node) Topics(_ context.Context, tenant, namespace string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.namespaces[topicname.Namespace{Tenant: tenant, Local: namespace}] {
		return nil, fmt.Errorf("namespace %q: %w", namespace, filetree.ENOENT)
	}
	var out []string
	for name := range n.topics {
		if name.Tenant == tenant && name.Namespace == namespace {
			out = append(out, name.Local)
		}
	}
	return out, nil
}

// Open implements filetree.Topics.
func (n *Node) Open(_ context.Context, name topicname.Name) (filetree.Topic, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.topics[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("topic %s: %w", name, filetree.ENOENT)
}

// Create implements filetree.Topics.
func (n *Node) Create(_ context.Context, name topicname.Name) error {
	n.mu.Lock()
	t, auto, ns := n.topics[name], n.autoCreate, n.namespaces[topicname.Namespace{Tenant: name.Tenant, Local: name.Namespace}]
	n.mu.Unlock()
	switch {
	case t != nil:
		return nil
	case !ns:
		return fmt.Errorf("namespace of %s: %w", name, filetree.ENOENT)
	case !auto:
		return fmt.Errorf("topics are not created by use: %w", filetree.EACCES)
	}
	n.Topic(name)
	return nil
}

// Read implements filetree.Entries.
func (n *Node) Read(ctx context.Context, f chain.Fence, from ledgerfs.Position, maxBytes int) ([]ledgerfs.Entry, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reads++
	t := n.byID[f.Record.Incarnation]
	if t == nil {
		return nil, fmt.Errorf("topic was deleted: %w", filetree.ESTALE)
	}
	var out []ledgerfs.Entry
	for _, l := range t.ledgers {
		if l.id < from.Ledger {
			continue
		}
		for e := range l.entries {
			pos := ledgerfs.Position{Ledger: l.id, Entry: ledgerfs.EntryID(e)}
			if pos.Less(from) {
				continue
			}
			if f.Last.Less(pos) || len(out) > 0 && maxBytes < len(l.entries[e]) {
				return out, ctx.Err()
			}
			if t.lost[pos] {
				if len(out) == 0 {
					return nil, &topicread.EntryError{Position: pos, Err: ledgerfs.ErrCorrupt}
				}
				return out, ctx.Err()
			}
			maxBytes -= len(l.entries[e])
			out = append(out, ledgerfs.Entry{Ledger: l.id, Entry: pos.Entry, Payload: l.entries[e]})
		}
	}
	return out, ctx.Err()
}

// Scan implements filetree.Entries.
func (n *Node) Scan(f chain.Fence, from, to ledgerfs.Position) filetree.Scan {
	if !f.Last.Less(to) {
		f.Last = to.Prev()
	}
	return &scan{n, f, from}
}

type scan struct {
	n    *Node
	f    chain.Fence
	from ledgerfs.Position
}

func (s *scan) Next(ctx context.Context) ([]ledgerfs.Entry, error) {
	es, err := s.n.Read(ctx, s.f, s.from, 1<<20)
	if err == nil && len(es) == 0 {
		err = io.EOF
	}
	if lost, ok := errors.AsType[*topicread.EntryError](err); ok {
		s.from = lost.Position.Next()
	}
	if err == nil {
		s.from = ledgerfs.Position{Ledger: es[len(es)-1].Ledger, Entry: es[len(es)-1].Entry + 1}
	}
	return es, err
}

func (s *scan) Close() {}

// Append implements filetree.Publisher.
func (n *Node) Append(ctx context.Context, name topicname.Name, records [][]byte) (int, error) {
	n.mu.Lock()
	t, hook := n.topics[name], n.appendHook
	n.mu.Unlock()
	if t == nil {
		return 0, fmt.Errorf("topic %s: %w", name, filetree.ENOENT)
	}
	acked, err := len(records), error(nil)
	if hook != nil {
		acked, err = hook(name, records)
	}
	n.mu.Lock()
	if t.terminated {
		acked, err = 0, fmt.Errorf("topic %s is terminated: %w", name, filetree.EROFS)
	}
	for _, r := range records[:acked] {
		t.publishLocked(slices.Clone(r))
	}
	n.mu.Unlock()
	t.notify()
	return acked, err
}

// Now is the clock that publish times come from.
func (n *Node) Now() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.UnixMilli(n.clock)
}
