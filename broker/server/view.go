package server

import (
	"context"
	"errors"

	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/schema"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
)

// What a broker tells those who only read in the same process: SQL and the file tree. Errors are serr.Errors,
// but for topicread.ErrNotFound where said.

// Tenants lists the tenants.
func (s *Server) Tenants(ctx context.Context) ([]string, error) { return s.policies.Tenants(ctx) }

// Namespaces lists the namespaces of a tenant; a tenant that does not exist has none.
func (s *Server) Namespaces(ctx context.Context, tenant string) ([]topicname.Namespace, error) {
	return s.policies.Namespaces(ctx, tenant)
}

// StoredTopics lists the persistent topics of a namespace that hold messages themselves: plain topics and
// partitions. TopicNotFound if there is no such namespace.
func (s *Server) StoredTopics(ctx context.Context, ns topicname.Namespace) ([]topicname.Name, error) {
	if err := s.policies.CheckNamespace(ctx, ns); err != nil {
		return nil, err
	}
	return s.topics.List(ctx, ns)
}

// PartitionedTopics lists the partitioned persistent topics of a namespace with their numbers of partitions.
func (s *Server) PartitionedTopics(ctx context.Context, ns topicname.Namespace) (map[topicname.Name]int, error) {
	names, err := s.policies.PartitionedTopics(ctx, ns, topicname.Persistent)
	if err != nil {
		return nil, err
	}
	out := make(map[topicname.Name]int, len(names))
	for _, n := range names {
		p, ok, err := s.policies.Partitioned(ctx, n)
		if err != nil {
			return nil, err
		}
		if ok {
			out[n] = p.Partitions
		}
	}
	return out, nil
}

// Schema is the newest schema of a topic, nil if it has none.
func (s *Server) Schema(ctx context.Context, n topicname.Name) (*schema.Stored, error) {
	st, err := s.schemas.Latest(ctx, n.Base())
	if errors.Is(err, serr.TopicNotFound) {
		return nil, nil
	}
	return st, err
}

// SchemaVersion is the schema of a version as messages carry it, also if it was deleted; TopicNotFound if there
// never was one.
func (s *Server) SchemaVersion(ctx context.Context, n topicname.Name, version []byte) (*schema.Stored, error) {
	v, err := schema.ParseVersion(version)
	if err != nil {
		return nil, serr.TopicNotFound.Wrapf(err, "Schema not found")
	}
	return s.schemas.Decoder(ctx, n.Base(), v)
}

// CreateTopic makes a topic exist as its use by a client does, if the policies allow that.
func (s *Server) CreateTopic(ctx context.Context, n topicname.Name) error {
	_, err := s.topics.Topic(ctx, n, topics.Options{Create: true})
	return err
}

// Fence implements topicread.FenceSource: it loads the topic if need be, and never creates one.
func (s *Server) Fence(ctx context.Context, n topicname.Name) (chain.Fence, error) {
	t, err := s.loaded(ctx, n)
	if err != nil {
		return chain.Fence{}, err
	}
	return t.Ledger().Fence(), nil
}

func (s *Server) loaded(ctx context.Context, n topicname.Name) (*topic.Topic, error) {
	t, err := s.topics.Topic(ctx, n, topics.Options{})
	if errors.Is(err, serr.TopicNotFound) {
		return nil, topicread.ErrNotFound
	}
	return t, err
}

// Ledger is the managed ledger of a topic, for those who follow its growth. It loads the topic if need be;
// topicread.ErrNotFound if it does not exist. The ledger may be closed at any time, by an unload for instance: then
// its listeners are told, and Ledger is to be called again.
func (s *Server) Ledger(ctx context.Context, n topicname.Name) (*mledger.Ledger, error) {
	t, err := s.loaded(ctx, n)
	if err != nil {
		return nil, err
	}
	return t.Ledger(), nil
}
