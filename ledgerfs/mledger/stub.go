package mledger

import (
	"context"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

type pending struct{}

// MaxPrefix is the longest prefix that is written before an entry.
const MaxPrefix = 32

// A Prefix is the broker's metadata of an entry.
type Prefix struct {
	Time  int64 // of the broker, ms since 1970
	Index int64 // of the entry's last message
}

// AppendPrefix appends the stored form of p to dst.
func AppendPrefix(dst []byte, p Prefix) []byte { panic("soon") }

// CutPrefix splits a stored entry into the broker's prefix and the producer's bytes. It fails if the prefix
// is damaged or missing.
func CutPrefix(entry []byte) (p Prefix, rest []byte, err error) { panic("soon") }

// A Factory opens topics. It may be used by any goroutine.
type Factory struct{}

// New starts a factory. Close ends it.
func New(cfg Config) *Factory { panic("soon") }

// Close closes all topics (as Ledger.Close does) and ends the factory.
func (f *Factory) Close(ctx context.Context) error { panic("soon") }

// Open takes the topic over: its former owner, if it still writes, is fenced. ErrNotFound if it does not
// exist. A topic must be open once in a process.
func (f *Factory) Open(ctx context.Context, n topicname.Name, o Options) (*Ledger, error) {
	panic("soon")
}

// OpenOrCreate is Open, and creates the topic if it does not exist.
func (f *Factory) OpenOrCreate(ctx context.Context, n topicname.Name, o Options) (*Ledger, error) {
	panic("soon")
}

// Delete removes a topic that is not open, with its cursors. Deleting what does not exist is ErrNotFound.
func (f *Factory) Delete(ctx context.Context, n topicname.Name) error { panic("soon") }

// A Ledger is a topic that this process owns. All methods may be called by any goroutine.
type Ledger struct{}

// Name is the topic's name.
func (l *Ledger) Name() topicname.Name { panic("soon") }

// Incarnation is the topic's identity, kept until it is deleted.
func (l *Ledger) Incarnation() chain.Incarnation { panic("soon") }

// Append adds an entry. It does not wait: a.Done is told, possibly before Append returns. Entries are stored
// in the order of the calls.
func (l *Ledger) Append(a *Append) { panic("soon") }

// Close waits for the appends in flight, writes the acknowledgements, and closes the topic's ledgers. Then the
// topic may be opened again, here or elsewhere.
func (l *Ledger) Close(ctx context.Context) error { panic("soon") }

// Terminate ends the topic for writing and returns its last position. Terminating twice is no error.
func (l *Ledger) Terminate(ctx context.Context) (ledgerfs.Position, error) { panic("soon") }

// Delete removes the topic with its cursors and entries and closes it.
func (l *Ledger) Delete(ctx context.Context) error { panic("soon") }

// SetOptions changes the options; they hold from now on (quorums: from the next ledger on).
func (l *Ledger) SetOptions(o Options) { panic("soon") }

// Roll closes the current ledger; the next append begins another.
func (l *Ledger) Roll(ctx context.Context) error { panic("soon") }

// Trim removes, from the front, closed ledgers that all durable cursors have passed and retention does not keep.
// The last ledger is always kept.
func (l *Ledger) Trim(ctx context.Context) error { panic("soon") }

// Truncate removes, from the front, all closed ledgers but the last; cursors move to the first entry left.
func (l *Ledger) Truncate(ctx context.Context) error { panic("soon") }

// Properties are the topic's properties; the map must not be changed.
func (l *Ledger) Properties() map[string]string { panic("soon") }

// UpdateProperties changes the properties in one transaction: update is given a copy to change. It may be called
// more than once.
func (l *Ledger) UpdateProperties(ctx context.Context, update func(map[string]string)) error {
	panic("soon")
}

// Epoch is the topic's epoch of exclusive producers; false if there never was one.
func (l *Ledger) Epoch() (uint64, bool) { panic("soon") }

// SetEpoch stores the topic's epoch, durably.
func (l *Ledger) SetEpoch(ctx context.Context, epoch uint64) error { panic("soon") }

// SetText records where a closed ledger's text lies; only views with Known set are changed. It is no error if the
// ledger is gone.
func (l *Ledger) SetText(ctx context.Context, id ledgerfs.LedgerID, renderVersion uint32, text [chain.NumViews]chain.Text) error {
	panic("soon")
}

// Terminated reports whether the topic is terminated.
func (l *Ledger) Terminated() bool { panic("soon") }

// LastConfirmed is the position of the last acknowledged entry; of a topic without entries Position{-1, -1} or
// entry -1 of a ledger.
func (l *Ledger) LastConfirmed() ledgerfs.Position { panic("soon") }

// First is the position of the first entry there is, or that the next one will have (as far as known:
// Position{-1, 0} where there is no ledger).
func (l *Ledger) First() ledgerfs.Position { panic("soon") }

// NextIndex is the index that the next message will have.
func (l *Ledger) NextIndex() int64 { panic("soon") }

// Entries is the number of entries, Bytes their payload bytes.
func (l *Ledger) Entries() int64 { panic("soon") }
func (l *Ledger) Bytes() int64   { panic("soon") }

// Fence is what a reader may see now: everything acknowledged before the call.
func (l *Ledger) Fence() chain.Fence { panic("soon") }

// Stats shows the topic's inner workings.
func (l *Ledger) Stats() Stats { panic("soon") }

// Listen has li told about growth from now on, until Unlisten. An entry that is confirmed before Listen returns
// may be told about or not.
func (l *Ledger) Listen(li Listener) { panic("soon") }

// Unlisten ends Listen; one call may still be under way when it returns.
func (l *Ledger) Unlisten(li Listener) { panic("soon") }

// ReadCached returns confirmed entries from the first one at or after from on, as far as they are in memory; it
// never waits. It appends at most maxEntries entries of maxBytes (the first however large) to dst. More says
// that there are further confirmed entries, in memory or not: with none returned, use Read. The payloads are
// stored entries: see CutPrefix.
func (l *Ledger) ReadCached(dst []ledgerfs.Entry, from ledgerfs.Position, maxEntries, maxBytes int) (entries []ledgerfs.Entry, more bool) {
	panic("soon")
}

// Read is ReadCached, but goes to the bookies for what is not in memory. It returns no entries, and no error, if
// there are no confirmed ones at or after from. An entry that no bookie can deliver fails the read if it
// is the first (ledger.ErrUnreadable); the caller decides whether to skip it.
func (l *Ledger) Read(ctx context.Context, dst []ledgerfs.Entry, from ledgerfs.Position, maxEntries, maxBytes int) ([]ledgerfs.Entry, error) {
	panic("soon")
}

// Next is the position of the first entry after p, or where it will be if there is none yet. Positions that do not
// exist (trimmed, beyond a ledger's end) are allowed.
func (l *Ledger) Next(p ledgerfs.Position) ledgerfs.Position { panic("soon") }

// Prev is the position of the last entry before p; entry -1 of the first ledger if there is none.
func (l *Ledger) Prev(p ledgerfs.Position) ledgerfs.Position { panic("soon") }

// Exists reports whether the entry at p is stored and confirmed.
func (l *Ledger) Exists(p ledgerfs.Position) bool { panic("soon") }

// Count is the number of confirmed entries e with after < e <= to.
func (l *Ledger) Count(after, to ledgerfs.Position) int64 { panic("soon") }

// Advance is the position of the n-th entry after p (n >= 1), at most LastConfirmed.
func (l *Ledger) Advance(p ledgerfs.Position, n int64) ledgerfs.Position { panic("soon") }

// Find is the first entry for which after is true, given that once true it stays true for all later entries: a
// search by publish time. Position Next(LastConfirmed) and false if there is none. After sees the stored entry. If
// the ledgers' publish times are known, at (ms since 1970, 0: not a search by time) leaves out whole ledgers.
func (l *Ledger) Find(ctx context.Context, at int64, after func(e ledgerfs.Entry) (bool, error)) (ledgerfs.Position, bool, error) {
	panic("soon")
}

// OpenCursor is the durable cursor of that name, created at start with the properties if it does not exist.
func (l *Ledger) OpenCursor(ctx context.Context, name string, start Start, props map[string]string) (c *Cursor, created bool, err error) {
	panic("soon")
}

// Cursor is the durable cursor of that name, nil if there is none.
func (l *Ledger) Cursor(name string) *Cursor { panic("soon") }

// Cursors lists the durable cursors by name.
func (l *Ledger) Cursors() []*Cursor { panic("soon") }

// NewReaderCursor makes a cursor that is not stored and keeps no data from being trimmed. Its owner closes it.
func (l *Ledger) NewReaderCursor(name string, start Start) *Cursor { panic("soon") }

// DeleteCursor removes a durable cursor, at once and for good.
func (l *Ledger) DeleteCursor(ctx context.Context, name string) error { panic("soon") }

// A Cursor is how far one subscription has acknowledged a topic: everything up to the mark-delete position, and
// single entries, or batch indexes of entries, after it. All methods may be called by any goroutine; none of them
// waits, but for those with a context.
type Cursor struct{}

// Name is the cursor's name.
func (c *Cursor) Name() string { panic("soon") }

// Durable reports whether the cursor is stored.
func (c *Cursor) Durable() bool { panic("soon") }

// MarkDelete is the position up to which everything is acknowledged.
func (c *Cursor) MarkDelete() ledgerfs.Position { panic("soon") }

// FirstUnacked is the position of the first entry not (wholly) acknowledged, or where the next entry will be: where
// dispatch begins.
func (c *Cursor) FirstUnacked() ledgerfs.Position { panic("soon") }

// AckAll acknowledges everything up to and including p: a cumulative acknowledgement. Positions before the
// mark-delete position change nothing; positions after the last confirmed entry count as that. If remaining is not nil, the
// entry at p itself is acknowledged only but for those batch indexes (see Ack).
func (c *Cursor) AckAll(p ledgerfs.Position, remaining []int64) { panic("soon") }

// Ack acknowledges the entry at p. If remaining is not nil it is the protocol's ack_set: bit i%64 of word i/64 is set if
// batch index i is not acknowledged by this call; words that are missing are zero. Acknowledgements of one entry
// add up, and when nothing remains the entry is acknowledged. It reports whether the entry as a whole became
// acknowledged by this call.
func (c *Cursor) Ack(p ledgerfs.Position, remaining []int64) bool { panic("soon") }

// AckMany is Ack of whole entries; it returns how many became acknowledged by this call.
func (c *Cursor) AckMany(ps []ledgerfs.Position) int { panic("soon") }

// IsAcked reports whether the entry at p is wholly acknowledged.
func (c *Cursor) IsAcked(p ledgerfs.Position) bool { panic("soon") }

// Remaining is the ack_set of an entry of which some batch indexes are acknowledged, nil for all others. It must not be
// changed.
func (c *Cursor) Remaining(p ledgerfs.Position) []int64 { panic("soon") }

// NextUnacked is the first position >= p that is not acknowledged.
func (c *Cursor) NextUnacked(p ledgerfs.Position) ledgerfs.Position { panic("soon") }

// Backlog is the number of confirmed entries that are not acknowledged.
func (c *Cursor) Backlog() int64 { panic("soon") }

// Reset moves the cursor so that p is the first entry that is not acknowledged, durably; all single
// acknowledgements are dropped.
func (c *Cursor) Reset(ctx context.Context, start Start) error { panic("soon") }

// Flush waits until all acknowledgements made before it are durable.
func (c *Cursor) Flush(ctx context.Context) error { panic("soon") }

// Properties are the cursor's properties; the map must not be changed.
func (c *Cursor) Properties() map[string]string { panic("soon") }

// SetProperties replaces the properties, durably.
func (c *Cursor) SetProperties(ctx context.Context, props map[string]string) error { panic("soon") }

// Stats shows the cursor's inner workings.
func (c *Cursor) Stats() CursorStats { panic("soon") }

// Close forgets a reader's cursor; on durable cursors it does nothing.
func (c *Cursor) Close() { panic("soon") }
