package policy

import (
	"context"
	"errors"
	"maps"
	"net/http"

	"github.com/daybook/daybook/broker/internal/policy/policypb"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
)

// Partitioned is the record of a partitioned topic.
type Partitioned struct {
	Partitions int // at least 1
	Properties map[string]string
}

func (p *Policies) partitioned(ctx context.Context, n topicname.Name) (*policypb.PartitionedTopic, raftmeta.Revision, error) {
	it, err := p.meta.Get(ctx, partitionedKey(n))
	if errors.Is(err, raftmeta.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, failed(err, n.String())
	}
	r, err := decodePartitioned(n, it.Value)
	return r, it.Mod, err
}

func decodePartitioned(n topicname.Name, b []byte) (*policypb.PartitionedTopic, error) {
	r := new(policypb.PartitionedTopic)
	if err := r.UnmarshalVT(b); err != nil || r.Format != recordFormat || r.Partitions < 1 {
		return nil, serr.MetadataError.Wrapf(err, "the record of partitioned topic %v is damaged (format %d)", n, r.Format)
	}
	return r, nil
}

// Partitioned is the record of the partitioned topic; ok is false if n is none.
func (p *Policies) Partitioned(ctx context.Context, n topicname.Name) (t Partitioned, ok bool, err error) {
	r, _, err := p.partitioned(ctx, n)
	if err != nil || r == nil {
		return Partitioned{}, false, err
	}
	return Partitioned{Partitions: int(r.Partitions), Properties: r.Properties}, true, nil
}

// PartitionedTopics are the partitioned topics of a namespace, in order of their names.
func (p *Policies) PartitionedTopics(ctx context.Context, ns topicname.Namespace, d topicname.Domain) ([]topicname.Name, error) {
	prefix := "partitioned/" + ns.String() + "/" + d.String() + "/"
	items, _, err := p.meta.Range(ctx, prefix, raftmeta.PrefixEnd(prefix), 0)
	if err != nil {
		return nil, failed(err, "namespace "+ns.String())
	}
	out := make([]topicname.Name, 0, len(items))
	for i := range items {
		n, err := topicname.ParseKey(items[i].Key[len("partitioned/"):])
		if err != nil {
			return nil, serr.MetadataError.Wrapf(err, "the list of partitioned topics of %v is damaged", ns)
		}
		out = append(out, n)
	}
	return out, nil
}

func (p *Policies) checkPartitions(n int) error {
	if n < 1 {
		return serr.NotAllowedError.Errorf("Number of partitions should be more than 0").WithStatus(http.StatusNotAcceptable)
	}
	if p.cfg.MaxPartitions > 0 && n > p.cfg.MaxPartitions {
		return serr.NotAllowedError.Errorf("Number of partitions should be less than or equal to %d", p.cfg.MaxPartitions).WithStatus(http.StatusNotAcceptable)
	}
	return nil
}

// CreatePartitioned stores a partitioned topic; the partitions themselves are topics of their own and created
// elsewhere. One that exists, or a topic of that name, is a NotAllowedError with status 409.
func (p *Policies) CreatePartitioned(ctx context.Context, n topicname.Name, t Partitioned) error {
	if err := n.CanCreate(); err != nil || n.Partition() >= 0 {
		return serr.InvalidTopicName.Wrapf(err, "Partitioned Topic Name should not contain '-partition-'")
	}
	if err := p.checkPartitions(t.Partitions); err != nil {
		return err
	}
	b, err := (&policypb.PartitionedTopic{
		Format: recordFormat, Created: p.now().UnixMilli(), Partitions: int32(t.Partitions), Properties: t.Properties,
	}).MarshalVT()
	if err != nil {
		return failed(err, n.String())
	}
	nsKey := namespaceKey(n.NamespaceName())
	for range maxRetries {
		ns, rev, err := p.namespace(ctx, n.NamespaceName())
		if err != nil {
			return err
		}
		if _, ok, err := p.Partitioned(ctx, n); err != nil {
			return err
		} else if ok {
			return serr.NotAllowedError.Errorf("This topic already exists")
		}
		if _, err := p.meta.Get(ctx, "chains/"+n.Key()); err == nil {
			return serr.NotAllowedError.Errorf("This topic already exists")
		} else if !errors.Is(err, raftmeta.ErrNotFound) {
			return failed(err, n.String())
		}
		nb, err := ns.MarshalVT()
		if err != nil {
			return failed(err, n.String())
		}
		// The namespace's record is touched, so that a deletion of the namespace that has looked already fails.
		res, err := p.meta.Commit(ctx, raftmeta.Txn{
			If: []raftmeta.Cond{
				raftmeta.ModIs(nsKey, rev), raftmeta.Absent(partitionedKey(n)), raftmeta.Absent("chains/" + n.Key()),
			},
			Then: []raftmeta.Op{raftmeta.Put(nsKey, nb), raftmeta.Put(partitionedKey(n), b)},
		})
		if err != nil || res.OK {
			return failedOrNil(err, n.String())
		}
	}
	return modified()
}

