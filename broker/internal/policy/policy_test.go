package policy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/metatest"
)

var ns = topicname.Namespace{Tenant: "public", Local: "default"}

func newPolicies(t *testing.T, cfg Config) (*Policies, raftmeta.Store) {
	t.Helper()
	meta := metatest.New()
	p := New(meta, cfg, time.Now)
	if err := p.Bootstrap(context.Background()); err != nil {
		t.Fatal(err)
	}
	return p, meta
}

func name(t *testing.T, s string) topicname.Name {
	t.Helper()
	n, err := topicname.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func status(err error) int {
	if err == nil {
		return 200
	}
	return serr.From(err).Status
}

func TestBootstrapLeavesWhatIsThere(t *testing.T) {
	ctx := context.Background()
	p, _ := newPolicies(t, DefaultConfig())
	if err := p.UpdateTenant(ctx, "public", Tenant{AdminRoles: []string{"ann"}, AllowedClusters: []string{"standalone"}}); err != nil {
		t.Fatal(err)
	}
	if err := p.Bootstrap(ctx); err != nil {
		t.Fatal(err)
	}
	if i, err := p.TenantInfo(ctx, "public"); err != nil || !slices.Equal(i.AdminRoles, []string{"ann"}) {
		t.Errorf("tenant %v, %v", i, err)
	}
	if all, err := p.Tenants(ctx); err != nil || !slices.Equal(all, []string{"public", "pulsar"}) {
		t.Errorf("tenants %v, %v", all, err)
	}
	for _, n := range []string{"public/default", "pulsar/system"} {
		x, err := topicname.ParseNamespace(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.CheckNamespace(ctx, x); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	if err := p.CheckNamespace(ctx, topicname.Namespace{Tenant: "public", Local: "other"}); !errors.Is(err, serr.TopicNotFound) || serr.From(err).Text != "Namespace not found" {
		t.Errorf("a missing namespace: %v", err)
	}
}

func TestWhatMayBeCreatedByUse(t *testing.T) {
	ctx := context.Background()
	p, meta := newPolicies(t, DefaultConfig())
	check := func(topic string, want int) {
		t.Helper()
		if err := p.CheckCreate(ctx, name(t, topic)); status(err) != want {
			t.Errorf("CheckCreate(%s) = %v, want status %d", topic, err, want)
		}
	}
	check("t", 200)
	check("t-partition-3", 200) // of no partitioned topic: a name like another
	check("public/none/t", 404)
	check("t ", 412)
	if err := p.CreatePartitioned(ctx, name(t, "p"), Partitioned{Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	check("p", 409)
	check("p-partition-1", 200)
	check("p-partition-2", 409)

	off := func(n *Namespace) error { n.AutoTopics = &AutoTopics{}; return nil }
	if err := p.UpdateNamespace(ctx, ns, off); err != nil {
		t.Fatal(err)
	}
	check("t", 404)
	check("p-partition-1", 200)
	limit := func(n *Namespace) error { n.AutoTopics, n.MaxTopics = nil, 1; return nil }
	if err := p.UpdateNamespace(ctx, ns, limit); err != nil {
		t.Fatal(err)
	}
	check("t", 200)
	if _, err := meta.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("chains/"+name(t, "x").Key(), nil)}}); err != nil {
		t.Fatal(err)
	}
	check("t", 412)

	no := false
	allowed := func(want bool) {
		t.Helper()
		if ok, err := p.AllowSubscriptionCreation(ctx, name(t, "t")); err != nil || ok != want {
			t.Errorf("AllowSubscriptionCreation = %v, %v; want %v", ok, err, want)
		}
	}
	allowed(true)
	if err := p.UpdateNamespace(ctx, ns, func(n *Namespace) error { n.AutoSubscriptions = &no; return nil }); err != nil {
		t.Fatal(err)
	}
	allowed(false)
}

func TestPartitionsFor(t *testing.T) {
	ctx := context.Background()
	cfg := DefaultConfig()
	cfg.AutoPartitions = 3
	p, _ := newPolicies(t, cfg)
	for _, c := range []struct {
		topic          string
		create, exists bool
		want           int
	}{{"t", false, false, 0}, {"t", true, true, 0}, {"t-partition-1", true, false, 0}, {"t", true, false, 3}, {"t", false, false, 3}} {
		if n, err := p.PartitionsFor(ctx, name(t, c.topic), c.create, c.exists); err != nil || n != c.want {
			t.Errorf("PartitionsFor(%+v) = %d, %v", c, n, err)
		}
	}
	if _, err := p.PartitionsFor(ctx, name(t, "no/ns/t"), true, false); status(err) != 404 {
		t.Errorf("in no namespace: %v", err)
	}
}

func TestPartitionedTopics(t *testing.T) {
	ctx := context.Background()
	p, meta := newPolicies(t, DefaultConfig())
	if _, err := meta.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put("chains/"+name(t, "plain").Key(), nil)}}); err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]int{"plain": 409, "p-partition-1": 412, "x/y/z": 404, "blank ": 412} {
		if err := p.CreatePartitioned(ctx, name(t, topic), Partitioned{Partitions: 1}); status(err) != want {
			t.Errorf("CreatePartitioned(%s) = %v, want %d", topic, err, want)
		}
	}
	n := name(t, "odd %@\x01 name")
	if err := p.CreatePartitioned(ctx, n, Partitioned{Partitions: 4, Properties: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	if err := p.CreatePartitioned(ctx, n, Partitioned{Partitions: 4}); status(err) != http.StatusConflict {
		t.Errorf("created twice: %v", err)
	}
	np := n
	np.Domain = topicname.NonPersistent
	if err := p.CreatePartitioned(ctx, np, Partitioned{Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	if all, err := p.PartitionedTopics(ctx, ns, topicname.Persistent); err != nil || !slices.Equal(all, []topicname.Name{n}) {
		t.Errorf("PartitionedTopics = %v, %v", all, err)
	}
	set := func(to int) error {
		return p.UpdatePartitioned(ctx, n, func(t *Partitioned) error { t.Partitions = to; return nil })
	}
	if err := set(3); status(err) != 422 {
		t.Errorf("fewer partitions: %v", err)
	}
	if err := set(20000); status(err) != 406 {
		t.Errorf("too many partitions: %v", err)
	}
	if err := set(6); err != nil {
		t.Error(err)
	}
	if r, ok, err := p.Partitioned(ctx, n); err != nil || !ok || r.Partitions != 6 || r.Properties["a"] != "b" {
		t.Errorf("Partitioned = %v, %v, %v", r, ok, err)
	}
	if err := p.DeleteNamespace(ctx, ns); status(err) != 409 {
		t.Errorf("a namespace with topics was deleted: %v", err)
	}
	if err := p.DeletePartitioned(ctx, n); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := p.Partitioned(ctx, n); ok || err != nil {
		t.Errorf("still there: %v", err)
	}
}

// A tenant is deleted while namespaces are created in it: never is a namespace left without its tenant.
func TestNoNamespaceWithoutTenant(t *testing.T) {
	ctx := context.Background()
	p, _ := newPolicies(t, DefaultConfig())
	for range 50 {
		if err := p.CreateTenant(ctx, "x", Tenant{AllowedClusters: []string{"standalone"}}); err != nil && status(err) != 409 {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				err := p.CreateNamespace(ctx, topicname.Namespace{Tenant: "x", Local: fmt.Sprint(i)}, Namespace{})
				if s := status(err); s != 200 && s != 404 && s != 409 {
					t.Errorf("create: %v", err)
				}
			})
		}
		wg.Go(func() {
			if s := status(p.DeleteTenant(ctx, "x")); s != 200 && s != 409 {
				t.Errorf("delete: %d", s)
			}
		})
		wg.Wait()
		_, err := p.TenantInfo(ctx, "x")
		all, err2 := p.Namespaces(ctx, "x")
		if err2 != nil || err != nil && len(all) > 0 {
			t.Fatalf("tenant: %v, its namespaces: %v, %v", err, all, err2)
		}
		for _, n := range all {
			if err := p.DeleteNamespace(ctx, n); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A namespace is deleted while topics without partitions are created in it by use.
func TestNoTopicWithoutNamespace(t *testing.T) {
	ctx := context.Background()
	p, store := newPolicies(t, DefaultConfig())
	x := topicname.Namespace{Tenant: "public", Local: "x"}
	for range 50 {
		if err := p.CreateNamespace(ctx, x, Namespace{}); err != nil && status(err) != 409 {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				_, err := store.Commit(ctx, raftmeta.Txn{
					If:   []raftmeta.Cond{p.Stands(x)},
					Then: []raftmeta.Op{raftmeta.Put(fmt.Sprintf("chains/public/x/persistent/%d", i), nil)},
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if s := status(p.DeleteNamespace(ctx, x)); s != 200 && s != 409 {
				t.Errorf("delete: %d", s)
			}
		})
		wg.Wait()
		gone := p.CheckNamespace(ctx, x)
		all, _, err := store.Range(ctx, "chains/", "chains0", 0)
		if err != nil || gone != nil && len(all) > 0 {
			t.Fatalf("namespace: %v, its topics: %v, %v", gone, all, err)
		}
		if _, err := store.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.DeleteRange("chains/", "chains0")}}); err != nil {
			t.Fatal(err)
		}
	}
}

// A namespace is deleted while partitioned topics are created in it: never is one left without its namespace.
func TestNoPartitionedTopicWithoutNamespace(t *testing.T) {
	ctx := context.Background()
	p, _ := newPolicies(t, DefaultConfig())
	x := topicname.Namespace{Tenant: "public", Local: "x"}
	for range 50 {
		if err := p.CreateNamespace(ctx, x, Namespace{}); err != nil && status(err) != 409 {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				err := p.CreatePartitioned(ctx, topicname.Name{Tenant: "public", Namespace: "x", Local: fmt.Sprint(i)}, Partitioned{Partitions: 1})
				if s := status(err); s != 200 && s != 404 {
					t.Errorf("create: %v", err)
				}
			})
		}
		wg.Go(func() {
			if s := status(p.DeleteNamespace(ctx, x)); s != 200 && s != 409 {
				t.Errorf("delete: %d", s)
			}
		})
		wg.Wait()
		gone := p.CheckNamespace(ctx, x)
		all, err := p.PartitionedTopics(ctx, x, topicname.Persistent)
		if err != nil || gone != nil && len(all) > 0 {
			t.Fatalf("namespace: %v, its topics: %v, %v", gone, all, err)
		}
		for _, n := range all {
			if err := p.DeletePartitioned(ctx, n); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestDamagedRecordsAreErrors(t *testing.T) {
	ctx := context.Background()
	p, meta := newPolicies(t, DefaultConfig())
	for _, key := range []string{"tenants/public", "namespaces/public/default", "partitioned/" + name(t, "t").Key()} {
		if _, err := meta.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Put(key, []byte{0xff, 0xff})}}); err != nil {
			t.Fatal(err)
		}
	}
	_, err1 := p.TenantInfo(ctx, "public")
	_, err2 := p.NamespaceInfo(ctx, ns)
	_, _, err3 := p.Partitioned(ctx, name(t, "t"))
	for _, err := range []error{err1, err2, err3, p.CheckNamespace(ctx, ns), p.CheckCreate(ctx, name(t, "t"))} {
		if !errors.Is(err, serr.MetadataError) {
			t.Errorf("got %v, want MetadataError", err)
		}
	}
}
