// Package ledgermeta is the stored metadata of one ledger: its key, its bytes, and the rules that every
// record keeps. Decode checks the rules, so that what it returns can be relied on.
package ledgermeta

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/internal/quorum"
)

// Format is the version of the record that this code writes; it reads all up to it.
const Format = 1

// ErrCorrupt: the stored bytes are not a ledger's metadata, or of a newer format.
var ErrCorrupt = errors.New("ledger metadata is damaged")

// A State is the state of a ledger.
type State uint8

// The states; they only go forward.
const (
	Open State = iota + 1
	InRecovery
	Closed
)

// DigestCRC32C is the only kind of digest so far: ledgerfs.EntryDigest.
const DigestCRC32C = 1

// A Fragment is a run of entries with one ensemble.
type Fragment struct {
	First ledgerfs.EntryID
	// LengthBefore is the payload bytes of all entries before First, so that the length of a ledger whose
	// last fragment is empty is known.
	LengthBefore int64
	Members      []ledgerfs.Member
}

// An Offload says where a copy of a closed ledger lies outside the bookies.
type Offload struct {
	Driver        string
	UUID          []byte
	Location      map[string]string
	Complete      bool
	BookieDeleted bool
}

// A Ledger is the metadata of one ledger.
type Ledger struct {
	State      State
	Quorum     quorum.Config
	Fragments  []Fragment // at least one; the first begins with entry 0, firsts ascend
	LastEntry  ledgerfs.EntryID
	Length     int64
	Created    int64 // ms since 1970
	Properties map[string]string
	Offload    *Offload
}

// Prefix is what the keys of all ledgers start with.
const Prefix = "ledgers/"

// SequenceKey is the sequence that hands out ledger ids.
const SequenceKey = "seq/ledger"

// Key is the metadata key of a ledger.
func Key(id ledgerfs.LedgerID) string { return fmt.Sprintf("%s%019d", Prefix, int64(id)) }

// GarbagePrefix is what the keys of all ledgers that wait for deletion start with.
const GarbagePrefix = "garbage/"

// GarbageKey marks a ledger that nothing refers to any more.
func GarbageKey(id ledgerfs.LedgerID) string { return fmt.Sprintf("%s%019d", GarbagePrefix, int64(id)) }

// ParseGarbageKey is the inverse of GarbageKey.
func ParseGarbageKey(key string) (ledgerfs.LedgerID, error) {
	s, ok := strings.CutPrefix(key, GarbagePrefix)
	n, err := strconv.ParseInt(s, 10, 64)
	if !ok || err != nil || n < 1 {
		return 0, fmt.Errorf("%w: key %q", ErrCorrupt, key)
	}
	return ledgerfs.LedgerID(n), nil
}

// Last is the last fragment.
func (l *Ledger) Last() *Fragment { return &l.Fragments[len(l.Fragments)-1] }

// FragmentOf is the fragment that holds the entry, and the entry before which it ends (-1: it is the last).
func (l *Ledger) FragmentOf(e ledgerfs.EntryID) (f *Fragment, end ledgerfs.EntryID) {
	for i := len(l.Fragments) - 1; i >= 0; i-- {
		if l.Fragments[i].First <= e {
			if i+1 < len(l.Fragments) {
				return &l.Fragments[i], l.Fragments[i+1].First
			}
			return &l.Fragments[i], -1
		}
	}
	return &l.Fragments[0], -1
}

// Validate checks the rules of a record.
func (l *Ledger) Validate() error {
	if err := l.Quorum.Validate(); err != nil {
		return err
	}
	if l.State < Open || l.State > Closed {
		return fmt.Errorf("state %d", l.State)
	}
	if len(l.Fragments) == 0 || l.Fragments[0].First != 0 {
		return errors.New("the first fragment does not begin with entry 0")
	}
	for i, f := range l.Fragments {
		if len(f.Members) != l.Quorum.Ensemble {
			return fmt.Errorf("fragment %d has %d members, the ensemble %d", i, len(f.Members), l.Quorum.Ensemble)
		}
		if i > 0 && (f.First <= l.Fragments[i-1].First || f.LengthBefore < l.Fragments[i-1].LengthBefore) {
			return fmt.Errorf("fragment %d does not follow the one before it", i)
		}
		for j, m := range f.Members {
			if m.Bookie == "" {
				return fmt.Errorf("fragment %d has a member without a name", i)
			}
			for _, o := range f.Members[:j] {
				if o.Bookie == m.Bookie {
					return fmt.Errorf("fragment %d has bookie %q twice", i, m.Bookie)
				}
			}
		}
	}
	if l.State == Closed && (l.LastEntry < -1 || l.Length < 0) {
		return fmt.Errorf("closed at entry %d, length %d", l.LastEntry, l.Length)
	}
	return nil
}