// UpdatePartitioned changes the record of a partitioned topic: change is called with what is stored, perhaps
// several times, and its error, if any, is returned. The partitions can only become more.
func (p *Policies) UpdatePartitioned(ctx context.Context, n topicname.Name, change func(*Partitioned) error) error {
	for range maxRetries {
		r, rev, err := p.partitioned(ctx, n)
		if err != nil {
			return err
		}
		if r == nil {
			return serr.TopicNotFound.Errorf("Topic %v is not the partitioned topic.", n).WithStatus(http.StatusConflict)
		}
		t := Partitioned{Partitions: int(r.Partitions), Properties: maps.Clone(r.Properties)}
		if err := change(&t); err != nil {
			return err
		}
		if err := p.checkPartitions(t.Partitions); err != nil {
			return err
		}
		if t.Partitions < int(r.Partitions) {
			return serr.NotAllowedError.Errorf("Expect partitions %d can't less than current partitions %d.", t.Partitions, r.Partitions).
				WithStatus(http.StatusUnprocessableEntity)
		}
		r.Partitions, r.Properties = int32(t.Partitions), t.Properties
		b, err := r.MarshalVT()
		if err != nil {
			return failed(err, n.String())
		}
		res, err := p.meta.Commit(ctx, raftmeta.Txn{
			If:   []raftmeta.Cond{raftmeta.ModIs(partitionedKey(n), rev)},
			Then: []raftmeta.Op{raftmeta.Put(partitionedKey(n), b)},
		})
		if err != nil || res.OK {
			return failedOrNil(err, n.String())
		}
	}
	return modified()
}

// DeletePartitioned removes the record of a partitioned topic. It is no error if there is none.
func (p *Policies) DeletePartitioned(ctx context.Context, n topicname.Name) error {
	_, err := p.meta.Commit(ctx, raftmeta.Txn{Then: []raftmeta.Op{raftmeta.Delete(partitionedKey(n))}})
	return failedOrNil(err, n.String())
}

// CheckNamespace fails if the tenant or the namespace does not exist (TopicNotFound "Namespace not found").
func (p *Policies) CheckNamespace(ctx context.Context, ns topicname.Namespace) error {
	_, _, err := p.namespace(ctx, ns)
	if errors.Is(err, serr.TopicNotFound) {
		return serr.TopicNotFound.Errorf("Namespace not found")
	}
	return err
}

// Stands is the condition under which a topic of the namespace may be created: that the namespace exists.
func (p *Policies) Stands(ns topicname.Namespace) raftmeta.Cond {
	return raftmeta.Present(namespaceKey(ns))
}

