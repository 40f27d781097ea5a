package exec

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/daybook/daybook/query/internal/expr"
	"github.com/daybook/daybook/query/internal/plan"
	"github.com/daybook/daybook/query/internal/value"
)

// aggregate builds an aggregation; over a pipeline every worker groups on its own, and the groups are merged.
func (r *runner) aggregate(ctx context.Context, n *plan.Aggregate) (Op, error) {
	a := &aggregate{n: n, mem: r.Memory}
	distinct := false
	for _, g := range n.Aggs {
		distinct = distinct || g.Distinct
	}
	if scan, steps, ok := pipeline(n.In); ok && !distinct && r.Workers > 1 {
		splits, err := r.splits(ctx, scan)
		if err != nil {
			return nil, err
		}
		a.splits, a.steps, a.workers = splits, steps, r.Workers
		return a, nil
	}
	in, err := r.build(ctx, n.In, false)
	if err != nil {
		return nil, err
	}
	a.in = in
	return a, nil
}

type aggregate struct {
	n       *plan.Aggregate
	mem     *Memory
	in      Op
	splits  []plan.Split
	steps   []plan.Node
	workers int

	parts []*groups
	out   *value.Batch
	next  int
}

func (a *aggregate) run(ctx context.Context) error {
	feed := func(g *groups, op Op) error {
		for {
			b, err := op.Next(ctx)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := g.add(b); err != nil {
				return err
			}
		}
	}
	if a.in != nil {
		a.parts = []*groups{newGroups(a.n, a.mem)}
		if err := feed(a.parts[0], a.in); err != nil {
			return err
		}
	} else {
		for range max(1, min(a.workers, len(a.splits))) {
			a.parts = append(a.parts, newGroups(a.n, a.mem))
		}
		splits := a.splits
		a.splits = nil
		if err := eachSplit(ctx, splits, a.steps, a.workers, func(w int, op Op) error { return feed(a.parts[w], op) }); err != nil {
			return err
		}
	}
	g := a.parts[0]
	for _, o := range a.parts[1:] {
		if err := g.merge(o); err != nil {
			return err
		}
	}
	if len(a.n.Keys) == 0 && g.n == 0 {
		g.grow(1)
	}
	a.out = &value.Batch{Len: g.n}
	a.out.Cols = append(a.out.Cols, g.keys...)
	for _, s := range g.states {
		v, err := s.result(g.n)
		if err != nil {
			return err
		}
		a.out.Cols = append(a.out.Cols, v)
	}
	return nil
}

func (a *aggregate) Next(ctx context.Context) (*value.Batch, error) {
	if a.out == nil {
		if err := a.run(ctx); err != nil {
			return nil, err
		}
	}
	n := min(a.out.Len-a.next, value.BatchSize)
	if n <= 0 {
		return nil, io.EOF
	}
	b := a.out.Slice(a.next, a.next+n)
	a.next += n
	return b, nil
}

func (a *aggregate) Close() {
	if a.in != nil {
		a.in.Close()
	}
	for _, s := range a.splits {
		s.Close()
	}
	a.splits = nil
	for _, g := range a.parts {
		a.mem.Reserve(-g.held)
		g.held = 0
	}
}

// groups is a hash table of groups with their aggregates' states.
type groups struct {
	node   *plan.Aggregate
	mem    *Memory
	n      int
	keys   []*value.Vec
	states []state
	seen   []map[string]struct{} // of DISTINCT aggregates: group and value
	held   int64

	ints  map[int64]int32 // one key kept in I64
	strs  map[string]int32
	null  int32 // group of the null key with ints or strs alone, -1
	ids   []int32
	buf   []byte
	empty bool // no keys
}

func newGroups(n *plan.Aggregate, mem *Memory) *groups {
	g := &groups{node: n, mem: mem, null: -1, empty: len(n.Keys) == 0, strs: map[string]int32{}}
	for _, k := range n.Keys {
		g.keys = append(g.keys, value.NewVec(k.Type(), 0))
	}
	if len(n.Keys) == 1 && n.Keys[0].Type().Store() == value.StoreI64 {
		g.ints = map[int64]int32{}
	}
	for _, a := range n.Aggs {
		g.states = append(g.states, newState(a))
		var m map[string]struct{}
		if a.Distinct {
			m = map[string]struct{}{}
		}
		g.seen = append(g.seen, m)
	}
	return g
}

func (g *groups) grow(n int) {
	g.n = n
	for _, s := range g.states {
		s.grow(n)
	}
}

