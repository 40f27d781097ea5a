package adminapi

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

const (
	domainPath = "/admin/v2/{domain}/{tenant}/{namespace}"
	topicPath  = domainPath + "/{topic}"
)

// messageID is Pulsar's MessageId as the admin API shows it.
type messageID struct {
	Ledger    ledgerfs.LedgerID `json:"ledgerId"`
	Entry     ledgerfs.EntryID  `json:"entryId"`
	Partition int               `json:"partitionIndex"`
}

// batchMessageID is a message id with its place in a batch.
type batchMessageID struct {
	messageID
	BatchIndex int32 `json:"batchIndex"`
	BatchSize  int32 `json:"batchSize"`
}

// list are the persistent topics of a namespace, partitions one by one.
func (a *api) list(r *request, ns topicname.Namespace) ([]string, error) {
	all, err := a.Topics.List(r.Context(), ns)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(all))
	for _, n := range all {
		if n.Domain == topicname.Persistent && (!isSystem(n) || r.flag("includeSystemTopic")) {
			out = append(out, n.String())
		}
	}
	slices.Sort(out)
	return out, nil
}

// isSystem reports whether the topic is one of those that Pulsar keeps for itself.
func isSystem(n topicname.Name) bool {
	switch n.Base().Local {
	case "__change_events", "__transaction_buffer_snapshot", "__transaction_buffer_snapshot_segments",
		"__transaction_buffer_snapshot_indexes", "transaction_coordinator_assign", "__transaction_log_", "__transaction_pending_ack":
		return true
	}
	return false
}

