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

	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta"
)

// A Policy decides what may be created. The broker's policies implement it.
type Policy interface {
	// CheckNamespace fails if the topic's tenant or namespace does not exist (TopicNotFound "Namespace not found").
	CheckNamespace(ctx context.Context, ns topicname.Namespace) error
	// Stands is the condition that the namespace exists, under which a topic is created in it.
	Stands(ns topicname.Namespace) raftmeta.Cond
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
	// Comeback is the use by a producer that was connected before: within a minute of the topic's deletion it does not
	// create it anew (TopicNotFound). New clients do.
	Comeback bool
	// Properties are stored with a topic that is created.
	Properties map[string]string
}