// find gives the group of every row, making new ones.
func (g *groups) find(keys []*value.Vec, n int) []int32 {
	if cap(g.ids) < n {
		g.ids = make([]int32, max(n, value.BatchSize))
	}
	ids := g.ids[:n]
	if g.empty {
		clear(ids)
		g.n = 1
		return ids
	}
	add := func(i int) int32 {
		for k, v := range keys {
			g.keys[k].AppendFrom(v, i)
			g.keys[k].CloneStrings(g.n)
		}
		g.n++
		return int32(g.n - 1)
	}
	k := keys[0]
	switch {
	case g.ints != nil:
		for i := range n {
			if k.IsNull(i) {
				if g.null < 0 {
					g.null = add(i)
				}
				ids[i] = g.null
				continue
			}
			id, ok := g.ints[k.I64[i]]
			if !ok {
				id = add(i)
				g.ints[k.I64[i]] = id
				g.held += 32
			}
			ids[i] = id
		}
	case len(keys) == 1 && k.Type.Store() == value.StoreStr:
		for i := range n {
			if k.IsNull(i) {
				if g.null < 0 {
					g.null = add(i)
				}
				ids[i] = g.null
				continue
			}
			id, ok := g.strs[k.Str[i]]
			if !ok {
				id = add(i)
				g.strs[g.keys[0].Str[id]] = id
				g.held += 64 + int64(len(k.Str[i]))
			}
			ids[i] = id
		}
	default:
		for i := range n {
			g.buf = rowKey(g.buf[:0], keys, i)
			id, ok := g.strs[string(g.buf)]
			if !ok {
				id = add(i)
				g.strs[strings.Clone(string(g.buf))] = id
				g.held += 64 + 2*int64(len(g.buf)) + 16*int64(len(keys))
			}
			ids[i] = id
		}
	}
	return ids
}

func (g *groups) reserve(before int64) error { return g.mem.Reserve(g.held - before) }

func (g *groups) add(b *value.Batch) error {
	before := g.held
	var keys []*value.Vec
	for _, e := range g.node.Keys {
		v, err := e.Eval(b)
		if err != nil {
			return err
		}
		keys = append(keys, v)
	}
	had := g.n
	ids := g.find(keys, b.Len)
	if g.n > had {
		for _, s := range g.states {
			s.grow(g.n)
			g.held += int64(g.n-had) * s.size()
		}
	}
	for k, a := range g.node.Aggs {
		sub, gid := b, ids
		var args []*value.Vec
		if a.Filter != nil {
			sel, err := expr.Bool(a.Filter, b, nil)
			if err != nil {
				return err
			}
			if len(sel) == 0 {
				continue
			}
			sub = b.Gather(sel)
			gid = make([]int32, len(sel))
			for i, s := range sel {
				gid[i] = ids[s]
			}
		}
		for _, e := range a.Args {
			v, err := e.Eval(sub)
			if err != nil {
				return err
			}
			args = append(args, v)
		}
		if a.Distinct {
			args, gid = g.distinct(k, args, gid)
		}
		extra, err := g.states[k].update(gid, args)
		if err != nil {
			return err
		}
		g.held += extra
	}
	return g.reserve(before)
}

// distinct keeps the rows whose value is new in its group.
func (g *groups) distinct(k int, args []*value.Vec, ids []int32) ([]*value.Vec, []int32) {
	var sel []int32
	var gid []int32
	for i, id := range ids {
		if args[0].IsNull(i) {
			continue
		}
		g.buf = append(g.buf[:0], byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
		g.buf = rowKey(g.buf, args, i)
		if _, dup := g.seen[k][string(g.buf)]; !dup {
			g.seen[k][string(g.buf)] = struct{}{}
			g.held += 48 + int64(len(g.buf))
			sel = append(sel, int32(i))
			gid = append(gid, id)
		}
	}
	out := make([]*value.Vec, len(args))
	for i, a := range args {
		out[i] = a.Gather(sel)
	}
	return out, gid
}

func (g *groups) merge(o *groups) error {
	if o.n == 0 {
		return nil
	}
	before := g.held
	had := g.n
	m := append([]int32(nil), g.find(o.keys, o.n)...)
	if g.n > had {
		for _, s := range g.states {
			s.grow(g.n)
			g.held += int64(g.n-had) * s.size()
		}
	}
	for k, s := range g.states {
		if err := s.merge(o.states[k], m); err != nil {
			return err
		}
	}
	return g.reserve(before)
}
