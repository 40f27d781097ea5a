// Package policy keeps tenants, namespaces and partitioned topics in the metadata store, and answers what may be
// created.
//
// # Promises
//
// A namespace exists only under an existing tenant, and a partitioned topic only in an existing namespace: the
// transactions that create them hold as conditions that the parents are there, and those that delete the
// parents that nothing is left in them. Answers come from the store and not from a cache, so that what one
// request has changed the next one sees.
//
// All methods may be called by any goroutine. Errors are serr.Errors with Pulsar's texts for the admin API.
package policy

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/daybook/daybook/broker/internal/policy/policypb"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
)

// Config is what the broker's configuration says.
type Config struct {
	// Cluster is the name of this cluster.
	Cluster string
	// AllowAutoTopicCreation, and AutoPartitions > 0 for partitioned ones: whether and how clients create
	// topics by use (allowAutoTopicCreation, allowAutoTopicCreationType, defaultNumPartitions).
	AllowAutoTopicCreation bool
	AutoPartitions         int
	// AllowAutoSubscriptionCreation: whether clients create subscriptions by use.
	AllowAutoSubscriptionCreation bool
	// DefaultBundles is the number of bundles of a namespace that asks for none.
	DefaultBundles int
	// MaxPartitions bounds the partitions of a topic; 0 is no bound.
	MaxPartitions int
}

// DefaultConfig is Pulsar's, for the cluster "standalone".
func DefaultConfig() Config {
	return Config{
		Cluster: "standalone", AllowAutoTopicCreation: true, AllowAutoSubscriptionCreation: true, DefaultBundles: 4,
		MaxPartitions: 10000,
	}
}

// Policies is all tenants, namespaces and partitioned topics.
type Policies struct {
	meta raftmeta.Store
	cfg  Config
	now  func() time.Time
}

// New makes the policies; now is the clock for creation times.
func New(meta raftmeta.Store, cfg Config, now func() time.Time) *Policies {
	return &Policies{meta, cfg, now}
}

// Cluster is the name of this cluster.
func (p *Policies) Cluster() string { return p.cfg.Cluster }

const recordFormat = 1

// maxRetries bounds how often a change is made anew because another one came first.
const maxRetries = 20

func tenantKey(t string) string                  { return "tenants/" + t }
func namespaceKey(ns topicname.Namespace) string { return "namespaces/" + ns.String() }
func partitionedKey(n topicname.Name) string     { return "partitioned/" + n.Key() }

func failed(err error, what string) error {
	if _, ok := errors.AsType[*serr.Error](err); ok {
		return err
	}
	if errors.Is(err, raftmeta.ErrUnavailable) || errors.Is(err, raftmeta.ErrClosed) || errors.Is(err, raftmeta.ErrNoSpace) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return serr.From(err)
	}
	return serr.MetadataError.Wrapf(err, "metadata of %s cannot be used", what)
}

// Bootstrap creates what every cluster has: tenants public and pulsar, namespaces public/default and
// pulsar/system. What exists is left as it is.
func (p *Policies) Bootstrap(ctx context.Context) error {
	for _, t := range []string{"public", "pulsar"} {
		err := p.CreateTenant(ctx, t, Tenant{AllowedClusters: []string{p.cfg.Cluster}})
		if err != nil && serr.From(err).Status != http.StatusConflict {
			return err
		}
	}
	for _, ns := range []topicname.Namespace{{Tenant: "public", Local: "default"}, {Tenant: "pulsar", Local: "system"}} {
		err := p.CreateNamespace(ctx, ns, Namespace{})
		if err != nil && serr.From(err).Status != http.StatusConflict {
			return err
		}
	}
	return nil
}

// A Tenant is a tenant's settings.
type Tenant struct {
	AdminRoles      []string
	AllowedClusters []string
}

func tenantExists() error { return serr.NotAllowedError.Errorf("Tenant already exist") }
func noTenant() error     { return serr.TopicNotFound.Errorf("Tenant does not exist") }

func precondition(format string, args ...any) error {
	return serr.NotAllowedError.Errorf(format, args...).WithStatus(http.StatusPreconditionFailed)
}

func modified() error {
	return serr.ServiceNotReady.Errorf("Concurrent modification").WithStatus(http.StatusConflict)
}

// Tenants are the names of all tenants, in order.
func (p *Policies) Tenants(ctx context.Context) ([]string, error) {
	return p.names(ctx, "tenants/")
}

