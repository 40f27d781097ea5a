package adminapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/daybook/daybook/broker/internal/policy"
	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/internal/topics"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

type partitionedTopic = policy.Partitioned

// partitionedMetadata is Pulsar's PartitionedTopicMetadata.
type partitionedMetadata struct {
	Partitions int               `json:"partitions"`
	Deleted    bool              `json:"deleted"`
	Properties map[string]string `json:"properties,omitempty"`
}

func (a *api) partitions() {
	a.routes.add("GET", domainPath+"/partitioned", func(r *request) (any, error) {
		d, err := topicname.ParseDomain(r.text("domain"))
		if err != nil {
			return nil, failure(http.StatusNotFound, "HTTP 404 Not Found")
		}
		ns, _, err := r.existingNamespace()
		if err != nil {
			return nil, err
		}
		all, err := a.Policies.PartitionedTopics(r.Context(), ns, d)
		out := make([]string, 0, len(all))
		for _, n := range all {
			if !isSystem(n) || r.flag("includeSystemTopic") {
				out = append(out, n.String())
			}
		}
		return out, err
	})
	const path = topicPath + "/partitions"
	a.routes.add("GET", path, a.getPartitions)
	a.routes.add("PUT", path, a.createPartitions)
	a.routes.add("POST", path, a.updatePartitions)
	a.routes.add("DELETE", path, a.deletePartitions)
	a.routes.add("POST", topicPath+"/createMissedPartitions", func(r *request) (any, error) {
		n, partitions, err := r.knownTopic()
		if err != nil {
			return nil, err
		}
		if partitions == 0 {
			return nil, nil
		}
		return nil, a.makePartitions(r, n, 0, partitions)
	})
	a.routes.add("GET", topicPath+"/partitioned-stats", func(r *request) (any, error) {
		n, partitions, err := r.knownTopic()
		if err != nil {
			return nil, err
		}
		if partitions == 0 {
			return nil, failure(http.StatusNotFound, "Partitioned Topic %v not found", n)
		}
		each := make(map[string]*topicStats, partitions)
		for _, p := range names(n, partitions) {
			t, err := a.open(r.Context(), p)
			if errors.Is(err, serr.TopicNotFound) {
				continue // not created yet
			}
			if err != nil {
				return nil, err
			}
			each[p.String()] = a.topicStats(t, statsOptions(r))
		}
		out := partitionedStats{topicStats: sum(each), Metadata: partitionedMetadata{Partitions: partitions}, Partitions: each}
		if r.query.Get("perPartition") == "false" {
			out.Partitions = map[string]*topicStats{}
		}
		return out, nil
	})
	a.routes.add("GET", topicPath+"/partitioned-internalStats", func(r *request) (any, error) {
		n, partitions, err := r.knownTopic()
		if err != nil {
			return nil, err
		}
		if partitions == 0 {
			return nil, failure(http.StatusNotFound, "Partitioned Topic %v not found", n)
		}
		each := make(map[string]internalTopicStats, partitions)
		for _, p := range names(n, partitions) {
			t, err := a.open(r.Context(), p)
			if errors.Is(err, serr.TopicNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			each[p.String()] = internalStats(t)
		}
		return map[string]any{"metadata": partitionedMetadata{Partitions: partitions}, "partitions": each}, nil
	})
}

func (a *api) getPartitions(r *request) (any, error) {
	n, err := r.topicName()
	if err != nil {
		return nil, err
	}
	t, ok, err := a.Policies.Partitioned(r.Context(), n)
	if err != nil {
		return nil, err
	}
	if ok {
		if err := a.Policies.CheckNamespace(r.Context(), n.NamespaceName()); err != nil {
			return nil, err
		}
		return partitionedMetadata{Partitions: t.Partitions, Properties: t.Properties}, nil
	}
	exists := false
	if n.Domain == topicname.Persistent {
		if exists, err = a.Topics.Exists(r.Context(), n); err != nil {
			return nil, err
		}
	}
	create := r.flag("checkAllowAutoCreation")
	partitions, err := a.Policies.PartitionsFor(r.Context(), n, create, exists)
	if err != nil {
		return nil, err
	}
	if partitions == 0 && !exists && !create {
		return nil, topicNotFound(n)
	}
	if partitions > 0 {
		if err := a.makePartitions(r, n, 0, partitions); err != nil {
			return nil, err
		}
	}
	return partitionedMetadata{Partitions: partitions}, nil
}

// partitionCount reads a body that is a number, a number in a string, or PartitionedTopicMetadata: clients differ.
func (r *request) partitionCount() (int, map[string]string, error) {
	var body json.RawMessage
	ok, err := r.decode(&body)
	if err != nil {
		return 0, nil, err
	}
	var n int32
	if ok && json.Unmarshal(body, &n) == nil {
		return int(n), nil, nil
	}
	var text string
	if ok && json.Unmarshal(body, &text) == nil {
		if v, err := strconv.ParseInt(text, 10, 32); err == nil {
			return int(v), nil, nil
		}
	}
	var m partitionedMetadata
	if !ok || json.Unmarshal(body, &m) != nil {
		return 0, nil, failure(http.StatusBadRequest, "The body is neither a number of partitions nor their metadata")
	}
	return m.Partitions, m.Properties, nil
}

func (a *api) createPartitions(r *request) (any, error) {
	n, err := r.topicName()
	if err != nil {
		return nil, err
	}
	count, properties, err := r.partitionCount()
	if err != nil {
		return nil, err
	}
	p, err := a.Policies.NamespaceInfo(r.Context(), n.NamespaceName())
	if errors.Is(err, serr.TopicNotFound) {
		err = failure(http.StatusNotFound, "Namespace not found")
	}
	if err != nil {
		return nil, err
	}
	if err := a.Policies.CheckLimit(r.Context(), n.NamespaceName(), p, max(count, 0)); err != nil {
		return nil, err
	}
	if err := a.Policies.CreatePartitioned(r.Context(), n, policy.Partitioned{Partitions: count, Properties: properties}); err != nil {
		return nil, err
	}
	return nil, a.makePartitions(r, n, 0, count)
}

// makePartitions creates those of the partitions from ≤ i < to that do not exist.
func (a *api) makePartitions(r *request, n topicname.Name, from, to int) error {
	if n.Domain == topicname.NonPersistent {
		return nil
	}
	for i := from; i < to; i++ {
		if _, err := a.Topics.Topic(r.Context(), n.WithPartition(i), topics.Options{Create: true, Explicit: true}); err != nil {
			return fmt.Errorf("create partition %d of %v: %w", i, n, err)
		}
	}
	return nil
}

func (a *api) updatePartitions(r *request) (any, error) {
	n, before, err := r.knownTopic()
	if err != nil {
		return nil, err
	}
	count, _, err := r.partitionCount()
	if err != nil {
		return nil, err
	}
	if before == 0 {
		return nil, failure(http.StatusConflict, "Topic %v is not the partitioned topic.", n)
	}
	if count < before {
		return nil, failure(http.StatusUnprocessableEntity, "Desired partitions %d can't be less than the current partitions %d.", count, before)
	}
	err = a.Policies.UpdatePartitioned(r.Context(), n, func(t *policy.Partitioned) error {
		t.Partitions = max(t.Partitions, count)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := a.makePartitions(r, n, before, count); err != nil {
		return nil, err
	}
	if n.Domain == topicname.NonPersistent {
		return nil, nil
	}
	// The new partitions get the subscriptions of the old ones, so that no message is missed until their
	// consumers notice.
	first, err := a.open(r.Context(), n.WithPartition(0))
	if err != nil {
		return nil, err
	}
	for i := before; i < count; i++ {
		t, err := a.open(r.Context(), n.WithPartition(i))
		if err != nil {
			return nil, err
		}
		for _, s := range first.Subscriptions() {
			st := s.Stats()
			if !st.Durable {
				continue
			}
			_, err := t.CreateSubscription(r.Context(), s.Name(), &subscription.EarliestID, st.Properties, st.Replicated)
			if err != nil && serr.From(err).Status != http.StatusConflict {
				return nil, err
			}
		}
	}
	return nil, nil
}

func (a *api) deletePartitions(r *request) (any, error) {
	n, partitions, err := r.knownTopic()
	if err != nil {
		return nil, err
	}
	if partitions == 0 {
		if exists, err := a.Topics.Exists(r.Context(), n); err != nil {
			return nil, err
		} else if exists {
			return nil, failure(http.StatusConflict,
				"%v is a non-partitioned topic. Instead of calling delete-partitioned-topic please call delete.", n)
		}
		return nil, failure(http.StatusNotFound, "Topic %v not found.", n)
	}
	if n.Domain == topicname.Persistent {
		// None is deleted if one of them cannot be.
		for _, p := range names(n, partitions) {
			if t, ok := a.Topics.Loaded(p); ok && !r.flag("force") && inUse(t) {
				return nil, failure(http.StatusPreconditionFailed, "Topic has active producers/subscriptions")
			}
		}
		for _, p := range names(n, partitions) {
			err := a.Topics.Delete(r.Context(), p, r.flag("force"))
			if err != nil && !errors.Is(err, serr.TopicNotFound) {
				return nil, err
			}
		}
	}
	if err := a.Policies.DeletePartitioned(r.Context(), n); err != nil {
		return nil, err
	}
	return nil, a.Schemas.Forget(r.Context(), n)
}

// inUse reports whether clients are connected to the topic.
func inUse(t Topic) bool {
	s := t.Stats()
	used := len(s.Producers) > 0
	for i := range s.Subscriptions {
		used = used || len(s.Subscriptions[i].Consumers) > 0
	}
	return used
}
