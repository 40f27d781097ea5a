// Package raftlog keeps the Raft log, the hard state and the identity of a node in the same pebble store as the
// replicated state, and implements raft.Storage over them.
//
// It only adds to batches that the node's loop writes: one synced batch holds the entries and the hard state of
// one Ready. As log and state share one write-ahead log, and the state's batches come after those of the
// entries they apply, a crash leaves a prefix of both: the applied index is never above the last entry.
//
// # Format
//
//	f              metapb.Identity
//	h              metapb.HardState
//	l <index u64>  entry := format u8 (1) | type u8 | term u64 | data
//	t              metapb.Truncated
//
// Integers are big-endian. The data of a normal entry is a command (see package command) with its own CRC;
// pebble's checksums cover the rest.
//
// # Memory
//
// The terms and sizes of all kept entries (16 bytes each), and the newest entries up to tailBytes.
package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/daybook/daybook/raftmeta/internal/metapb"
)

const (
	recordFormat = 1
	entryHeader  = 10
	tailBytes    = 1 << 20
)

// ErrCorrupt says that the stored log is not what this package writes. The node must stop.
var ErrCorrupt = errors.New("corrupt raft log")

var (
	identityKey  = []byte{'f'}
	hardStateKey = []byte{'h'}
	truncatedKey = []byte{'t'}
	logStart     = []byte{'l'}
	logEnd       = []byte{'l' + 1}
)

func entryKey(index uint64) []byte { return binary.BigEndian.AppendUint64([]byte{'l'}, index) }

// A Log is the log of one node. It is owned by the goroutine that owns the RawNode.
type Log struct {
	db    *pebble.DB
	hard  *raftpb.HardState
	trunc position
	kept  []kept          // the entries after trunc
	size  int             // of the data in kept
	tail  []*raftpb.Entry // the newest entries, without a gap to the last
	bytes int             // of the data in tail
	// applied returns the state's position and members, for InitialState and Snapshot.
	applied func() (index, term uint64, conf *raftpb.ConfState)
}

type position struct{ index, term uint64 }

type kept struct {
	term uint64
	size int
}

// ReadIdentity returns the identity in db, or nil if db is new.
func ReadIdentity(db *pebble.DB) (*metapb.Identity, error) {
	var m metapb.Identity
	found, err := read(db, identityKey, &m)
	if err != nil || !found {
		return nil, err
	}
	return &m, nil
}

// Bootstrap adds a new node's first records to b: a log that begins after index and term, which the state must
// be of.
func Bootstrap(b *pebble.Batch, id *metapb.Identity, index, term uint64) error {
	if err := set(b, identityKey, id); err != nil {
		return err
	}
	if err := set(b, hardStateKey, &metapb.HardState{Format: recordFormat, Term: term, Commit: index}); err != nil {
		return err
	}
	return set(b, truncatedKey, &metapb.Truncated{Format: recordFormat, Index: index, Term: term})
}

type message interface {
	MarshalVT() ([]byte, error)
	UnmarshalVT([]byte) error
}

func set(b *pebble.Batch, key []byte, m message) error {
	v, err := m.MarshalVT()
	if err != nil {
		return err
	}
	return b.Set(key, v, nil)
}

func read(db *pebble.DB, key []byte, m message) (bool, error) {
	v, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %q: %w", key, err)
	}
	defer closer.Close()
	if err := m.UnmarshalVT(v); err != nil {
		return false, fmt.Errorf("%w: record %q: %w", ErrCorrupt, key, err)
	}
	return true, nil
}

// Open reads the log of a bootstrapped db. applied returns the position and the members of the state.
func Open(db *pebble.DB, applied func() (index, term uint64, conf *raftpb.ConfState)) (*Log, error) {
	l := &Log{db: db, applied: applied}
	var hs metapb.HardState
	var tr metapb.Truncated
	if found, err := read(db, hardStateKey, &hs); err != nil {
		return nil, err
	} else if !found {
		return nil, fmt.Errorf("%w: no hard state", ErrCorrupt)
	}
	if found, err := read(db, truncatedKey, &tr); err != nil {
		return nil, err
	} else if !found {
		return nil, fmt.Errorf("%w: no record of where the log begins", ErrCorrupt)
	}
	if hs.Format != recordFormat || tr.Format != recordFormat {
		return nil, fmt.Errorf("%w: formats %d and %d, this version knows %d", ErrCorrupt, hs.Format, tr.Format, recordFormat)
	}
	l.hard = &raftpb.HardState{Term: &hs.Term, Vote: &hs.Vote, Commit: &hs.Commit}
	l.trunc = position{tr.Index, tr.Term}
	if err := l.load(); err != nil {
		return nil, err
	}
	index, term, _ := applied()
	if index > l.last() {
		// A restored snapshot was written, but not yet the log's new beginning: write it now.
		b := db.NewBatch()
		defer b.Close()
		if err := l.Reset(b, index, term); err != nil {
			return nil, err
		}
		if err := b.Commit(pebble.Sync); err != nil {
			return nil, fmt.Errorf("reset the log after a snapshot: %w", err)
		}
		l.DidReset(index, term)
	}
	if index < l.trunc.index {
		return nil, fmt.Errorf("%w: state of entry %d, log begins after %d", ErrCorrupt, index, l.trunc.index)
	}
	if l.hard.GetCommit() < index {
		l.hard.Commit = new(index) // what is applied was committed
	}
	if l.hard.GetCommit() > l.last() {
		return nil, fmt.Errorf("%w: entry %d is committed, the last is %d", ErrCorrupt, l.hard.GetCommit(), l.last())
	}
	return l, nil
}

