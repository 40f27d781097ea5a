package adminapi

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daybook/daybook/broker/internal/ownership"
	"github.com/daybook/daybook/broker/internal/policy"
	"github.com/daybook/daybook/broker/internal/schemaregistry"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/metatest"
)

// fakeTopics keeps topics as slices of entries. One test uses it from one goroutine at a time.
type fakeTopics struct {
	all      map[topicname.Name]*fakeTopic
	policy   *policy.Policies
	meta     raftmeta.Store
	unloaded []topicname.Name
}

func (f *fakeTopics) Topic(ctx context.Context, n topicname.Name, o topics.Options) (Topic, error) {
	t, ok := f.all[n]
	if ok {
		return t, nil
	}
	if !o.Create {
		return nil, serr.TopicNotFound.Errorf("no %v", n)
	}
	if err := f.policy.CheckNamespace(ctx, n.NamespaceName()); err != nil {
		return nil, err
	}
	if !o.Explicit {
		if err := f.policy.CheckCreate(ctx, n); err != nil {
			return nil, err
		}
	}
	t = &fakeTopic{name: n, properties: o.Properties, subs: map[string]*fakeSub{}, created: time.UnixMilli(1700000000000)}
	f.all[n] = t
	// The policies see by its chain's key that there is a topic.
	_, err := f.meta.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("chains/"+n.Key(), nil)}})
	return t, err
}

func (f *fakeTopics) Loaded(n topicname.Name) (Topic, bool) { t, ok := f.all[n]; return t, ok }

func (f *fakeTopics) All() []Topic {
	var out []Topic
	for _, t := range f.all {
		out = append(out, t)
	}
	return out
}

func (f *fakeTopics) Exists(_ context.Context, n topicname.Name) (bool, error) {
	_, ok := f.all[n]
	return ok, nil
}

func (f *fakeTopics) List(_ context.Context, ns topicname.Namespace) ([]topicname.Name, error) {
	var out []topicname.Name
	for n := range f.all {
		if n.NamespaceName() == ns {
			out = append(out, n)
		}
	}
	return out, nil
}

func (f *fakeTopics) Delete(ctx context.Context, n topicname.Name, force bool) error {
	t, ok := f.all[n]
	if !ok {
		return serr.TopicNotFound.Errorf("no %v", n)
	}
	if t.busy && !force {
		return serr.NotAllowedError.Errorf("Topic has 1 connected producers").WithStatus(http.StatusPreconditionFailed)
	}
	delete(f.all, n)
	_, err := f.meta.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Delete("chains/" + n.Key())}})
	return err
}

func (f *fakeTopics) Unload(_ context.Context, n topicname.Name) error {
	f.unloaded = append(f.unloaded, n)
	return nil
}

// A fakeTopic has its entries in ledger 3, and then in ledger 5.
type fakeTopic struct {
	name       topicname.Name
	properties map[string]string
	sealed     [][]byte // of ledger 3
	open       [][]byte // of ledger 5
	subs       map[string]*fakeSub
	created    time.Time
	terminated bool
	busy       bool
}

func (t *fakeTopic) Name() topicname.Name { return t.name }

func (t *fakeTopic) Subscription(name string) (Subscription, error) {
	s, ok := t.subs[name]
	if !ok {
		return nil, serr.SubscriptionNotFound.Errorf("no subscription %s", name)
	}
	return s, nil
}

func (t *fakeTopic) Subscriptions() []Subscription {
	var out []Subscription
	for _, name := range slices.Sorted(maps.Keys(t.subs)) {
		out = append(out, t.subs[name])
	}
	return out
}

func (t *fakeTopic) CreateSubscription(_ context.Context, name string, start *ledgerfs.Position, properties map[string]string, replicated bool) (Subscription, error) {
	if _, ok := t.subs[name]; ok {
		return nil, serr.ConsumerBusy.Errorf("exists").WithStatus(http.StatusConflict)
	}
	s := &fakeSub{name: name, properties: properties, replicated: replicated, markDelete: t.last()}
	if start != nil {
		s.markDelete = start.Prev()
		if *start == subscription.EarliestID {
			s.markDelete = ledgerfs.Position{Ledger: 3, Entry: -1}
		}
	}
	t.subs[name] = s
	return s, nil
}