// Encode is the stored form of a valid record.
func (l *Ledger) Encode() ([]byte, error) {
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("encode ledger metadata: %w", err)
	}
	p := LedgerPB{
		Format:      Format,
		State:       uint32(l.State),
		Ensemble:    uint32(l.Quorum.Ensemble),
		WriteQuorum: uint32(l.Quorum.Write),
		AckQuorum:   uint32(l.Quorum.Ack),
		Digest:      DigestCRC32C,
		LastEntry:   int64(l.LastEntry),
		Length:      l.Length,
		Created:     l.Created,
		Properties:  l.Properties,
	}
	for _, f := range l.Fragments {
		fp := &FragmentPB{First: int64(f.First), LengthBefore: f.LengthBefore}
		for _, m := range f.Members {
			fp.Members = append(fp.Members, &MemberPB{Bookie: string(m.Bookie), Incarnation: m.Incarnation[:]})
		}
		p.Fragments = append(p.Fragments, fp)
	}
	if o := l.Offload; o != nil {
		p.Offload = &OffloadPB{Driver: o.Driver, Uuid: o.UUID, Location: o.Location, Complete: o.Complete, BookieDeleted: o.BookieDeleted}
	}
	return p.MarshalVT()
}

// Decode is the inverse of Encode. It copies what it keeps of b.
func Decode(b []byte) (*Ledger, error) {
	var p LedgerPB
	if err := p.UnmarshalVT(b); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if p.Format < 1 || p.Format > Format {
		return nil, fmt.Errorf("%w: format %d, this program knows %d", ErrCorrupt, p.Format, Format)
	}
	if p.Digest != DigestCRC32C {
		return nil, fmt.Errorf("%w: digest type %d", ErrCorrupt, p.Digest)
	}
	if p.State > uint32(Closed) || p.Ensemble > quorum.MaxEnsemble || p.WriteQuorum > quorum.MaxEnsemble || p.AckQuorum > quorum.MaxEnsemble {
		return nil, fmt.Errorf("%w: state %d, quorum %d/%d/%d", ErrCorrupt, p.State, p.Ensemble, p.WriteQuorum, p.AckQuorum)
	}
	l := &Ledger{
		State:      State(p.State),
		Quorum:     quorum.Config{Ensemble: int(p.Ensemble), Write: int(p.WriteQuorum), Ack: int(p.AckQuorum)},
		LastEntry:  ledgerfs.EntryID(p.LastEntry),
		Length:     p.Length,
		Created:    p.Created,
		Properties: p.Properties,
	}
	for _, fp := range p.Fragments {
		f := Fragment{First: ledgerfs.EntryID(fp.First), LengthBefore: fp.LengthBefore}
		for _, mp := range fp.Members {
			m := ledgerfs.Member{Bookie: ledgerfs.BookieID(mp.Bookie)}
			if len(mp.Incarnation) != len(m.Incarnation) {
				return nil, fmt.Errorf("%w: incarnation of %d bytes", ErrCorrupt, len(mp.Incarnation))
			}
			copy(m.Incarnation[:], mp.Incarnation)
			f.Members = append(f.Members, m)
		}
		l.Fragments = append(l.Fragments, f)
	}
	if o := p.Offload; o != nil {
		l.Offload = &Offload{Driver: o.Driver, UUID: o.Uuid, Location: o.Location, Complete: o.Complete, BookieDeleted: o.BookieDeleted}
	}
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return l, nil
}
