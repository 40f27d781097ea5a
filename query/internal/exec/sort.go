package exec

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/daybook/daybook/query/internal/plan"
	"github.com/daybook/daybook/query/internal/value"
)

// sorter holds all rows, or, with a limit, the first few times limit, and gives them in order. Rows that
// compare equal keep the order in which they came.
type sorter struct {
	in     Op
	keys   []plan.SortKey
	limit  int64
	mem    *Memory
	types  []value.Type
	cols   []*value.Vec
	order  []int32
	done   bool
	next   int
	held   int64
	cut    bool // cols are the best limit rows in order: whatever is behind the last does not count
	behind int  // index of the last of them
}

func (s *sorter) compare(a []*value.Vec, i int, b []*value.Vec, j int) int {
	for _, k := range s.keys {
		x, y := a[k.Col], b[k.Col]
		xn, yn := x.IsNull(i), y.IsNull(j)
		if xn || yn {
			if xn == yn {
				continue
			}
			if xn == k.NullsFirst {
				return -1
			}
			return 1
		}
		if c := value.CompareAt(x, i, y, j); c != 0 {
			if k.Desc {
				return -c
			}
			return c
		}
	}
	return 0
}

func (s *sorter) sort() {
	n := 0
	if len(s.cols) > 0 {
		n = s.cols[0].Len
	}
	s.order = make([]int32, n)
	for i := range s.order {
		s.order[i] = int32(i)
	}
	slices.SortFunc(s.order, func(a, b int32) int {
		if c := s.compare(s.cols, int(a), s.cols, int(b)); c != 0 {
			return c
		}
		return int(a - b)
	})
}

func (s *sorter) load(ctx context.Context) error {
	s.cols = make([]*value.Vec, len(s.types))
	for i, t := range s.types {
		s.cols[i] = value.NewVec(t, 0)
	}
	rows := int64(0)
	for {
		b, err := s.in.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if s.limit == 0 {
			continue
		}
		from, added := s.cols[0].Len, int64(0)
		for i := range b.Len {
			if s.cut && s.compare(b.Cols, i, s.cols, s.behind) >= 0 {
				continue
			}
			for k, c := range b.Cols {
				s.cols[k].AppendFrom(c, i)
			}
			added++
		}
		size := added * int64(len(s.cols)) * 16
		for _, c := range s.cols {
			c.CloneStrings(from)
			for _, v := range c.Str[min(from, len(c.Str)):] {
				size += int64(len(v))
			}
			if len(c.Any) > from {
				size += c.Slice(from, c.Len).Bytes()
			}
		}
		s.held += size
		if err := s.mem.Reserve(size); err != nil {
			return err
		}
		rows += added
		if s.limit > 0 && rows > 2*s.limit+4*value.BatchSize {
			s.sort()
			for k, c := range s.cols {
				s.cols[k] = c.Gather(s.order[:s.limit])
			}
			rows = s.limit
			s.cut, s.behind = true, int(s.limit)-1
			held := int64(0)
			for _, c := range s.cols {
				held += c.Bytes()
			}
			if err := s.mem.Reserve(held - s.held); err != nil {
				return err
			}
			s.held = held
		}
	}
	s.sort()
	if s.limit >= 0 && int64(len(s.order)) > s.limit {
		s.order = s.order[:s.limit]
	}
	return nil
}

func (s *sorter) Next(ctx context.Context) (*value.Batch, error) {
	if !s.done {
		if err := s.load(ctx); err != nil {
			return nil, err
		}
		s.done = true
	}
	n := min(len(s.order)-s.next, value.BatchSize)
	if n <= 0 {
		return nil, io.EOF
	}
	b := (&value.Batch{Cols: s.cols, Len: len(s.order)}).Gather(s.order[s.next : s.next+n])
	s.next += n
	return b, nil
}

func (s *sorter) Close() {
	s.in.Close()
	s.mem.Reserve(-s.held)
	s.held = 0
}
