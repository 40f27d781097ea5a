// Package catalog shows topics as tables: schema "tenant/namespace", table = topic with its partitions
// merged, columns from the topic's schema. It declares what it needs of the cluster's metadata as Source;
// tools wires that to the broker's policies and schema registry.
package catalog

import (
	"context"
	"errors"
)

// Name is the catalog that topics live in.
const Name = "pulsar"

// DefaultSchema is the schema of a client that names none.
const DefaultSchema = "public/default"

// ErrNotFound says that a namespace or topic does not exist.
var ErrNotFound = errors.New("not found")

// A Topic is one persistent topic as a table.
type Topic struct {
	Name       string // local name, without domain, tenant and namespace
	Partitions int    // 0: not partitioned
}

// A Schema is the stored schema of a topic's values.
type Schema struct {
	Type       string // Pulsar's name of the type, upper case: JSON, AVRO, STRING, INT32, KEY_VALUE, NONE, …
	Data       []byte // the definition; for JSON and AVRO an Avro record definition
	Properties map[string]string
}

// A Source answers questions about the cluster's metadata. Methods may be called by many goroutines; each
// call answers from the present state.
type Source interface {
	// Namespaces lists all namespaces as "tenant/namespace".
	Namespaces(ctx context.Context) ([]string, error)
	// Topics lists the persistent topics of a namespace: partitioned topics once, partitions not at all.
	// ErrNotFound if there is no such namespace.
	Topics(ctx context.Context, namespace string) ([]Topic, error)
	// Schema gives the latest schema of a topic, or nil if it has none. local is Topic.Name.
	Schema(ctx context.Context, namespace, local string) (*Schema, error)
	// SchemaVersion gives the schema of a version as messages carry it; ErrNotFound if there is none.
	SchemaVersion(ctx context.Context, namespace, local string, version []byte) (*Schema, error)
}
