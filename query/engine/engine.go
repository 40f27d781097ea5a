// Package engine runs one SQL statement from text to batches of rows.
//
// A statement is parsed (internal/syntax), its names and types are resolved against the catalog
// (internal/plan), and it runs as a tree of operators (internal/exec) over splits of topics
// (internal/scan). At its start it takes a fence per partition: it sees every message confirmed before,
// and none after, however often it scans a table.
//
// An Engine is safe for concurrent use. A statement uses at most Config.Workers goroutines for scanning and
// at most Config.MemoryLimit bytes for what it has to hold; beyond that it fails with
// EXCEEDED_LOCAL_MEMORY_LIMIT. Cancelling its context ends it.
package engine

import (
	"context"
	"log/slog"
	"time"

	"github.com/daybook/daybook/query/catalog"
)

// An Authorizer decides what a user may read. A nil Authorizer allows everything.
type Authorizer interface {
	// CanRead reports whether user may consume topic (persistent://tenant/namespace/topic).
	CanRead(ctx context.Context, user, topic string) (bool, error)
}

// Config says what an Engine works on.
type Config struct {
	Catalog     catalog.Source
	Authorizer  Authorizer
	Log         *slog.Logger
	NodeID      string           // name of this node in system.runtime.nodes
	Version     string           // version() and /v1/info
	Workers     int              // goroutines scanning for one statement; 0: 2
	MemoryLimit int64            // bytes one statement may hold; 0: 512 MiB
	Now         func() time.Time // 0: time.Now
}

// A Session is what a client's request says about itself. The zero value is a session without a user.
type Session struct {
	User       string
	Catalog    string // "": pulsar
	Schema     string // "": public/default, if Catalog is pulsar
	TimeZone   string // "": UTC
	Source     string
	Properties map[string]string
	Prepared   map[string]string // name to text
}
