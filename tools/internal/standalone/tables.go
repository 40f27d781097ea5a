package standalone

import (
	"context"
	"errors"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/server"
	"github.com/daybook/daybook/ledgerfs/schema"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/query/catalog"
)

// tables shows the broker's topics to the query engine.
type tables struct{ broker *server.Server }

func (t tables) Namespaces(ctx context.Context) ([]string, error) {
	tenants, err := t.broker.Tenants(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, tenant := range tenants {
		nss, err := t.broker.Namespaces(ctx, tenant)
		if err != nil {
			return nil, err
		}
		for _, ns := range nss {
			out = append(out, ns.String())
		}
	}
	return out, nil
}

func (t tables) Topics(ctx context.Context, namespace string) ([]catalog.Topic, error) {
	ns, err := topicname.ParseNamespace(namespace)
	if err != nil {
		return nil, catalog.ErrNotFound
	}
	stored, err := t.broker.StoredTopics(ctx, ns)
	if errors.Is(err, serr.TopicNotFound) {
		return nil, catalog.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	parted, err := t.broker.PartitionedTopics(ctx, ns)
	if err != nil {
		return nil, err
	}
	out := make([]catalog.Topic, 0, len(stored))
	for n, partitions := range parted {
		out = append(out, catalog.Topic{Name: n.Local, Partitions: partitions})
	}
	for _, n := range stored {
		if _, part := parted[n.Base()]; n.Domain == topicname.Persistent && !(part && n.Partition() >= 0) {
			out = append(out, catalog.Topic{Name: n.Local})
		}
	}
	return out, nil
}

func (t tables) Schema(ctx context.Context, namespace, local string) (*catalog.Schema, error) {
	n, err := tableName(namespace, local)
	if err != nil {
		return nil, err
	}
	st, err := t.broker.Schema(ctx, n)
	if err != nil || st == nil {
		return nil, err
	}
	return tableSchema(st), nil
}

func (t tables) SchemaVersion(ctx context.Context, namespace, local string, version []byte) (*catalog.Schema, error) {
	n, err := tableName(namespace, local)
	if err != nil {
		return nil, err
	}
	st, err := t.broker.SchemaVersion(ctx, n, version)
	if errors.Is(err, serr.TopicNotFound) {
		return nil, catalog.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return tableSchema(st), nil
}

func tableName(namespace, local string) (topicname.Name, error) {
	ns, err := topicname.ParseNamespace(namespace)
	if err != nil {
		return topicname.Name{}, catalog.ErrNotFound
	}
	n, err := ns.Topic(topicname.Persistent, local)
	if err != nil {
		return topicname.Name{}, catalog.ErrNotFound
	}
	return n, nil
}

func tableSchema(st *schema.Stored) *catalog.Schema {
	return &catalog.Schema{Type: st.Info.Type.String(), Data: st.Info.Data, Properties: st.Info.Properties}
}
