package exec

import (
	"context"
	"errors"
	"io"

	"github.com/daybook/daybook/query/internal/expr"
	"github.com/daybook/daybook/query/internal/plan"
	"github.com/daybook/daybook/query/internal/value"
)

// join holds the right side in a hash table over its keys, or as a list where there are none, and goes
// through the left.
type join struct {
	n                   *plan.Join
	left, right         Op
	mem                 *Memory
	lt, rt              []value.Type
	keepLeft, keepRight bool

	built   bool
	rows    *value.Batch     // the right side
	heads   map[string]int32 // key to the first row
	chain   []int32          // row to the next with the same key, -1
	matched []bool           // rows of the right side, if keepRight
	held    int64

	probe   *value.Batch
	keys    []*value.Vec
	at      int   // row of probe
	cand    int32 // next candidate of the right side for row at; -2: not looked up yet
	hit     bool  // row at has a match
	rest    int   // next row of the right side to check for having no match
	probing bool
}

func (j *join) build(ctx context.Context) error {
	j.rows = &value.Batch{}
	for _, t := range j.rt {
		j.rows.Cols = append(j.rows.Cols, value.NewVec(t, 0))
	}
	j.heads = map[string]int32{}
	tails := map[string]int32{}
	var key []byte
	for {
		b, err := j.right.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		from := j.rows.Len
		for i := range b.Len {
			for k, c := range b.Cols {
				j.rows.Cols[k].AppendFrom(c, i)
			}
		}
		size := int64(b.Len) * 24
		for _, c := range j.rows.Cols {
			c.CloneStrings(from)
			size += c.Slice(from, c.Len).Bytes()
		}
		j.rows.Len += b.Len
		var keys []*value.Vec
		for _, e := range j.n.RKeys {
			v, err := e.Eval(b)
			if err != nil {
				return err
			}
			keys = append(keys, v)
		}
		for i := range b.Len {
			r := int32(from + i)
			j.chain = append(j.chain, -1)
			if j.n.LKeys == nil {
				continue
			}
			var ok bool
			if key, ok = joinKey(key[:0], keys, i); !ok {
				continue
			}
			if t, dup := tails[string(key)]; dup {
				j.chain[t] = r
			} else {
				j.heads[string(key)] = r
				size += 2 * (int64(len(key)) + 32)
			}
			tails[string(key)] = r
		}
		j.held += size
		if err := j.mem.Reserve(size); err != nil {
			return err
		}
	}
	if j.keepRight {
		j.matched = make([]bool, j.rows.Len)
	}
	j.built = true
	return nil
}

// joinKey encodes the keys of a row; a null or NaN equals nothing.
func joinKey(dst []byte, keys []*value.Vec, i int) ([]byte, bool) {
	for _, k := range keys {
		if k.IsNull(i) || k.Type.IsFloat() && k.F64[i] != k.F64[i] {
			return dst, false
		}
		dst = value.AppendKey(dst, k, i)
	}
	return dst, true
}

func (j *join) Next(ctx context.Context) (*value.Batch, error) {
	if !j.built {
		if err := j.build(ctx); err != nil {
			return nil, err
		}
	}
	for {
		if !j.probing {
			b, err := j.left.Next(ctx)
			if errors.Is(err, io.EOF) {
				return j.unmatched()
			}
			if err != nil {
				return nil, err
			}
			j.probe, j.at, j.cand, j.hit, j.probing = b, 0, -2, false, true
			j.keys = j.keys[:0]
			for _, e := range j.n.LKeys {
				v, err := e.Eval(b)
				if err != nil {
					return nil, err
				}
				j.keys = append(j.keys, v)
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b, err := j.pairs()
		if err != nil {
			return nil, err
		}
		if b != nil && b.Len > 0 {
			return b, nil
		}
	}
}

// pairs gives the next rows of the current probe batch.
func (j *join) pairs() (*value.Batch, error) {
	var ls, rs []int32
	var ends []int // places in ls where a left row had its last candidate
	var key []byte
	for j.at < j.probe.Len && len(ls) < value.BatchSize {
		if j.cand == -2 {
			j.hit = false
			j.cand = -1
			if j.n.LKeys == nil {
				if j.rows.Len > 0 {
					j.cand = 0
				}
			} else {
				var ok bool
				if key, ok = joinKey(key[:0], j.keys, j.at); ok {
					if h, ok := j.heads[string(key)]; ok {
						j.cand = h
					}
				}
			}
		}
		for j.cand >= 0 && len(ls) < value.BatchSize {
			ls = append(ls, int32(j.at))
			rs = append(rs, j.cand)
			if j.n.LKeys == nil {
				if j.cand++; int(j.cand) == j.rows.Len {
					j.cand = -1
				}
			} else {
				j.cand = j.chain[j.cand]
			}
		}
		if j.cand >= 0 {
			break // the batch is full
		}
		ends = append(ends, len(ls))
		j.at++
		j.cand = -2
	}
	if j.at >= j.probe.Len {
		j.probing = false
	}
	keep := make([]bool, len(ls))
	if j.n.Cond != nil && len(ls) > 0 {
		sel, err := expr.Bool(j.n.Cond, j.combine(ls, rs), nil)
		if err != nil {
			return nil, err
		}
		for _, i := range sel {
			keep[i] = true
		}
	} else {
		for i := range keep {
			keep[i] = true
		}
	}
	// Rows of the left without a match are given where their candidates end.
	var ol, or []int32
	e := 0
	first := j.at - len(ends) // the left row of ends[0]
	flush := func(upTo int) {
		for e < len(ends) && ends[e] <= upTo {
			if j.keepLeft && !j.hit {
				ol = append(ol, int32(first+e))
				or = append(or, -1)
			}
			j.hit = false
			e++
		}
	}
	for i := range ls {
		flush(i)
		if keep[i] {
			j.hit = true
			if j.matched != nil {
				j.matched[rs[i]] = true
			}
			ol, or = append(ol, ls[i]), append(or, rs[i])
		}
	}
	flush(len(ls))
	if len(ol) == 0 {
		return nil, nil
	}
	return j.combine(ol, or), nil
}

func (j *join) combine(ls, rs []int32) *value.Batch {
	l, r := j.probe.Gather(ls), j.rows.Gather(rs)
	return &value.Batch{Cols: append(l.Cols, r.Cols...), Len: len(ls)}
}

// unmatched gives the rows of the right side that had no match.
func (j *join) unmatched() (*value.Batch, error) {
	var rs []int32
	for j.rest < len(j.matched) && len(rs) < value.BatchSize {
		if !j.matched[j.rest] {
			rs = append(rs, int32(j.rest))
		}
		j.rest++
	}
	if len(rs) == 0 {
		return nil, io.EOF
	}
	b := &value.Batch{Len: len(rs)}
	for _, t := range j.lt {
		b.Cols = append(b.Cols, value.Constant(t, nil, len(rs)))
	}
	b.Cols = append(b.Cols, j.rows.Gather(rs).Cols...)
	return b, nil
}

func (j *join) Close() {
	j.left.Close()
	j.right.Close()
	j.mem.Reserve(-j.held)
	j.held = 0
}
