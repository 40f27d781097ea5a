// Package topics is the registry of one broker's loaded topics: it finds, creates, loads, unloads and deletes them.
//
// # Promises
//
// A topic is loaded once however many ask for it at a time. A topic that is being unloaded or deleted answers
// ServiceNotReady until that is done. Deleting leaves nothing behind that a new topic of the same name could see.
//
// # Goroutines
//
// Loading runs on a goroutine of its own, so that a caller that gives up does not end it for the others; Close waits
// for all of them.
package topics

import (
	"context"

	"github.com/daybook/daybook/broker/internal/topic"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// A Policy decides what may be created. The broker's policies implement it.
type Policy interface {
	// CheckNamespace fails if the topic's tenant or namespace does not exist (TopicNotFound "Namespace not found").
	CheckNamespace(ctx context.Context, ns topicname.Namespace) error
	// CheckCreate fails if a client's use of the topic must not create it: TopicNotFound where automatic creation is
	// off, NotAllowedError for a partition that its partitioned topic does not have or above a limit of topics.
	CheckCreate(ctx context.Context, n topicname.Name) error
	// AllowSubscriptionCreation says whether a client's SUBSCRIBE may create a subscription.
	AllowSubscriptionCreation(ctx context.Context, n topicname.Name) (bool, error)
}

// Options say how to get at a topic.
type Options struct {
	// Create makes a topic that does not exist, if the policy allows it.
	Create bool
	// Explicit creation comes from the admin API: the policy for automatic creation is not asked.
	Explicit bool
	// Properties are stored with a topic that is created.
	Properties map[string]string
}

// A Registry is the topics of one broker. All methods may be called by any goroutine.
type Registry struct{}

// Topic returns the loaded topic, loading and, as o says, creating it first. TopicNotFound if it does not exist;
// NotAllowedError for a non-persistent topic.
func (r *Registry) Topic(ctx context.Context, n topicname.Name, o Options) (*topic.Topic, error) {
	panic("")
}

// Loaded returns the topic if it is loaded now.
func (r *Registry) Loaded(n topicname.Name) (*topic.Topic, bool) { panic("") }

// All are the topics that are loaded now.
func (r *Registry) All() []*topic.Topic { panic("") }

// Exists reports whether the topic is stored, loaded or not.
func (r *Registry) Exists(ctx context.Context, n topicname.Name) (bool, error) { panic("") }

// List returns the stored topics of a namespace in name order, partitions one by one.
func (r *Registry) List(ctx context.Context, ns topicname.Namespace) ([]topicname.Name, error) {
	panic("")
}

// Delete removes a topic with its subscriptions and messages. Connected producers or consumers make it fail (412),
// or, with force, are closed. A topic that does not exist is TopicNotFound.
func (r *Registry) Delete(ctx context.Context, n topicname.Name, force bool) error { panic("") }

// Unload closes the topic's clients, brings its cursors to disk and forgets it; the next use loads it again. A topic
// that is not loaded is no error.
func (r *Registry) Unload(ctx context.Context, n topicname.Name) error { panic("") }

// Close unloads everything, cursors flushed, and refuses every later use with ServiceNotReady.
func (r *Registry) Close(ctx context.Context) error { panic("") }
