package dispatch

import (
	"cmp"
	"slices"
	"strings"
)

// A Candidate is a consumer that may become the active one.
type Candidate struct {
	Priority int32
	Name     string
}

// Active is the index of the active consumer among those of a Failover subscription, -1 if there is none: of the
// consumers with the least priority value, by name (ties: the one that came first), the one at partition modulo
// their number. Partition is 0, or less, for a topic that is not a partition.
func Active(cs []Candidate, partition int) int {
	if len(cs) == 0 {
		return -1
	}
	order := make([]int, len(cs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if c := cmp.Compare(cs[a].Priority, cs[b].Priority); c != 0 {
			return c
		}
		return strings.Compare(cs[a].Name, cs[b].Name)
	})
	top := 1
	for top < len(order) && cs[order[top]].Priority == cs[order[0]].Priority {
		top++
	}
	return order[max(partition, 0)%top]
}
