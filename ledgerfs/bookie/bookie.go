// Package bookie assembles a bookie: a store on disk, its identity, and its announcement in metadata.
//
// # Metadata
//
//	bookie-cookies/<id>   persistent: the incarnation of the bookie's storage, which Open checks
//	bookies/<id>          ephemeral:  the bookie is up, in this incarnation, at this address
//
// Both values are JSON objects with a format number.
package bookie

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/disk"
	"github.com/daybook/daybook/ledgerfs/internal/store"
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
	// WriteCache bounds, in bytes, the memory that keeps the newest entries; 32 MiB if 0.
	WriteCache int64
	// MaxInFlight bounds, in bytes, the adds that wait for the disk; 64 MiB if 0.
	MaxInFlight int64
	// SegmentSize is the size in bytes of new segment files when the storage is formatted; if 0, up to 64 MiB by
	// the size of the file system.
	SegmentSize int64
	// FS holds the directories; the operating system's if nil. Only packages of ledgerfs can name another, in
	// their tests.
	FS disk.FS
	// Fatal is called once, from a goroutine of the store, when the disk can no longer be trusted. The
	// process should end. From then on every call fails and nothing is acknowledged. Fatal must not call
	// Close, which waits for that goroutine.
	Fatal func(error)
	// Log receives what an operator should know; nil discards it.
	Log *slog.Logger
}

// Errors of Open, to be tested with errors.Is.
var (
	// ErrIdentity says that the directories are not those of the bookie that metadata knows under this
	// name: wiped, swapped or half missing.
	ErrIdentity = store.ErrIdentity
	// ErrNewer says that a newer version of the program wrote the directories.
	ErrNewer = store.ErrNewer
	// ErrLocked says that another process has the directories open; the text names its pid.
	ErrLocked = store.ErrLocked
)

// A Cookie is the stored identity of a bookie, and its announcement.
type Cookie struct {
	Format      int    `json:"format"`
	Incarnation string `json:"incarnation"`
	Address     string `json:"address,omitempty"`
}

const cookieFormat = 1

// CookieKey is the metadata key of a bookie's cookie.
func CookieKey(id ledgerfs.BookieID) string { return "bookie-cookies/" + url.PathEscape(string(id)) }

// AliveKey is the metadata key under which a bookie announces itself. AlivePrefix leads them all.
func AliveKey(id ledgerfs.BookieID) string { return AlivePrefix + url.PathEscape(string(id)) }

// AlivePrefix is the prefix of the keys of bookies that are up.
const AlivePrefix = "bookies/"

// ParseAlive reads an announcement.
func ParseAlive(it raftmeta.Item) (m ledgerfs.Member, address string, err error) {
	var c Cookie
	if err := json.Unmarshal(it.Value, &c); err != nil {
		return m, "", fmt.Errorf("bookie announcement %s: %w", it.Key, err)
	}
	if c.Format > cookieFormat {
		return m, "", fmt.Errorf("bookie announcement %s: %w (format %d)", it.Key, ErrNewer, c.Format)
	}
	if len(it.Key) <= len(AlivePrefix) {
		return m, "", fmt.Errorf("bookie announcement %q has no name", it.Key)
	}
	id, err := url.PathUnescape(it.Key[len(AlivePrefix):])
	if err == nil {
		m.Bookie = ledgerfs.BookieID(id)
		m.Incarnation, err = ledgerfs.ParseIncarnation(c.Incarnation)
	}
	if err != nil {
		return m, "", fmt.Errorf("bookie announcement %s: %w", it.Key, err)
	}
	return m, c.Address, nil
}

// A Bookie is an open bookie. It implements ledgerfs.Bookie for callers in the same process.
type Bookie struct {
	ledgerfs.Bookie
	store  *store.Store
	member ledgerfs.Member
	cfg    Config
}

// GiveUpReserve frees the room that the closed bookie of dir holds in reserve, for whoever must be opened before it on
// a full disk. The bookie takes no normal adds until there is room to hold it again.
func GiveUpReserve(dir string) error { return store.GiveUpReserve(dir) }

