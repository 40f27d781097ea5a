package chain

import (
	"errors"
	"fmt"
	"math"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/chainpb"
)

// Format is the version of the records that this code writes; it reads all up to it.
const Format = 1

// Validate checks the rules of a record.
func (r *Record) Validate() error {
	if r.State > Deleted {
		return fmt.Errorf("state %d", r.State)
	}
	if r.NextIndex < 0 || r.CursorLedger < 0 || r.NextCursorLedger < 0 {
		return fmt.Errorf("next index %d, cursor ledger %d", r.NextIndex, r.CursorLedger)
	}
	if k := r.Range; k != nil && k.Start > k.End {
		return fmt.Errorf("key range %d to %d", k.Start, k.End)
	}
	var entries, bytes int64
	for i := range r.Ledgers {
		l := &r.Ledgers[i]
		switch {
		case l.ID < 1 || i > 0 && l.ID <= r.Ledgers[i-1].ID:
			return fmt.Errorf("ledger %d at place %d", l.ID, i)
		case !l.Closed && i < len(r.Ledgers)-2:
			return fmt.Errorf("ledger %d is open, but not one of the last two", l.ID)
		case l.FirstIndex < 0 || l.Messages < 0 || l.Entries < 0 || l.Bytes < 0:
			return fmt.Errorf("ledger %d has negative numbers", l.ID)
		case l.FirstIndex > math.MaxInt64-l.Messages:
			return fmt.Errorf("ledger %d has index %d and %d messages", l.ID, l.FirstIndex, l.Messages)
		case l.Entries > math.MaxInt64-entries || l.Bytes > math.MaxInt64-bytes:
			return errors.New("sums overflow")
		case l.Closed && i > 0 && r.Ledgers[i-1].Closed && l.FirstIndex < r.Ledgers[i-1].FirstIndex+r.Ledgers[i-1].Messages:
			return fmt.Errorf("ledger %d begins with index %d, inside the one before it", l.ID, l.FirstIndex)
		}
		entries += l.Entries
		bytes += l.Bytes
		for _, t := range l.Text {
			if t.Known && (t.Base < 0 || t.Length < 0 || t.Base > math.MaxInt64-t.Length) {
				return fmt.Errorf("ledger %d has text at %d of length %d", l.ID, t.Base, t.Length)
			}
		}
	}
	return nil
}

// Encode is the stored form of a valid record.
func (r *Record) Encode() ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("encode topic record: %w", err)
	}
	p := chainpb.Record{
		Format:       Format,
		Incarnation:  r.Incarnation[:],
		Created:      r.Created,
		State:        uint32(r.State),
		StateSince:   r.StateSince,
		CursorLedger: int64(r.CursorLedger),

		NextCursorLedger: int64(r.NextCursorLedger),
		NextIndex:        r.NextIndex,
		Properties:       r.Properties,
		ReplicatedFrom:   r.ReplicatedFrom,
		Owner:            r.Owner[:],
		OwnerSeq:         r.Seq,
		Ledgers:          make([]*chainpb.Ledger, len(r.Ledgers)),
	}
	if r.State == Terminated {
		p.TerminatedAt = encodePosition(r.TerminatedAt)
	}
	if r.EpochSet {
		p.Epoch = &r.Epoch
	}
	if k := r.Range; k != nil {
		p.Range = &chainpb.KeyRange{Start: k.Start, End: k.End, Parents: k.Parents, Children: k.Children, Segment: k.Segment}
	}
	for i := range r.Ledgers {
		l := &r.Ledgers[i]
		lp := &chainpb.Ledger{
			Id: int64(l.ID), Closed: l.Closed, FirstIndex: l.FirstIndex, Messages: l.Messages, Entries: l.Entries,
			Bytes: l.Bytes, Created: l.Created, ClosedAt: l.ClosedAt, RenderVersion: l.RenderVersion,
		}
		for v, t := range l.Text {
			if t.Known {
				lp.Text = append(lp.Text, &chainpb.Text{View: uint32(v), Base: t.Base, Length: t.Length})
			}
		}
		if l.TimesKnown {
			lp.LeastPublishTime, lp.GreatestPublishTime = &l.LeastPublishTime, &l.GreatestPublishTime
		}
		if o := l.Offload; o != nil {
			lp.Offload = &chainpb.Offload{Driver: o.Driver, Uuid: o.UUID[:], Location: o.Location, Complete: o.Complete, BookieDeleted: o.BookieDeleted}
		}
		p.Ledgers[i] = lp
	}
	return p.MarshalVT()
}

