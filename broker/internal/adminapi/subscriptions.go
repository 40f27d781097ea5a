package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

const subPath = topicPath + "/subscription/{sub}"

// resetCursor is Pulsar's ResetCursorData.
type resetCursor struct {
	Ledger     int64             `json:"ledgerId"`
	Entry      int64             `json:"entryId"`
	Partition  int               `json:"partitionIndex"`
	Excluded   bool              `json:"excluded"`
	BatchIndex int               `json:"batchIndex"`
	Properties map[string]string `json:"properties"`
}

// position is where the cursor shall stand: the first entry to deliver.
func (c *resetCursor) position() ledgerfs.Position {
	p := ledgerfs.Position{Ledger: ledgerfs.LedgerID(c.Ledger), Entry: ledgerfs.EntryID(c.Entry)}
	switch {
	case c.Ledger == -1 && c.Entry == -1:
		return subscription.EarliestID
	case c.Ledger == math.MaxInt64 && c.Entry == math.MaxInt64:
		return subscription.LatestID
	case c.Excluded:
		return p.Next()
	}
	return p
}

func noSubscription(n topicname.Name, sub string) error {
	return serr.SubscriptionNotFound.Errorf("Subscription %s not found for topic %v", sub, n)
}

func (a *api) subscriptions() {
	a.routes.add("GET", topicPath+"/subscriptions", func(r *request) (any, error) {
		n, partitions, err := r.knownTopic()
		if err != nil {
			return nil, err
		}
		set := map[string]struct{}{}
		for _, p := range names(n, partitions) {
			t, err := a.open(r.Context(), p)
			if partitions > 0 && errors.Is(err, serr.TopicNotFound) {
				continue
			}
			if err != nil {
				return nil, err
			}
			for _, s := range t.Subscriptions() {
				set[s.Name()] = struct{}{}
			}
		}
		return orEmpty(sortedKeys(set)), nil
	})
	a.routes.add("PUT", subPath, a.createSubscription)
	a.routes.add("DELETE", subPath, func(r *request) (any, error) {
		return nil, r.eachTopic(func(t Topic) error {
			_, err := t.Subscription(r.text("sub"))
			if err == nil {
				err = t.DeleteSubscription(r.Context(), r.text("sub"), r.flag("force"))
			}
			return err
		})
	})
	a.subSet("POST", "/skip_all", func(r *request, s Subscription) error { return s.SkipAll(r.Context()) })
	a.routes.add("POST", subPath+"/skip/{count}", func(r *request) (any, error) {
		count, err := r.number("count")
		if err != nil {
			return nil, err
		}
		t, err := r.openUnpartitioned("Skip messages on a partitioned topic is not allowed")
		if err != nil {
			return nil, err
		}
		s, err := r.subscription(t)
		if err != nil {
			return nil, err
		}
		if count < 0 || count > math.MaxInt32 {
			return nil, failure(http.StatusBadRequest, "The number of messages is out of range")
		}
		return nil, s.Skip(r.Context(), int(count))
	})
	expire := func(r *request) (time.Time, error) {
		secs, err := r.number("seconds")
		if err != nil {
			return time.Time{}, err
		}
		if secs < 0 || secs > math.MaxInt32 {
			return time.Time{}, failure(http.StatusBadRequest, "The time of expiry is out of range")
		}
		return a.Now().Add(-time.Duration(secs) * time.Second), nil
	}
	a.subSet("POST", "/expireMessages/{seconds}", func(r *request, s Subscription) error {
		t, err := expire(r)
		if err != nil {
			return err
		}
		return s.ExpireBefore(r.Context(), t)
	})
	a.routes.add("POST", topicPath+"/all_subscription/expireMessages/{seconds}", func(r *request) (any, error) {
		before, err := expire(r)
		if err != nil {
			return nil, err
		}
		return nil, r.eachTopic(func(t Topic) error {
			for _, s := range t.Subscriptions() {
				if err := s.ExpireBefore(r.Context(), before); err != nil {
					return err
				}
			}
			return nil
		})
	})
	a.subSet("POST", "/resetcursor/{timestamp}", func(r *request, s Subscription) error {
		ms, err := r.number("timestamp")
		if err != nil {
			return err
		}
		return s.Seek(r.Context(), subscription.SeekTarget{Time: time.UnixMilli(ms)})
	})
	a.routes.add("POST", subPath+"/resetcursor", func(r *request) (any, error) {
		var c resetCursor
		if ok, err := r.decode(&c); err != nil {
			return nil, err
		} else if !ok {
			return nil, failure(http.StatusPreconditionFailed, "The position to reset the cursor to is missing")
		}
		n, partitions, err := r.knownTopic()
		if err != nil {
			return nil, err
		}
		p := c.position()
		if partitions > 0 && p != subscription.EarliestID && p != subscription.LatestID {
			return nil, failure(http.StatusMethodNotAllowed, "Reset-cursor at position is not allowed for partitioned-topic")
		}
		for _, m := range names(n, partitions) {
			t, err := a.open(r.Context(), m)
			if err != nil {
				return nil, err
			}
			s, err := r.subscription(t)
			if err != nil {
				return nil, err
			}
			if err := s.Seek(r.Context(), subscription.SeekTarget{Position: p}); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	a.routes.add("GET", subPath+"/properties", func(r *request) (any, error) {
		n, partitions, err := r.knownTopic()
		if err != nil {
			return nil, err
		}
		all := map[string]string{}
		for _, m := range names(n, partitions) {
			t, err := a.open(r.Context(), m)
			if err != nil {
				return nil, err
			}
			s, err := t.Subscription(r.text("sub"))
			if err != nil {
				return nil, noSubscription(n, r.text("sub"))
			}
			all = merge(all, s.Stats().Properties)
		}
		return all, nil
	})
	a.routes.add("PUT", subPath+"/properties", func(r *request) (any, error) {
		var p map[string]string
		if _, err := r.decode(&p); err != nil {
			return nil, err
		}
		return nil, r.eachTopic(func(t Topic) error {
			s, err := r.subscription(t)
			if err != nil {
				return err
			}
			return s.SetProperties(r.Context(), p)
		})
	})
	a.routes.add("GET", subPath+"/replicatedSubscriptionStatus", func(r *request) (any, error) {
		out := map[string]bool{}
		return out, r.eachTopic(func(t Topic) error {
			s, err := r.subscription(t)
			if err == nil {
				out[t.Name().String()] = s.Stats().Replicated
			}
			return err
		})
	})
	a.routes.add("DELETE", "/admin/v2/namespaces/{tenant}/{namespace}/unsubscribe/{sub}", methodNotAllowed)
}

func methodNotAllowed(*request) (any, error) {
	return nil, failure(http.StatusMethodNotAllowed, "HTTP 405 Method Not Allowed")
}

// subscription is the one that the route names, of the topic.
func (r *request) subscription(t Topic) (Subscription, error) {
	s, err := t.Subscription(r.text("sub"))
	if errors.Is(err, serr.SubscriptionNotFound) {
		return nil, noSubscription(t.Name(), r.text("sub"))
	}
	return s, err
}

// eachTopic calls fn for the topic that the route names, or for each of its partitions, and ends with the first
// error.
func (r *request) eachTopic(fn func(Topic) error) error {
	n, partitions, err := r.knownTopic()
	if err != nil {
		return err
	}
	for _, p := range names(n, partitions) {
		t, err := r.api.open(r.Context(), p)
		if err != nil {
			return err
		}
		err = fn(t)
		if errors.Is(err, serr.SubscriptionNotFound) {
			err = noSubscription(p, r.text("sub"))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// subSet adds a call that changes a subscription of a topic, or of each of its partitions.
func (a *api) subSet(method, path string, change func(*request, Subscription) error) {
	a.routes.add(method, subPath+path, func(r *request) (any, error) {
		return nil, r.eachTopic(func(t Topic) error {
			s, err := r.subscription(t)
			if err != nil {
				return err
			}
			return change(r, s)
		})
	})
}

func (a *api) createSubscription(r *request) (any, error) {
	sub := r.text("sub")
	if err := topicname.CheckSubscription(sub); err != nil {
		return nil, serr.NotAllowedError.Wrapf(err, "Subscription name is not valid").WithStatus(http.StatusPreconditionFailed)
	}
	n, partitions, err := r.knownTopic()
	if err != nil {
		return nil, err
	}
	start, properties, err := r.startPosition()
	if err != nil {
		return nil, err
	}
	existed := 0
	all := names(n, partitions)
	for _, m := range all {
		t, err := a.openOrCreate(r.Context(), m)
		if err != nil {
			return nil, err
		}
		_, err = t.CreateSubscription(r.Context(), sub, start, properties, r.flag("replicated"))
		if err != nil && serr.From(err).Status == http.StatusConflict {
			existed++
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	if existed == len(all) {
		return nil, failure(http.StatusConflict, "Subscription already exists for topic")
	}
	return nil, nil
}

// startPosition reads where a new subscription starts: ResetCursorData, a message id, or nothing, the end.
func (r *request) startPosition() (*ledgerfs.Position, map[string]string, error) {
	var body json.RawMessage
	ok, err := r.decode(&body)
	if err != nil || !ok || string(body) == "null" {
		return nil, nil, err
	}
	var c resetCursor
	if err := json.Unmarshal(body, &c); err != nil {
		var word string
		if json.Unmarshal(body, &word) == nil && slices.Contains([]string{"latest", "earliest"}, word) {
			if word == "latest" {
				return nil, nil, nil
			}
			return &subscription.EarliestID, nil, nil
		}
		return nil, nil, failure(http.StatusBadRequest, "The body is not a position: %v", err)
	}
	p := c.position()
	return &p, c.Properties, nil
}

// openOrCreate is open, but creates a topic that the namespace lets clients create.
func (a *api) openOrCreate(ctx context.Context, n topicname.Name) (Topic, error) {
	t, err := a.open(ctx, n)
	if !errors.Is(err, serr.TopicNotFound) {
		return t, err
	}
	t, err = a.Topics.Topic(ctx, n, createByUse)
	if errors.Is(err, serr.TopicNotFound) {
		return nil, failure(http.StatusNotFound, "Topic does not exist and cannot be auto-created")
	}
	return t, err
}