func (a *api) topics() {
	a.routes.add("GET", domainPath, func(r *request) (any, error) {
		d, err := topicname.ParseDomain(r.text("domain"))
		if err != nil {
			return nil, failure(http.StatusNotFound, "HTTP 404 Not Found")
		}
		ns, _, err := r.existingNamespace()
		if err != nil {
			return nil, err
		}
		if d == topicname.NonPersistent {
			return []string{}, nil
		}
		return a.list(r, ns)
	})
	a.routes.add("PUT", topicPath, func(r *request) (any, error) {
		n, err := r.topicName()
		if err != nil {
			return nil, err
		}
		if n.Domain == topicname.NonPersistent {
			return nil, failure(http.StatusMethodNotAllowed, "Topic %v is not persistent, and only persistent topics are served", n)
		}
		var properties map[string]string
		if _, err := r.decode(&properties); err != nil {
			return nil, err
		}
		if err := n.CanCreate(); err != nil {
			return nil, serr.InvalidTopicName.Wrapf(err, "Topic name is not valid")
		}
		p, err := a.Policies.NamespaceInfo(r.Context(), n.NamespaceName())
		if errors.Is(err, serr.TopicNotFound) {
			err = failure(http.StatusNotFound, "Namespace not found")
		}
		if err != nil {
			return nil, err
		}
		base, partitioned, err := a.Policies.Partitioned(r.Context(), n.Base())
		if err != nil {
			return nil, err
		}
		if i := n.Partition(); i >= 0 && !(partitioned && i < base.Partitions) {
			// A partition exists with its partitioned topic, or not at all.
			return nil, failure(http.StatusPreconditionFailed, "Can't create topic %v with \"-partition-\" followed by a number", n)
		} else if i < 0 && partitioned {
			return nil, failure(http.StatusConflict, "This topic already exists")
		}
		if exists, err := a.Topics.Exists(r.Context(), n); err != nil || exists {
			if err != nil {
				return nil, err
			}
			return nil, failure(http.StatusConflict, "This topic already exists")
		}
		if err := a.Policies.CheckLimit(r.Context(), n.NamespaceName(), p, 1); err != nil {
			return nil, err
		}
		_, err = a.Topics.Topic(r.Context(), n, topics.Options{Create: true, Explicit: true, Properties: properties})
		return nil, err
	})
	a.routes.add("DELETE", topicPath, func(r *request) (any, error) {
		n, partitions, err := r.knownTopic()
		if err != nil {
			return nil, err
		}
		if partitions > 0 {
			return nil, failure(http.StatusConflict, "%v is a partitioned topic. Instead of calling delete topic please call delete-partitioned-topic.", n)
		}
		return nil, a.delete(r.Context(), n, r.flag("force"))
	})
	a.topicGet("stats", func(r *request, t Topic) (any, error) { return a.topicStats(t, statsOptions(r)), nil })
	a.topicGet("internalStats", func(_ *request, t Topic) (any, error) { return internalStats(t), nil })
	a.topicGetAny("lastMessageId", func(r *request, t Topic) (any, error) {
		m, err := t.LastMessageID(r.Context())
		if err != nil {
			return nil, err
		}
		return batchMessageID{messageID{m.Position.Ledger, m.Position.Entry, t.Name().Partition()}, m.BatchIndex, 0}, nil
	})
	a.topicGetAny("compaction", func(*request, Topic) (any, error) {
		return map[string]string{"status": "NOT_RUN", "lastError": ""}, nil
	})
	a.topicGetAny("offload", func(*request, Topic) (any, error) {
		return map[string]any{
			"status": "NOT_RUN", "lastError": "", "firstUnoffloadedMessage": batchMessageID{messageID{-1, -1, -1}, -1, 0},
		}, nil
	})
	a.routes.add("POST", topicPath+"/terminate", func(r *request) (any, error) {
		t, err := r.openUnpartitioned("Termination of a partitioned topic is not allowed")
		if err != nil {
			return nil, err
		}
		p, err := t.Terminate(r.Context())
		return messageID{p.Ledger, p.Entry, t.Name().Partition()}, err
	})
	a.routes.add("POST", topicPath+"/terminate/partitions", func(r *request) (any, error) {
		n, partitions, err := r.knownTopic()
		if err != nil {
			return nil, err
		}
		if partitions == 0 {
			return nil, failure(http.StatusMethodNotAllowed, "Termination of a non-partitioned topic is not allowed using partitioned-terminate, please use terminate commands")
		}
		out := make(map[int]messageID, partitions)
		for _, p := range names(n, partitions) {
			t, err := a.open(r.Context(), p)
			if err != nil {
				return nil, err
			}
			at, err := t.Terminate(r.Context())
			if err != nil {
				return nil, err
			}
			out[p.Partition()] = messageID{at.Ledger, at.Entry, p.Partition()}
		}
		return out, nil
	})
	a.routes.add("PUT", topicPath+"/unload", func(r *request) (any, error) {
		n, partitions, err := r.knownTopic()
		if err != nil {
			return nil, err
		}
		for _, p := range names(n, partitions) {
			if exists, err := a.Topics.Exists(r.Context(), p); err != nil || !exists {
				if err == nil {
					err = topicNotFound(p)
				}
				return nil, err
			}
			if err := a.Topics.Unload(r.Context(), p); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	a.routes.add("GET", topicPath+"/properties", func(r *request) (any, error) {
		n, err := r.topicName()
		if err != nil {
			return nil, err
		}
		t, partitioned, err := a.Policies.Partitioned(r.Context(), n)
		if err != nil {
			return nil, err
		}
		if partitioned {
			if t.Properties == nil {
				return unset{}, nil
			}
			return t.Properties, nil
		}
		open, err := a.open(r.Context(), n)
		if err != nil {
			return nil, err
		}
		return merge(nil, open.InternalStats().Properties), nil
	})
	a.routes.add("PUT", topicPath+"/properties", func(r *request) (any, error) {
		var set map[string]string
		if _, err := r.decode(&set); err != nil {
			return nil, err
		}
		return nil, r.changeProperties(func(p map[string]string) { maps.Copy(p, set) })
	})
	a.routes.add("DELETE", topicPath+"/properties", func(r *request) (any, error) {
		return nil, r.changeProperties(func(p map[string]string) { delete(p, r.query.Get("key")) })
	})
}

// changeProperties changes the properties of the topic that the route names, or of its record if it is partitioned.
// change may be called several times.
func (r *request) changeProperties(change func(map[string]string)) error {
	n, partitions, err := r.knownTopic()
	if err != nil {
		return err
	}
	if partitions > 0 {
		return r.api.Policies.UpdatePartitioned(r.Context(), n, func(t *partitionedTopic) error {
			t.Properties = merge(nil, t.Properties)
			change(t.Properties)
			return nil
		})
	}
	t, err := r.api.open(r.Context(), n)
	if err != nil {
		return err
	}
	return t.UpdateProperties(r.Context(), change)
}

// delete removes a topic, and its schemas with it if no other topic uses them.
func (a *api) delete(ctx context.Context, n topicname.Name, force bool) error {
	err := a.Topics.Delete(ctx, n, force)
	if errors.Is(err, serr.TopicNotFound) {
		return topicNotFound(n)
	}
	if err != nil {
		return err
	}
	if n.Partition() >= 0 {
		if _, partitioned, err := a.Policies.Partitioned(ctx, n.Base()); err != nil || partitioned {
			return err
		}
	}
	return a.Schemas.Forget(ctx, n)
}

// topicGetAny is topicGet for the calls where Pulsar does not tell a missing namespace from a missing topic.
func (a *api) topicGetAny(path string, h func(*request, Topic) (any, error)) {
	a.routes.add("GET", topicPath+"/"+path, func(r *request) (any, error) {
		n, err := r.topicName()
		if err != nil {
			return nil, err
		}
		t, err := a.open(r.Context(), n)
		if err != nil {
			return nil, err
		}
		return h(r, t)
	})
}

// topicGet adds a GET under the path of a topic that exists and is not partitioned.
func (a *api) topicGet(path string, h func(*request, Topic) (any, error)) {
	a.routes.add("GET", topicPath+"/"+path, func(r *request) (any, error) {
		t, err := r.openTopic()
		if err != nil {
			return nil, err
		}
		return h(r, t)
	})
}

// sortedKeys are the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
