// Package ownership says which broker serves a topic. This is the ownership of a single node: it serves them
// all.
package ownership

import (
	"context"

	"github.com/daybook/daybook/ledgerfs/topicname"
)

// A Broker is where a broker is reached. Addresses that it does not serve are empty.
type Broker struct {
	// ID is "host:port" of its HTTP service, by which the admin API names brokers.
	ID string
	// The URLs, as in "pulsar://host:6650" and "http://host:8080".
	ServiceURL, ServiceURLTLS string
	HTTPURL, HTTPURLTLS       string
}

// A Single is the ownership of a node that has all topics. It never changes.
type Single struct{ self Broker }

// NewSingle is the ownership of a single node.
func NewSingle(self Broker) *Single { return &Single{self} }

// Self is this node.
func (s *Single) Self() Broker { return s.self }

// Owner is the broker that serves the topic; ours says that it is this node.
func (s *Single) Owner(ctx context.Context, n topicname.Name) (b Broker, ours bool, err error) {
	return s.self, true, nil
}

// Brokers are the brokers that are there now.
func (s *Single) Brokers(ctx context.Context) ([]Broker, error) { return []Broker{s.self}, nil }

// Leader is the broker that decides for all.
func (s *Single) Leader(ctx context.Context) (Broker, error) { return s.self, nil }
