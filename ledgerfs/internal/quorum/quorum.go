// Package quorum decides: which members of an ensemble hold an entry, when an entry is acknowledged, and what
// the answers to a recovery's questions prove. It is pure arithmetic, BookKeeper's rules.
package quorum

import (
	"fmt"
	"math/bits"

	"github.com/daybook/daybook/ledgerfs"
)

// MaxEnsemble bounds the size of an ensemble: a Set is one word.
const MaxEnsemble = 64

// A Config is the three numbers of a ledger: each entry goes to Write of Ensemble members and is acknowledged
// when Ack of them have it.
type Config struct {
	Ensemble, Write, Ack int
}

// Validate checks MaxEnsemble >= Ensemble >= Write >= Ack >= 1.
func (c Config) Validate() error {
	if c.Ensemble > MaxEnsemble || c.Ensemble < c.Write || c.Write < c.Ack || c.Ack < 1 {
		return fmt.Errorf("quorum %d/%d/%d: want %d >= ensemble >= write quorum >= ack quorum >= 1",
			c.Ensemble, c.Write, c.Ack, MaxEnsemble)
	}
	return nil
}

// Member is the place in the ensemble of the i-th member (0 <= i < Write) of the entry's write set.
func (c Config) Member(e ledgerfs.EntryID, i int) int {
	return int((int64(e) + int64(i)) % int64(c.Ensemble))
}

// WriteSet is the members that hold the entry.
func (c Config) WriteSet(e ledgerfs.EntryID) Set {
	var s Set
	for i := range c.Write {
		s.Add(c.Member(e, i))
	}
	return s
}

// Acknowledged reports whether the members that stored an entry suffice.
func (c Config) Acknowledged(stored Set) bool { return stored.Len() >= c.Ack }

// Hopeless reports whether so many members of a write set have failed that the rest cannot acknowledge.
func (c Config) Hopeless(failed Set) bool { return c.Write-failed.Len() < c.Ack }

// A Set is a set of places in an ensemble.
type Set uint64

// Add puts i into the set.
func (s *Set) Add(i int) { *s |= 1 << i }

// Has reports whether i is in the set.
func (s Set) Has(i int) bool { return s&(1<<i) != 0 }

// Len is the number of members.
func (s Set) Len() int { return bits.OnesCount64(uint64(s)) }

// Covered reports whether the members that answered a fencing request suffice: no write quorum can still
// acknowledge an entry behind the recovery's back, because of each of them fewer than Ack did not answer.
func (c Config) Covered(answered Set) bool {
	for first := range c.Ensemble {
		unknown := 0
		for i := range c.Write {
			if !answered.Has((first + i) % c.Ensemble) {
				unknown++
			}
		}
		if unknown >= c.Ack {
			return false
		}
	}
	return true
}

// A Verdict is what the answers about one entry prove.
type Verdict uint8

// The verdicts.
const (
	Pending Verdict = iota // more answers are needed, and outstanding
	Present                // the entry exists
	Absent                 // the entry was never acknowledged, and never will be
	Unknown                // all have answered and nothing is proved
)

// A Tally counts the answers of a write set to a recovery's read of one entry. Each answer must come from a
// member that had fenced the ledger before it looked: then a negative stays true.
type Tally struct {
	Positive, Negative, Failed int
}

// Verdict weighs the answers: one positive proves presence; Write-Ack+1 negatives prove that no Ack members
// have, or will have, the entry. It does not wait for the rest once one of the two is proved.
func (c Config) Verdict(t Tally) Verdict {
	switch {
	case t.Positive > 0:
		return Present
	case t.Negative >= c.Write-c.Ack+1:
		return Absent
	case t.Positive+t.Negative+t.Failed >= c.Write:
		return Unknown
	}
	return Pending
}