func (t *fakeTopic) DeleteSubscription(_ context.Context, name string, force bool) error {
	if t.subs[name].busy && !force {
		return serr.ConsumerBusy.Errorf("Subscription has active connected consumers").WithStatus(http.StatusPreconditionFailed)
	}
	delete(t.subs, name)
	return nil
}

func (t *fakeTopic) last() ledgerfs.Position {
	if len(t.open) > 0 {
		return ledgerfs.Position{Ledger: 5, Entry: ledgerfs.EntryID(len(t.open) - 1)}
	}
	return ledgerfs.Position{Ledger: 3, Entry: ledgerfs.EntryID(len(t.sealed) - 1)}
}

func (t *fakeTopic) LastMessageID(context.Context) (topic.LastMessage, error) {
	if len(t.sealed)+len(t.open) == 0 {
		return topic.LastMessage{Position: ledgerfs.Position{Ledger: -1, Entry: -1}, BatchIndex: -1}, nil
	}
	return topic.LastMessage{Position: t.last(), BatchIndex: -1}, nil
}

func (t *fakeTopic) Terminate(context.Context) (ledgerfs.Position, error) {
	t.terminated = true
	return t.last(), nil
}

func (t *fakeTopic) UpdateProperties(_ context.Context, change func(map[string]string)) error {
	t.properties = maps.Clone(t.properties)
	if t.properties == nil {
		t.properties = map[string]string{}
	}
	change(t.properties)
	return nil
}

func (t *fakeTopic) Stats() topic.Stats {
	s := topic.Stats{MsgIn: int64(len(t.sealed) + len(t.open)), Created: t.created, MsgRateIn: 1.5}
	if t.busy {
		s.Producers = []topic.ProducerStats{{Name: "p-1", AccessMode: topic.AccessShared, ConnectedSince: t.created, ClientVersion: "v"}}
	}
	for _, name := range slices.Sorted(maps.Keys(t.subs)) {
		s.Subscriptions = append(s.Subscriptions, t.subs[name].Stats())
	}
	return s
}

func (t *fakeTopic) InternalStats() topic.InternalStats {
	s := topic.InternalStats{
		NumberOfEntries: int64(len(t.sealed) + len(t.open)), LastConfirmed: t.last(), State: "LedgerOpened", Properties: t.properties,
		LastLedgerCreated: t.created, Ledgers: []topic.LedgerInfo{{ID: 3, Entries: int64(len(t.sealed))}},
		Cursors: map[string]subscription.CursorStats{},
	}
	if len(t.open) > 0 {
		s.Ledgers = append(s.Ledgers, topic.LedgerInfo{ID: 5}) // of the open ledger nothing is counted
	}
	for name, sub := range t.subs {
		s.Cursors[name] = sub.CursorStats()
	}
	return s
}

func (t *fakeTopic) ReadEntry(_ context.Context, p ledgerfs.Position) ([]byte, error) {
	e := t.sealed
	if p.Ledger == 5 {
		e = t.open
	}
	if p.Ledger != 3 && p.Ledger != 5 || p.Entry < 0 || int(p.Entry) >= len(e) {
		return nil, fmt.Errorf("read %v: %w", p, ledgerfs.ErrNoEntry)
	}
	return e[p.Entry], nil
}

type fakeSub struct {
	name       string
	properties map[string]string
	replicated bool
	busy       bool
	markDelete ledgerfs.Position
	deleted    string
	calls      []string
}

func (s *fakeSub) Name() string { return s.name }

func (s *fakeSub) Stats() subscription.Stats {
	st := subscription.Stats{Name: s.name, Durable: true, Properties: s.properties, Replicated: s.replicated, Backlog: 2}
	if s.busy {
		st.Type, st.HasType = subscription.KeyShared, true
		st.Consumers = []subscription.ConsumerStats{{Name: "c", KeyHashRanges: []subscription.HashRange{{Start: 0, End: 65535}}}}
	}
	return st
}

func (s *fakeSub) CursorStats() subscription.CursorStats {
	return subscription.CursorStats{MarkDelete: s.markDelete, Read: s.markDelete.Next(), IndividuallyDeleted: "[" + s.deleted + "]", State: "Open"}
}