func (l *Log) load() error {
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: logStart, UpperBound: logEnd})
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		e, err := decodeEntry(it.Key(), it.Value())
		if err != nil {
			return err
		}
		if e.GetIndex() != l.last()+1 || e.GetTerm() < l.lastTerm() {
			return fmt.Errorf("%w: entry %d of term %d after %d of term %d", ErrCorrupt, e.GetIndex(), e.GetTerm(), l.last(), l.lastTerm())
		}
		l.push(e)
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}

func decodeEntry(key, value []byte) (*raftpb.Entry, error) {
	if len(key) != 9 || len(value) < entryHeader {
		return nil, fmt.Errorf("%w: entry key of %d bytes with %d bytes", ErrCorrupt, len(key), len(value))
	}
	if value[0] != recordFormat {
		return nil, fmt.Errorf("%w: entry of format %d, this version knows %d", ErrCorrupt, value[0], recordFormat)
	}
	return &raftpb.Entry{
		Type: raftpb.EntryType(value[1]).Enum(), Index: new(binary.BigEndian.Uint64(key[1:])),
		Term: new(binary.BigEndian.Uint64(value[2:])), Data: slices.Clone(value[entryHeader:]),
	}, nil
}

func (l *Log) last() uint64 { return l.trunc.index + uint64(len(l.kept)) }

func (l *Log) lastTerm() uint64 {
	if n := len(l.kept); n > 0 {
		return l.kept[n-1].term
	}
	return l.trunc.term
}

func (l *Log) push(e *raftpb.Entry) {
	l.kept = append(l.kept, kept{e.GetTerm(), len(e.Data)})
	l.size += len(e.Data)
	l.tail = append(l.tail, e)
	l.bytes += len(e.Data)
	for l.bytes > tailBytes && len(l.tail) > 1 {
		l.dropOldest()
	}
}

func (l *Log) dropOldest() {
	l.bytes -= len(l.tail[0].Data)
	l.tail[0] = nil
	l.tail = l.tail[1:]
}

