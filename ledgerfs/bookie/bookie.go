// Package bookie assembles a bookie: a store on disk, its identity, and its announcement in metadata.
//
// # Metadata
//
//	bookie-cookies/<id>   persistent: the incarnation of the bookie's storage, which Open checks
//	bookies/<id>          ephemeral:  the bookie is up, in this incarnation, at this address
package bookie

import (
	"context"
	"errors"
	"log/slog"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/raftmeta"
)

// Config describes a bookie.
type Config struct {
	// ID is the bookie's lasting name in the cluster.
	ID ledgerfs.BookieID
	// Dir holds everything the bookie stores. It is created if it does not exist.
	Dir string
	// JournalDir, if set, holds the segment files instead of a folder of Dir.
	JournalDir string
	// Address is where other nodes reach the bookie; empty if only this process does.
	Address string
	// Meta is the cluster's metadata.
	Meta raftmeta.Store
	// Fatal is called once, from a goroutine of the store, when the disk can no longer be trusted. The
	// process should end. From then on every call fails and nothing is acknowledged.
	Fatal func(error)
	// Log receives what an operator should know; nil discards it.
	Log *slog.Logger
}

// ErrIdentity says that the directories are not those of the bookie that metadata knows under this name:
// wiped, swapped or half missing.
var ErrIdentity = errors.New("bookie storage does not match its identity")

// Open opens, or on first use formats, the bookie's storage, recovers it, and checks it against the cookie
// in metadata. It does not announce the bookie: Register does. It gives up, but does not undo, when ctx
// ends.
func Open(ctx context.Context, cfg Config) (*Bookie, error) { return nil, errors.ErrUnsupported }

// A Bookie is an open bookie. It implements ledgerfs.Bookie for callers in the same process.
type Bookie struct {
	ledgerfs.Bookie
	member ledgerfs.Member
}

// Member is the bookie's name and incarnation, as ensembles hold it.
func (b *Bookie) Member() ledgerfs.Member { return b.member }

// Register announces the bookie under the session; call it again with the next session when that one is
// lost.
func (b *Bookie) Register(ctx context.Context, session raftmeta.Session) error {
	return errors.ErrUnsupported
}

// Space is how much room there is.
type Space struct {
	Total, Free int64 // of the file system, in bytes
	// Reserve is the room that normal adds must leave free.
	Reserve int64
	// Writable says whether normal adds are taken; AddHighPriority adds, reads, fences and deletes go on
	// without.
	Writable bool
}

// Space reports the room on the bookie's file system, as of at most a second ago.
func (b *Bookie) Space() Space { return Space{} }

// Close makes everything durable and releases the directories.
func (b *Bookie) Close() error { return errors.ErrUnsupported }
