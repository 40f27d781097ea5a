// Package placement chooses the members of a new ensemble. It is pure: the caller brings the candidates and
// the randomness.
package placement

import (
	"errors"

	"github.com/daybook/daybook/ledgerfs"
)

// ErrNotEnough: there are fewer bookies than the ensemble needs.
var ErrNotEnough = errors.New("not enough bookies")

// A Candidate is a bookie that takes new ledgers, with its free space in bytes.
type Candidate struct {
	Member ledgerfs.Member
	Free   int64
}

// Choose picks n candidates on n different bookies, at random, each with a chance in proportion to its free
// space, so that bookies fill up together and ledgers spread. random(m) is a number in [0, m).
func Choose(cs []Candidate, n int, random func(m int64) int64) ([]ledgerfs.Member, error) {
	left := make([]Candidate, 0, len(cs))
	for _, c := range cs {
		c.Free = max(c.Free>>20, 1) // in MiB, so that the sum cannot overflow; a full one keeps a small chance
		left = append(left, c)
	}
	out := make([]ledgerfs.Member, 0, n)
	for len(out) < n {
		var sum int64
		for _, c := range left {
			sum += c.Free
		}
		if sum == 0 {
			return nil, ErrNotEnough
		}
		at := random(sum)
		var m ledgerfs.Member
		for _, c := range left {
			if at < c.Free {
				m = c.Member
				break
			}
			at -= c.Free
		}
		out = append(out, m)
		keep := left[:0]
		for _, c := range left {
			if c.Member.Bookie != m.Bookie {
				keep = append(keep, c)
			}
		}
		left = keep
	}
	return out, nil
}