// names are the single path segments that follow prefix in keys.
func (p *Policies) names(ctx context.Context, prefix string) ([]string, error) {
	items, _, err := p.meta.Range(ctx, prefix, raftmeta.PrefixEnd(prefix), 0)
	if err != nil {
		return nil, failed(err, prefix)
	}
	out := make([]string, 0, len(items))
	for i := range items {
		if rest := items[i].Key[len(prefix):]; !strings.Contains(rest, "/") {
			out = append(out, rest)
		}
	}
	slices.Sort(out)
	return out, nil
}

// TenantInfo is the tenant's settings, TopicNotFound "Tenant does not exist" if there is none.
func (p *Policies) TenantInfo(ctx context.Context, tenant string) (Tenant, error) {
	r, _, err := p.tenant(ctx, tenant)
	if err != nil {
		return Tenant{}, err
	}
	return Tenant{AdminRoles: r.AdminRoles, AllowedClusters: r.AllowedClusters}, nil
}

func (p *Policies) tenant(ctx context.Context, tenant string) (*policypb.Tenant, raftmeta.Revision, error) {
	if topicname.CheckTenant(tenant) != nil {
		return nil, 0, noTenant()
	}
	it, err := p.meta.Get(ctx, tenantKey(tenant))
	if errors.Is(err, raftmeta.ErrNotFound) {
		return nil, 0, noTenant()
	}
	if err != nil {
		return nil, 0, failed(err, "tenant "+tenant)
	}
	r, err := decodeTenant(tenant, it.Value)
	return r, it.Mod, err
}

func decodeTenant(tenant string, b []byte) (*policypb.Tenant, error) {
	r := new(policypb.Tenant)
	if err := r.UnmarshalVT(b); err != nil || r.Format != recordFormat {
		return nil, serr.MetadataError.Wrapf(err, "the record of tenant %s is damaged (format %d)", tenant, r.Format)
	}
	return r, nil
}

func (p *Policies) checkClusters(clusters []string) error {
	if len(clusters) == 0 {
		return precondition("Clusters cannot be empty or blank")
	}
	for _, c := range clusters {
		if c != p.cfg.Cluster {
			return precondition("Clusters do not exist")
		}
	}
	return nil
}

// CreateTenant creates a tenant. One that exists is a NotAllowedError with status 409.
func (p *Policies) CreateTenant(ctx context.Context, tenant string, t Tenant) error {
	if topicname.CheckTenant(tenant) != nil {
		return precondition("Tenant name is not valid")
	}
	if err := p.checkClusters(t.AllowedClusters); err != nil {
		return err
	}
	b, err := (&policypb.Tenant{
		Format: recordFormat, Created: p.now().UnixMilli(), AdminRoles: t.AdminRoles, AllowedClusters: t.AllowedClusters,
	}).MarshalVT()
	if err != nil {
		return failed(err, "tenant "+tenant)
	}
	res, err := p.meta.Commit(ctx, raftmeta.Txn{
		If:   []raftmeta.Cond{raftmeta.Absent(tenantKey(tenant))},
		Then: []raftmeta.Op{raftmeta.Put(tenantKey(tenant), b)},
	})
	if err != nil {
		return failed(err, "tenant "+tenant)
	}
	if !res.OK {
		return tenantExists()
	}
	return nil
}

// UpdateTenant replaces a tenant's settings.
func (p *Policies) UpdateTenant(ctx context.Context, tenant string, t Tenant) error {
	if err := p.checkClusters(t.AllowedClusters); err != nil {
		return err
	}
	for range maxRetries {
		r, rev, err := p.tenant(ctx, tenant)
		if err != nil {
			return err
		}
		r.AdminRoles, r.AllowedClusters = t.AdminRoles, t.AllowedClusters
		b, err := r.MarshalVT()
		if err != nil {
			return failed(err, "tenant "+tenant)
		}
		res, err := p.meta.Commit(ctx, raftmeta.Txn{
			If:   []raftmeta.Cond{raftmeta.ModIs(tenantKey(tenant), rev)},
			Then: []raftmeta.Op{raftmeta.Put(tenantKey(tenant), b)},
		})
		if err != nil || res.OK {
			return failedOrNil(err, "tenant "+tenant)
		}
	}
	return modified()
}

func failedOrNil(err error, what string) error {
	if err == nil {
		return nil
	}
	return failed(err, what)
}

// DeleteTenant removes a tenant that has no namespaces.
func (p *Policies) DeleteTenant(ctx context.Context, tenant string) error {
	_, rev, err := p.tenant(ctx, tenant)
	if err != nil {
		return err
	}
	left, err := p.Namespaces(ctx, tenant)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return serr.NotAllowedError.Errorf("The tenant still has active namespaces")
	}
	// A namespace that is being created touches its tenant's record, so that one of the two fails.
	res, err := p.meta.Commit(ctx, raftmeta.Txn{
		If:   []raftmeta.Cond{raftmeta.ModIs(tenantKey(tenant), rev)},
		Then: []raftmeta.Op{raftmeta.Delete(tenantKey(tenant))},
	})
	if err != nil {
		return failed(err, "tenant "+tenant)
	}
	if !res.OK {
		return modified()
	}
	return nil
}