func (s *fakeSub) call(format string, args ...any) error {
	s.calls = append(s.calls, fmt.Sprintf(format, args...))
	return nil
}

func (s *fakeSub) Seek(_ context.Context, to subscription.SeekTarget) error {
	if !to.Time.IsZero() {
		return s.call("seek time %d", to.Time.UnixMilli())
	}
	return s.call("seek %v", to.Position)
}
func (s *fakeSub) Skip(_ context.Context, n int) error { return s.call("skip %d", n) }
func (s *fakeSub) SkipAll(context.Context) error       { return s.call("skip all") }
func (s *fakeSub) ExpireBefore(_ context.Context, t time.Time) error {
	return s.call("expire before %d", t.UnixMilli())
}
func (s *fakeSub) SetProperties(_ context.Context, p map[string]string) error {
	s.properties = p
	return nil
}

// now is the time of all tests.
var now = time.UnixMilli(1700000100000)

// A server is the API over fakes, with what the recordings have set up.
type server struct {
	t       testing.TB
	topics  *fakeTopics
	handler http.Handler
}

func newServer(t testing.TB) *server {
	ctx := context.Background()
	meta := metatest.New()
	p := policy.New(meta, policy.DefaultConfig(), func() time.Time { return now })
	if err := p.Bootstrap(ctx); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, topics: &fakeTopics{all: map[topicname.Name]*fakeTopic{}, policy: p, meta: meta}}
	s.handler = New(Config{
		Topics: s.topics, Policies: p, Schemas: schemaregistry.New(meta, func() time.Time { return now }),
		Owners:  ownership.NewSingle(ownership.Broker{ID: "127.0.0.1:8080", ServiceURL: "pulsar://127.0.0.1:6650", HTTPURL: "http://127.0.0.1:8080"}),
		Bookies: func(context.Context) ([]string, error) { return []string{"bookie-1"}, nil },
		Version: "4.2.4", Now: func() time.Time { return now },
	})
	s.ok("PUT", "/admin/v2/tenants/rec", `{"adminRoles":["ann"],"allowedClusters":["standalone"]}`)
	s.ok("PUT", "/admin/v2/namespaces/rec/ns", "")
	s.ok("PUT", "/admin/v2/persistent/rec/ns/t", "")
	s.ok("PUT", "/admin/v2/persistent/rec/ns/p/partitions", "3")
	topic := s.topic("t")
	for i, v := range []string{"hello", "there", "dear", "world"} {
		topic.sealed = append(topic.sealed, entry(t, int64(1000*(i+1)), v))
	}
	s.ok("PUT", "/admin/v2/persistent/rec/ns/t/subscription/s", `{"ledgerId":-1,"entryId":-1}`)
	return s
}

func entry(t testing.TB, ms int64, value string) []byte {
	b, err := message.AppendSingle(message.AppendBrokerEntry(nil, message.BrokerEntry{Timestamp: ms, Index: ms}),
		&message.Header{ProducerName: "p", PublishTime: ms}, &message.Outgoing{Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *server) topic(local string) *fakeTopic {
	s.t.Helper()
	t, ok := s.topics.all[topicname.Name{Tenant: "rec", Namespace: "ns", Local: local}]
	if !ok {
		s.t.Fatalf("no topic %s", local)
	}
	return t
}

func (s *server) do(method, path, body string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "127.0.0.1:8080"
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

// ok wants success, and gives the body.
func (s *server) ok(method, path, body string) string {
	s.t.Helper()
	w := s.do(method, path, body)
	if w.Code < 200 || w.Code > 299 {
		s.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w.Body.String()
}

// fails wants this failure.
func (s *server) fails(method, path, body string, status int, reason string) {
	s.t.Helper()
	w := s.do(method, path, body)
	if want := fmt.Sprintf(`{"reason":%q}`, reason); w.Code != status || w.Body.String() != want {
		s.t.Errorf("%s %s: %d %s; want %d %s", method, path, w.Code, w.Body, status, want)
	}
}

// is wants this body of a 200.
func (s *server) is(method, path, body, want string) {
	s.t.Helper()
	if w := s.do(method, path, body); w.Code != 200 || w.Body.String() != want {
		s.t.Errorf("%s %s: %d %s; want 200 %s", method, path, w.Code, w.Body, want)
	}
}