// Decode is the inverse of Encode; Rev is left zero. It copies what it keeps of b.
func Decode(b []byte) (*Record, error) {
	var p chainpb.Record
	if err := p.UnmarshalVT(b); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if p.Format < 1 || p.Format > Format {
		return nil, fmt.Errorf("%w: format %d, this program knows %d", ErrCorrupt, p.Format, Format)
	}
	r := &Record{
		Created:      p.Created,
		StateSince:   p.StateSince,
		CursorLedger: ledgerfs.LedgerID(p.CursorLedger),

		NextCursorLedger: ledgerfs.LedgerID(p.NextCursorLedger),
		NextIndex:        p.NextIndex,
		Properties:       p.Properties,
		ReplicatedFrom:   p.ReplicatedFrom,
		Seq:              p.OwnerSeq,
		TerminatedAt:     decodePosition(p.TerminatedAt),
	}
	if len(p.Incarnation) != len(r.Incarnation) || len(p.Owner) != len(r.Owner) || p.State > uint32(Deleted) {
		return nil, fmt.Errorf("%w: incarnation of %d bytes, owner of %d, state %d", ErrCorrupt, len(p.Incarnation), len(p.Owner), p.State)
	}
	r.State = State(p.State)
	copy(r.Incarnation[:], p.Incarnation)
	copy(r.Owner[:], p.Owner)
	if p.Epoch != nil {
		r.Epoch, r.EpochSet = *p.Epoch, true
	}
	if k := p.Range; k != nil {
		r.Range = &KeyRange{Start: k.Start, End: k.End, Parents: k.Parents, Children: k.Children, Segment: k.Segment}
	}
	if len(p.Ledgers) > 0 {
		r.Ledgers = make([]Ledger, len(p.Ledgers))
	}
	for i, lp := range p.Ledgers {
		l := &r.Ledgers[i]
		*l = Ledger{
			ID: ledgerfs.LedgerID(lp.Id), Closed: lp.Closed, FirstIndex: lp.FirstIndex, Messages: lp.Messages, Entries: lp.Entries,
			Bytes: lp.Bytes, Created: lp.Created, ClosedAt: lp.ClosedAt, RenderVersion: lp.RenderVersion,
		}
		for _, t := range lp.Text {
			if t.View < uint32(NumViews) { // others are of a later version, which counts them again
				l.Text[t.View] = Text{Known: true, Base: t.Base, Length: t.Length}
			}
		}
		if lp.LeastPublishTime != nil && lp.GreatestPublishTime != nil {
			l.TimesKnown, l.LeastPublishTime, l.GreatestPublishTime = true, *lp.LeastPublishTime, *lp.GreatestPublishTime
		}
		if o := lp.Offload; o != nil {
			l.Offload = &Offload{Driver: o.Driver, Location: o.Location, Complete: o.Complete, BookieDeleted: o.BookieDeleted}
			if len(o.Uuid) != len(l.Offload.UUID) {
				return nil, fmt.Errorf("%w: ledger %d is offloaded under an id of %d bytes", ErrCorrupt, l.ID, len(o.Uuid))
			}
			copy(l.Offload.UUID[:], o.Uuid)
		}
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return r, nil
}

func encodePosition(p ledgerfs.Position) *chainpb.Position {
	return &chainpb.Position{Ledger: int64(p.Ledger), Entry: int64(p.Entry)}
}

func decodePosition(p *chainpb.Position) ledgerfs.Position {
	return ledgerfs.Position{Ledger: ledgerfs.LedgerID(p.GetLedger()), Entry: ledgerfs.EntryID(p.GetEntry())}
}

// A Cursor is the stored record of a durable cursor.
type Cursor struct {
	// ID is random: a cursor that was deleted and made anew has another, so that acknowledgements of its
	// former life are told apart.
	ID      uint64
	Created int64 // ms since 1970
	// MarkDelete is where the cursor stood when the record was written; the cursor ledger has the news.
	MarkDelete ledgerfs.Position
	Properties map[string]string
}

// Encode is the stored form of the cursor.
func (c *Cursor) Encode() ([]byte, error) {
	p := chainpb.Cursor{Format: Format, Id: c.ID, Created: c.Created, MarkDelete: encodePosition(c.MarkDelete), Properties: c.Properties}
	return p.MarshalVT()
}

// DecodeCursor is the inverse of Cursor.Encode.
func DecodeCursor(b []byte) (*Cursor, error) {
	var p chainpb.Cursor
	if err := p.UnmarshalVT(b); err != nil {
		return nil, fmt.Errorf("%w: cursor: %v", ErrCorrupt, err)
	}
	if p.Format < 1 || p.Format > Format || p.MarkDelete == nil {
		return nil, fmt.Errorf("%w: cursor of format %d, this program knows %d", ErrCorrupt, p.Format, Format)
	}
	return &Cursor{ID: p.Id, Created: p.Created, MarkDelete: decodePosition(p.MarkDelete), Properties: p.Properties}, nil
}

// A Range is a run of individually acknowledged entries of one ledger, both ends inclusive.
type Range struct {
	Ledger      ledgerfs.LedgerID
	First, Last ledgerfs.EntryID
}

// A BatchAck is an entry of which some batch indexes are acknowledged.
type BatchAck struct {
	Position ledgerfs.Position
	// Remaining is the protocol's ack_set: the bits of the indexes that are not acknowledged.
	Remaining []int64
}

// A CursorState is what a cursor ledger says of one cursor: all of it if Reset, otherwise what was added.
type CursorState struct {
	ID         uint64
	Reset      bool
	MarkDelete ledgerfs.Position
	Acked      []Range // ascending, disjoint
	Batches    []BatchAck
}

// A CursorLog is one entry of a cursor ledger.
type CursorLog struct {
	Cursors []CursorState
}

// Encode is the stored form of the entry.
func (l *CursorLog) Encode() ([]byte, error) {
	p := chainpb.CursorLog{Format: Format, Cursors: make([]*chainpb.CursorState, len(l.Cursors))}
	for i := range l.Cursors {
		s := &l.Cursors[i]
		sp := &chainpb.CursorState{Id: s.ID, Reset_: s.Reset, MarkDelete: encodePosition(s.MarkDelete), Acked: make([]int64, 0, 3*len(s.Acked))}
		var before ledgerfs.LedgerID
		for _, r := range s.Acked {
			sp.Acked = append(sp.Acked, int64(r.Ledger-before), int64(r.First), int64(r.Last-r.First))
			before = r.Ledger
		}
		for _, b := range s.Batches {
			bp := &chainpb.BatchAck{Position: encodePosition(b.Position), Remaining: make([]uint64, len(b.Remaining))}
			for j, w := range b.Remaining {
				bp.Remaining[j] = uint64(w)
			}
			sp.Batches = append(sp.Batches, bp)
		}
		p.Cursors[i] = sp
	}
	return p.MarshalVT()
}

// DecodeCursorLog is the inverse of CursorLog.Encode.
func DecodeCursorLog(b []byte) (*CursorLog, error) {
	var p chainpb.CursorLog
	if err := p.UnmarshalVT(b); err != nil {
		return nil, fmt.Errorf("%w: cursor ledger: %v", ErrCorrupt, err)
	}
	if p.Format < 1 || p.Format > Format {
		return nil, fmt.Errorf("%w: cursor ledger entry of format %d, this program knows %d", ErrCorrupt, p.Format, Format)
	}
	l := &CursorLog{}
	for _, sp := range p.Cursors {
		if sp.MarkDelete == nil || len(sp.Acked)%3 != 0 {
			return nil, fmt.Errorf("%w: state of cursor %x", ErrCorrupt, sp.Id)
		}
		s := CursorState{ID: sp.Id, Reset: sp.Reset_, MarkDelete: decodePosition(sp.MarkDelete)}
		var end ledgerfs.Position
		for a := sp.Acked; len(a) > 0; a = a[3:] {
			r := Range{Ledger: end.Ledger + ledgerfs.LedgerID(a[0]), First: ledgerfs.EntryID(a[1]), Last: ledgerfs.EntryID(a[1] + a[2])}
			if a[0] < 0 || a[1] < 0 || a[2] < 0 || r.Last < r.First || r.Ledger < end.Ledger ||
				len(s.Acked) > 0 && !end.Less(ledgerfs.Position{Ledger: r.Ledger, Entry: r.First}) {
				return nil, fmt.Errorf("%w: acknowledged ranges of cursor %x are out of order", ErrCorrupt, sp.Id)
			}
			end = ledgerfs.Position{Ledger: r.Ledger, Entry: r.Last}
			s.Acked = append(s.Acked, r)
		}
		for _, bp := range sp.Batches {
			b := BatchAck{Position: decodePosition(bp.Position), Remaining: make([]int64, len(bp.Remaining))}
			for j, w := range bp.Remaining {
				b.Remaining[j] = int64(w)
			}
			s.Batches = append(s.Batches, b)
		}
		l.Cursors = append(l.Cursors, s)
	}
	return l, nil
}