// A Namespace is a namespace's policies, those that are set.
type Namespace struct {
	ReplicationClusters []string
	Bundles             int
	Properties          map[string]string
	// AutoTopics overrides the broker's rule for topics created by use; nil where not set.
	AutoTopics *AutoTopics
	// AutoSubscriptions overrides the broker's rule for subscriptions created by use; nil where not set.
	AutoSubscriptions *bool
	// MaxTopics bounds the topics of the namespace, partitions counted; 0 is no limit.
	MaxTopics int
	Created   time.Time
}

// AutoTopics says whether clients may create topics by use, and with how many partitions; 0 are topics without.
type AutoTopics struct {
	Allowed    bool
	Partitions int
}

func noNamespace() error { return serr.TopicNotFound.Errorf("Namespace does not exist") }

func decodeNamespace(ns topicname.Namespace, b []byte) (*policypb.Namespace, error) {
	r := new(policypb.Namespace)
	if err := r.UnmarshalVT(b); err != nil || r.Format != recordFormat {
		return nil, serr.MetadataError.Wrapf(err, "the record of namespace %v is damaged (format %d)", ns, r.Format)
	}
	return r, nil
}

func (p *Policies) namespace(ctx context.Context, ns topicname.Namespace) (*policypb.Namespace, raftmeta.Revision, error) {
	if _, err := topicname.MakeNamespace(ns.Tenant, ns.Local); err != nil {
		return nil, 0, noNamespace()
	}
	it, err := p.meta.Get(ctx, namespaceKey(ns))
	if errors.Is(err, raftmeta.ErrNotFound) {
		return nil, 0, noNamespace()
	}
	if err != nil {
		return nil, 0, failed(err, "namespace "+ns.String())
	}
	r, err := decodeNamespace(ns, it.Value)
	if err != nil {
		return nil, 0, err
	}
	return r, it.Mod, nil
}

func toNamespace(r *policypb.Namespace) Namespace {
	n := Namespace{
		ReplicationClusters: r.ReplicationClusters, Bundles: int(r.Bundles), Properties: r.Properties,
		MaxTopics: int(r.MaxTopics), Created: time.UnixMilli(r.Created),
	}
	if a := r.AutoTopicCreation; a != nil {
		n.AutoTopics = &AutoTopics{Allowed: a.Allowed, Partitions: int(a.Partitions)}
	}
	if r.AutoSubscriptionCreation != 0 {
		allowed := r.AutoSubscriptionCreation == 1
		n.AutoSubscriptions = &allowed
	}
	return n
}

func fromNamespace(n Namespace) *policypb.Namespace {
	r := &policypb.Namespace{
		Format: recordFormat, Created: n.Created.UnixMilli(), ReplicationClusters: n.ReplicationClusters,
		Bundles: uint32(n.Bundles), Properties: n.Properties, MaxTopics: int32(n.MaxTopics),
	}
	if a := n.AutoTopics; a != nil {
		r.AutoTopicCreation = &policypb.Namespace_AutoTopicCreation{Allowed: a.Allowed, Partitions: int32(a.Partitions)}
	}
	if a := n.AutoSubscriptions; a != nil {
		r.AutoSubscriptionCreation = 2
		if *a {
			r.AutoSubscriptionCreation = 1
		}
	}
	return r
}

// Namespaces are the namespaces of a tenant, in order of their names. A tenant that does not exist has none.
func (p *Policies) Namespaces(ctx context.Context, tenant string) ([]topicname.Namespace, error) {
	if topicname.CheckTenant(tenant) != nil {
		return nil, nil
	}
	locals, err := p.names(ctx, "namespaces/"+tenant+"/")
	if err != nil {
		return nil, err
	}
	out := make([]topicname.Namespace, len(locals))
	for i, l := range locals {
		out[i] = topicname.Namespace{Tenant: tenant, Local: l}
	}
	return out, nil
}

// NamespaceInfo is the namespace's policies, TopicNotFound "Namespace does not exist" if there is none.
func (p *Policies) NamespaceInfo(ctx context.Context, ns topicname.Namespace) (Namespace, error) {
	r, _, err := p.namespace(ctx, ns)
	if err != nil {
		return Namespace{}, err
	}
	return toNamespace(r), nil
}

