package dispatch

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// A Range is a range of hashes, both ends included.
type Range struct{ Start, End int32 }

// ErrRanges: a consumer's hash ranges are empty, malformed, or taken.
var ErrRanges = errors.New("hash ranges cannot be given")

// Keys maps each sticky-key hash to one consumer. The zero value has no consumers and splits by itself (AUTO_SPLIT):
// the first consumer gets everything, each further one half of the largest range; what a leaving one had goes to a
// neighbour. With Sticky set, consumers bring their ranges, and hashes that nobody claims have no consumer.
type Keys struct {
	Sticky bool
	// spans are disjoint and ascend by start.
	spans []span
}

type span struct {
	Range
	c *Consumer
}

// Add gives the consumer its hashes: ranges for sticky keys, nil otherwise.
func (k *Keys) Add(c *Consumer, ranges []Range) error {
	if k.Sticky {
		return k.claim(c, ranges)
	}
	if len(k.spans) == 0 {
		k.spans = append(k.spans, span{Range{0, HashRange - 1}, c})
		return nil
	}
	largest := 0
	for i, s := range k.spans {
		if s.End-s.Start > k.spans[largest].End-k.spans[largest].Start {
			largest = i
		}
	}
	s := &k.spans[largest]
	if s.Start == s.End {
		return fmt.Errorf("%w: every hash has a consumer of its own", ErrRanges)
	}
	mid := s.Start + (s.End-s.Start)/2
	lower := span{Range{s.Start, mid}, c}
	s.Start = mid + 1
	k.spans = slices.Insert(k.spans, largest, lower)
	return nil
}

func (k *Keys) claim(c *Consumer, ranges []Range) error {
	if len(ranges) == 0 {
		return fmt.Errorf("%w: ranges for KeyShared policy must not be empty", ErrRanges)
	}
	all := slices.Clone(k.spans)
	for _, r := range ranges {
		if r.Start < 0 || r.End >= HashRange || r.Start > r.End {
			return fmt.Errorf("%w: [%d,%d] is no range within [0,%d]", ErrRanges, r.Start, r.End, HashRange-1)
		}
		all = append(all, span{r, c})
	}
	slices.SortStableFunc(all, func(a, b span) int { return cmp.Compare(a.Start, b.Start) })
	for i := range len(all) - 1 {
		if a, b := all[i], all[i+1]; a.End >= b.Start {
			return fmt.Errorf("%w: [%d,%d] overlaps with [%d,%d]", ErrRanges, b.Start, b.End, a.Start, a.End)
		}
	}
	k.spans = all
	return nil
}

// Conflict is a consumer that holds a hash of ranges, nil if none does.
func (k *Keys) Conflict(ranges []Range) *Consumer {
	if !k.Sticky {
		return nil
	}
	for _, s := range k.spans {
		for _, r := range ranges {
			if r.Start <= s.End && s.Start <= r.End {
				return s.c
			}
		}
	}
	return nil
}

// Remove takes the consumer's hashes back.
func (k *Keys) Remove(c *Consumer) {
	if k.Sticky {
		k.spans = slices.DeleteFunc(k.spans, func(s span) bool { return s.c == c })
		return
	}
	for i := 0; i < len(k.spans); {
		if k.spans[i].c != c {
			i++
			continue
		}
		// The smaller neighbour grows, so that halves find together again.
		s := k.spans[i]
		k.spans = slices.Delete(k.spans, i, i+1)
		size := func(j int) int32 { return k.spans[j].End - k.spans[j].Start }
		switch {
		case len(k.spans) == 0:
		case i == 0 || i < len(k.spans) && size(i) <= size(i-1):
			k.spans[i].Start = s.Start
		default:
			k.spans[i-1].End = s.End
		}
	}
	// Two ranges of one consumer may have become neighbours.
	for i := 1; i < len(k.spans); {
		if k.spans[i].c == k.spans[i-1].c {
			k.spans[i-1].End = k.spans[i].End
			k.spans = slices.Delete(k.spans, i, i+1)
		} else {
			i++
		}
	}
}

// Owner is the consumer of a hash, nil if it has none.
func (k *Keys) Owner(hash int32) *Consumer {
	i, ok := slices.BinarySearchFunc(k.spans, hash, func(s span, h int32) int { return cmp.Compare(s.Start, h) })
	if !ok {
		i--
	}
	if i < 0 || k.spans[i].End < hash {
		return nil
	}
	return k.spans[i].c
}

// Ranges are the hashes of one consumer.
func (k *Keys) Ranges(c *Consumer) []Range {
	var rs []Range
	for _, s := range k.spans {
		if s.c == c {
			rs = append(rs, s.Range)
		}
	}
	return rs
}