// Write adds entries and the hard state, if it is not nil, to b. Entries of the log from the first new one on
// are replaced.
func (l *Log) Write(b *pebble.Batch, entries []*raftpb.Entry, hs *raftpb.HardState) error {
	if len(entries) > 0 {
		first := entries[0].GetIndex()
		if first <= l.trunc.index || first > l.last()+1 {
			return fmt.Errorf("%w: entry %d written to the log (%d, %d]", ErrCorrupt, first, l.trunc.index, l.last())
		}
		if first <= l.last() {
			if err := b.DeleteRange(entryKey(first), logEnd, nil); err != nil {
				return err
			}
		}
	}
	for _, e := range entries {
		op := b.SetDeferred(9, entryHeader+len(e.Data))
		op.Key[0] = 'l'
		binary.BigEndian.PutUint64(op.Key[1:], e.GetIndex())
		op.Value[0] = recordFormat
		op.Value[1] = byte(e.GetType())
		binary.BigEndian.PutUint64(op.Value[2:], e.GetTerm())
		copy(op.Value[entryHeader:], e.Data)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	if raft.IsEmptyHardState(hs) {
		return nil
	}
	return set(b, hardStateKey, &metapb.HardState{Format: recordFormat, Term: hs.GetTerm(), Vote: hs.GetVote(), Commit: hs.GetCommit()})
}

// DidWrite says that the batch of a Write is in the store.
func (l *Log) DidWrite(entries []*raftpb.Entry, hs *raftpb.HardState) {
	if len(entries) > 0 {
		keep := entries[0].GetIndex() - l.trunc.index - 1
		for l.last()-l.trunc.index > keep {
			l.size -= l.kept[len(l.kept)-1].size
			l.kept = l.kept[:len(l.kept)-1]
			if n := len(l.tail); n > 0 {
				l.bytes -= len(l.tail[n-1].Data)
				l.tail = l.tail[:n-1]
			}
		}
	}
	for _, e := range entries {
		l.push(e)
	}
	if !raft.IsEmptyHardState(hs) {
		l.hard = hs
	}
}

// Truncate adds to b the removal of the entries up to index.
func (l *Log) Truncate(b *pebble.Batch, index uint64) error {
	term, err := l.Term(index)
	if err != nil {
		return fmt.Errorf("truncate the log up to %d: %w", index, err)
	}
	if err := b.DeleteRange(logStart, entryKey(index+1), nil); err != nil {
		return err
	}
	return set(b, truncatedKey, &metapb.Truncated{Format: recordFormat, Index: index, Term: term})
}

// DidTruncate says that the batch of a Truncate is in the store.
func (l *Log) DidTruncate(index uint64) {
	term, err := l.Term(index)
	if err != nil {
		panic(fmt.Sprintf("raftlog: truncated up to %d: %v", index, err))
	}
	for _, k := range l.kept[:index-l.trunc.index] {
		l.size -= k.size
	}
	l.kept = slices.Clone(l.kept[index-l.trunc.index:])
	for len(l.tail) > 0 && l.tail[0].GetIndex() <= index {
		l.dropOldest()
	}
	l.trunc = position{index, term}
}

// Reset adds to b an empty log that goes on after a snapshot at index and term.
func (l *Log) Reset(b *pebble.Batch, index, term uint64) error {
	if err := b.DeleteRange(logStart, logEnd, nil); err != nil {
		return err
	}
	hs := &metapb.HardState{Format: recordFormat, Term: max(term, l.hard.GetTerm()), Vote: l.hard.GetVote(), Commit: max(index, l.hard.GetCommit())}
	if hs.Term > l.hard.GetTerm() {
		hs.Vote = 0
	}
	if err := set(b, hardStateKey, hs); err != nil {
		return err
	}
	return set(b, truncatedKey, &metapb.Truncated{Format: recordFormat, Index: index, Term: term})
}

// DidReset says that the batch of a Reset is in the store.
func (l *Log) DidReset(index, term uint64) {
	if term > l.hard.GetTerm() {
		l.hard = &raftpb.HardState{Term: new(term), Vote: new(uint64(0)), Commit: new(index)}
	} else {
		l.hard = &raftpb.HardState{Term: l.hard.Term, Vote: l.hard.Vote, Commit: new(max(index, l.hard.GetCommit()))}
	}
	l.trunc = position{index, term}
	l.kept, l.size, l.tail, l.bytes = nil, 0, nil, 0
}

// Len returns the number of kept entries and the bytes of their data.
func (l *Log) Len() (entries, bytes int) { return len(l.kept), l.size }

// Before returns the last entry before the newest that are together at most entries and bytes.
func (l *Log) Before(entries, bytes int) uint64 {
	n := 0
	for n < min(entries, len(l.kept)) {
		if bytes -= l.kept[len(l.kept)-1-n].size; bytes < 0 {
			break
		}
		n++
	}
	return l.last() - uint64(n)
}

// InitialState implements raft.Storage.
func (l *Log) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	_, _, conf := l.applied()
	return l.hard, conf, nil
}

// Entries implements raft.Storage.
func (l *Log) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= l.trunc.index {
		return nil, raft.ErrCompacted
	}
	if hi > l.last()+1 {
		return nil, raft.ErrUnavailable
	}
	if lo >= hi {
		return nil, nil
	}
	var entries []*raftpb.Entry
	size := uint64(0)
	take := func(e *raftpb.Entry) bool {
		size += uint64(len(e.Data)) + 24 // 24: at most, for type, term and index
		if len(entries) > 0 && size > maxSize {
			return false
		}
		entries = append(entries, e)
		return e.GetIndex()+1 < hi
	}
	if len(l.tail) > 0 && lo >= l.tail[0].GetIndex() {
		for _, e := range l.tail[lo-l.tail[0].GetIndex():] {
			if !take(e) {
				break
			}
		}
		return entries, nil
	}
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(lo), UpperBound: entryKey(hi)})
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		e, err := decodeEntry(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		if e.GetIndex() != lo+uint64(len(entries)) {
			return nil, fmt.Errorf("%w: entry %d where %d should be", ErrCorrupt, e.GetIndex(), lo+uint64(len(entries)))
		}
		if !take(e) {
			break
		}
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w: entry %d is missing", ErrCorrupt, lo)
	}
	return entries, nil
}

// Term implements raft.Storage.
func (l *Log) Term(i uint64) (uint64, error) {
	switch {
	case i < l.trunc.index:
		return 0, raft.ErrCompacted
	case i == l.trunc.index:
		return l.trunc.term, nil
	case i > l.last():
		return 0, raft.ErrUnavailable
	}
	return l.kept[i-l.trunc.index-1].term, nil
}

// FirstIndex implements raft.Storage.
func (l *Log) FirstIndex() (uint64, error) { return l.trunc.index + 1, nil }

// LastIndex implements raft.Storage.
func (l *Log) LastIndex() (uint64, error) { return l.last(), nil }

// Snapshot implements raft.Storage. The snapshot says what the state is of; the state itself is read from the
// store by whoever sends it, in the same turn of the node's loop.
func (l *Log) Snapshot() (*raftpb.Snapshot, error) {
	index, term, conf := l.applied()
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(index), Term: new(term), ConfState: conf}}, nil
}