// CheckCreate fails if a client's use of the topic must not create it: TopicNotFound where automatic creation is
// off; NotAllowedError for a partition that its partitioned topic does not have, for the name of a partitioned
// topic itself, and above the namespace's limit of topics.
func (p *Policies) CheckCreate(ctx context.Context, n topicname.Name) error {
	if err := n.CanCreate(); err != nil {
		return serr.InvalidTopicName.Wrapf(err, "Topic name is not valid")
	}
	r, _, err := p.namespace(ctx, n.NamespaceName())
	if errors.Is(err, serr.TopicNotFound) {
		return serr.TopicNotFound.Errorf("Namespace not found")
	}
	if err != nil {
		return err
	}
	ns := toNamespace(r)
	t, ok, err := p.Partitioned(ctx, n.Base())
	if err != nil {
		return err
	}
	if ok {
		part := n.Partition()
		if part < 0 {
			return serr.NotAllowedError.Errorf("Topic %v is a partitioned topic", n)
		}
		if part >= t.Partitions {
			return serr.NotAllowedError.Errorf("Illegal topic partition name %v with max allowed %d partitions", n, t.Partitions)
		}
		return nil // its creation was decided with the partitioned topic's
	}
	if !p.autoTopics(ns).Allowed {
		return serr.TopicNotFound.Errorf("Topic %v not found", n)
	}
	return p.CheckLimit(ctx, n.NamespaceName(), ns, 1)
}

// CheckLimit fails if the namespace, whose policies are given, has no room for more topics.
func (p *Policies) CheckLimit(ctx context.Context, name topicname.Namespace, ns Namespace, more int) error {
	if ns.MaxTopics <= 0 {
		return nil
	}
	prefix := "chains/" + name.String() + "/"
	items, _, err := p.meta.Range(ctx, prefix, raftmeta.PrefixEnd(prefix), ns.MaxTopics)
	if err != nil {
		return failed(err, "namespace "+name.String())
	}
	if len(items)+more > ns.MaxTopics {
		return precondition("Exceed maximum number of topics in namespace.")
	}
	return nil
}

func (p *Policies) autoTopics(ns Namespace) AutoTopics {
	if ns.AutoTopics != nil {
		return *ns.AutoTopics
	}
	return AutoTopics{Allowed: p.cfg.AllowAutoTopicCreation, Partitions: p.cfg.AutoPartitions}
}

// AllowSubscriptionCreation says whether a client's SUBSCRIBE may create a subscription.
func (p *Policies) AllowSubscriptionCreation(ctx context.Context, n topicname.Name) (bool, error) {
	r, _, err := p.namespace(ctx, n.NamespaceName())
	if err != nil {
		return false, err
	}
	if ns := toNamespace(r); ns.AutoSubscriptions != nil {
		return *ns.AutoSubscriptions, nil
	}
	return p.cfg.AllowAutoSubscriptionCreation, nil
}

// PartitionsFor answers a client that asks how many partitions a topic has before it uses it: 0 for a topic
// without partitions, and for one that does not exist. Where topics are created by use with partitions, create
// says that this question creates them (PARTITIONED_METADATA with metadata_auto_creation_enabled), unless
// exists says that there is a topic of the name without partitions.
func (p *Policies) PartitionsFor(ctx context.Context, n topicname.Name, create, exists bool) (int, error) {
	r, _, err := p.namespace(ctx, n.NamespaceName())
	if errors.Is(err, serr.TopicNotFound) {
		return 0, serr.TopicNotFound.Errorf("Namespace not found")
	}
	if err != nil {
		return 0, err
	}
	t, ok, err := p.Partitioned(ctx, n)
	if err != nil || ok {
		return t.Partitions, err
	}
	auto := p.autoTopics(toNamespace(r))
	if !create || exists || !auto.Allowed || auto.Partitions == 0 || n.Partition() >= 0 {
		return 0, nil
	}
	if err := p.CheckLimit(ctx, n.NamespaceName(), toNamespace(r), auto.Partitions); err != nil {
		return 0, err
	}
	err = p.CreatePartitioned(ctx, n, Partitioned{Partitions: auto.Partitions})
	if err != nil && serr.From(err).Status != http.StatusConflict {
		return 0, err
	}
	t, _, err = p.Partitioned(ctx, n) // of whoever came first
	return t.Partitions, err
}