// Open opens, or on first use formats, the bookie's storage, recovers it, and checks it against the cookie
// in metadata. It does not announce the bookie: Register does.
func Open(ctx context.Context, cfg Config) (*Bookie, error) {
	if cfg.ID == "" || cfg.Dir == "" || cfg.Meta == nil {
		return nil, errors.New("open bookie: ID, Dir and Meta must be set")
	}
	// A bookie that metadata knows must not be formatted anew because its disk is not mounted.
	var files disk.FS = &disk.OS{}
	if cfg.FS != nil {
		files = cfg.FS
	}
	if ok, err := files.Exists(filepath.Join(cfg.Dir, store.IdentityFile)); err == nil && !ok {
		if _, err := cfg.Meta.Get(ctx, CookieKey(cfg.ID)); err == nil {
			return nil, fmt.Errorf("open bookie %s: %w: metadata knows this bookie, but %s is empty; bring back the right "+
				"directory, or decommission the bookie before it starts empty", cfg.ID, ErrIdentity, cfg.Dir)
		} else if !errors.Is(err, raftmeta.ErrNotFound) {
			return nil, fmt.Errorf("open bookie %s: cookie: %w", cfg.ID, err)
		}
	}
	s, err := store.Open(store.Config{Dir: cfg.Dir, JournalDir: cfg.JournalDir, FS: cfg.FS, SegmentSize: cfg.SegmentSize,
		WriteCache: cfg.WriteCache, MaxInFlight: cfg.MaxInFlight, Fatal: cfg.Fatal, Log: cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("open bookie %s: %w", cfg.ID, err)
	}
	b := &Bookie{Bookie: s, store: s, cfg: cfg,
		member: ledgerfs.Member{Bookie: cfg.ID, Incarnation: s.Incarnation()}}
	if err := b.checkCookie(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("open bookie %s: %w", cfg.ID, err)
	}
	return b, nil
}

// checkCookie compares the storage with the cookie, or leaves one where there is none.
func (b *Bookie) checkCookie(ctx context.Context) error {
	key := CookieKey(b.cfg.ID)
	value, err := json.Marshal(Cookie{Format: cookieFormat, Incarnation: b.member.Incarnation.String()})
	if err != nil {
		return err
	}
	if _, err := b.cfg.Meta.Commit(ctx, raftmeta.Txn{
		If: []raftmeta.Cond{raftmeta.Absent(key)}, Then: []raftmeta.Op{raftmeta.Put(key, value)}}); err != nil {
		return fmt.Errorf("cookie: %w", err)
	}
	it, err := b.cfg.Meta.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("cookie: %w", err)
	}
	var c Cookie
	if err := json.Unmarshal(it.Value, &c); err != nil {
		return fmt.Errorf("cookie %s: %w", key, err)
	}
	if c.Format > cookieFormat {
		return fmt.Errorf("cookie %s: %w (format %d)", key, ErrNewer, c.Format)
	}
	if c.Incarnation != b.member.Incarnation.String() {
		return fmt.Errorf("%w: metadata knows this bookie with storage %s, but %s holds %s; bring back the right "+
			"directory, or decommission the bookie before it starts empty", ErrIdentity, c.Incarnation, b.cfg.Dir, b.member.Incarnation)
	}
	return nil
}

// Member is the bookie's name and incarnation, as ensembles hold it.
func (b *Bookie) Member() ledgerfs.Member { return b.member }

// Register announces the bookie under the session; call it again with the next session when that one is
// lost.
func (b *Bookie) Register(ctx context.Context, session raftmeta.Session) error {
	value, err := json.Marshal(Cookie{Format: cookieFormat, Incarnation: b.member.Incarnation.String(), Address: b.cfg.Address})
	if err != nil {
		return err
	}
	if _, err := b.cfg.Meta.Commit(ctx, raftmeta.Txn{
		Then: []raftmeta.Op{raftmeta.PutEphemeral(AliveKey(b.cfg.ID), value, session.ID())}}); err != nil {
		return fmt.Errorf("register bookie %s: %w", b.cfg.ID, err)
	}
	return nil
}

// Space is how much room there is.
type Space = store.Space

// Space reports the room on the bookie's file system, as of at most a second ago.
func (b *Bookie) Space() Space { return b.store.Space() }

// Close waits for what is under way, makes the index durable and releases the directories.
func (b *Bookie) Close() error { return b.store.Close() }