// CreateNamespace creates a namespace under an existing tenant. One that exists is a NotAllowedError with
// status 409.
func (p *Policies) CreateNamespace(ctx context.Context, ns topicname.Namespace, n Namespace) error {
	if _, err := topicname.MakeNamespace(ns.Tenant, ns.Local); err != nil {
		return precondition("Namespace name is not valid")
	}
	if n.Bundles == 0 {
		n.Bundles = p.cfg.DefaultBundles
	}
	if n.Bundles < 1 || n.Bundles > 1024 {
		return serr.NotAllowedError.Errorf("Invalid number of bundles. Number of bundles has to be in the range of (0, 1024].").WithStatus(http.StatusBadRequest)
	}
	if len(n.ReplicationClusters) == 0 {
		n.ReplicationClusters = []string{p.cfg.Cluster}
	}
	for _, c := range n.ReplicationClusters {
		if c != p.cfg.Cluster {
			return serr.NotAllowedError.Errorf("Invalid cluster id: %s", c).WithStatus(http.StatusForbidden)
		}
	}
	n.Created = p.now()
	b, err := fromNamespace(n).MarshalVT()
	if err != nil {
		return failed(err, "namespace "+ns.String())
	}
	for range maxRetries {
		t, rev, err := p.tenant(ctx, ns.Tenant)
		if err != nil {
			return err
		}
		if _, _, err := p.namespace(ctx, ns); err == nil {
			return serr.NotAllowedError.Errorf("Namespace already exists")
		} else if !errors.Is(err, serr.TopicNotFound) {
			return err
		}
		tb, err := t.MarshalVT()
		if err != nil {
			return failed(err, "tenant "+ns.Tenant)
		}
		res, err := p.meta.Commit(ctx, raftmeta.Txn{
			If:   []raftmeta.Cond{raftmeta.ModIs(tenantKey(ns.Tenant), rev), raftmeta.Absent(namespaceKey(ns))},
			Then: []raftmeta.Op{raftmeta.Put(tenantKey(ns.Tenant), tb), raftmeta.Put(namespaceKey(ns), b)},
		})
		if err != nil || res.OK {
			return failedOrNil(err, "namespace "+ns.String())
		}
	}
	return modified()
}

// UpdateNamespace changes a namespace's policies: change is called with those that are set, perhaps several
// times, and its error, if any, is returned.
func (p *Policies) UpdateNamespace(ctx context.Context, ns topicname.Namespace, change func(*Namespace) error) error {
	for range maxRetries {
		r, rev, err := p.namespace(ctx, ns)
		if err != nil {
			return err
		}
		n := toNamespace(r)
		n.Properties = maps.Clone(n.Properties)
		if err := change(&n); err != nil {
			return err
		}
		b, err := fromNamespace(n).MarshalVT()
		if err != nil {
			return failed(err, "namespace "+ns.String())
		}
		res, err := p.meta.Commit(ctx, raftmeta.Txn{
			If:   []raftmeta.Cond{raftmeta.ModIs(namespaceKey(ns), rev)},
			Then: []raftmeta.Op{raftmeta.Put(namespaceKey(ns), b)},
		})
		if err != nil || res.OK {
			return failedOrNil(err, "namespace "+ns.String())
		}
	}
	return modified()
}

// DeleteNamespace removes a namespace that has no topics: neither partitioned topics nor stored ones.
func (p *Policies) DeleteNamespace(ctx context.Context, ns topicname.Namespace) error {
	_, rev, err := p.namespace(ctx, ns)
	if err != nil {
		return err
	}
	// Whoever creates a topic does so on the condition that the namespace stands, so that one of the two fails.
	conds := []raftmeta.Cond{raftmeta.ModIs(namespaceKey(ns), rev)}
	for _, prefix := range []string{"chains/" + ns.String() + "/", "partitioned/" + ns.String() + "/"} {
		items, _, err := p.meta.Range(ctx, prefix, raftmeta.PrefixEnd(prefix), 1)
		if err != nil {
			return failed(err, "namespace "+ns.String())
		}
		if len(items) > 0 {
			return serr.NotAllowedError.Errorf("Cannot delete non empty namespace")
		}
		conds = append(conds, raftmeta.NoneUnder(prefix))
	}
	res, err := p.meta.Commit(ctx, raftmeta.Txn{
		If:   conds,
		Then: []raftmeta.Op{raftmeta.Delete(namespaceKey(ns)), raftmeta.DeleteRange("schemas/"+ns.String()+"/", raftmeta.PrefixEnd("schemas/"+ns.String()+"/"))},
	})
	if err != nil {
		return failed(err, "namespace "+ns.String())
	}
	if !res.OK {
		return modified()
	}
	return nil
}
