package ledger

import (
	"context"

	"github.com/daybook/daybook/ledgerfs"
)

type op struct{}
type single struct {
	m ledgerfs.Member
	b ledgerfs.Bookie
}

func (s single) Candidates(context.Context) ([]Candidate, error)   { panic("soon") }
func (s single) Bookie(m ledgerfs.Member) (ledgerfs.Bookie, error) { panic("soon") }

// IsDefinite reports that err, from AppendCompleted, means that nothing was stored and nothing will appear.
func IsDefinite(err error) bool { panic("soon") }

// A Client creates, opens, recovers and deletes ledgers. It may be used by any goroutine.
type Client struct{}

// New starts a client. Close ends it.
func New(cfg Config) *Client { panic("soon") }

// Close kills the writers that are still open and waits for the client's goroutine.
func (c *Client) Close() { panic("soon") }

// Create makes a new ledger: commits its metadata, then installs it on its members.
func (c *Client) Create(ctx context.Context, o Options) (*Writer, error) { panic("soon") }

// Open is a reader of the ledger as metadata has it now; the ledger is left alone.
func (c *Client) Open(ctx context.Context, id ledgerfs.LedgerID) (*Reader, error) { panic("soon") }

// Recover closes the ledger: it fences it, finds its last entry, and copies what too few members hold. A
// closed ledger is only opened. It fails with ErrRecovery, having closed nothing, if the members that
// answer cannot tell where the ledger ends.
func (c *Client) Recover(ctx context.Context, id ledgerfs.LedgerID) (*Reader, error) { panic("soon") }

// Delete removes the ledger from its members and from metadata. Deleting a ledger that does not exist is no
// error; if a member cannot be reached it fails, and may be called again.
func (c *Client) Delete(ctx context.Context, id ledgerfs.LedgerID) error { panic("soon") }

// A Reader reads a ledger. It may be used by any goroutine.
type Reader struct{}

// Info is the metadata with which the reader was opened.
func (r *Reader) Info() Info { panic("soon") }

// Read returns entries from first on, in order, at least one, at most maxEntries of maxBytes payload bytes (the
// first one however large), none after last. The caller knows that last is confirmed: of a closed ledger its
// last entry, of an open one what its writer told. Every entry is verified; if a member fails, the others are
// asked. It fails with ErrUnreadable, wrapping what the last member said.
func (r *Reader) Read(ctx context.Context, first, last ledgerfs.EntryID, maxEntries, maxBytes int) ([]ledgerfs.Entry, error) {
	panic("soon")
}

// A Writer is the one writer of an open ledger.
type Writer struct{}

// ID is the ledger's id.
func (w *Writer) ID() ledgerfs.LedgerID { panic("soon") }

// Append adds an entry and sets a.Entry. It does not wait: a.Done is told, possibly before Append returns. It
// must be called by one goroutine at a time.
func (w *Writer) Append(a *Append) { panic("soon") }

// LastConfirmed is the last acknowledged entry, NoEntry if there is none.
func (w *Writer) LastConfirmed() ledgerfs.EntryID { panic("soon") }

// Reader reads the writer's own ledger.
func (w *Writer) Reader() *Reader { panic("soon") }

// Close waits for the appends in flight and closes the ledger after the last acknowledged entry.
func (w *Writer) Close(ctx context.Context) (Info, error) { panic("soon") }
