// Package exec runs plans: operators that pull batches from one another, scans in parallel below what does
// not care for order.
//
// # Goroutines
//
// A pipeline of scan, filter and project under an aggregation, sort, join or set operation runs in up to
// Options.Workers goroutines, which end with the operator that started them; Close waits for them. All
// other operators run in the goroutine that calls Next.
//
// # Memory
//
// What operators hold (groups, rows to sort, build sides) is counted against Options.Memory; beyond it the
// query fails with EXCEEDED_LOCAL_MEMORY_LIMIT.
package exec

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/daybook/daybook/query/internal/expr"
	"github.com/daybook/daybook/query/internal/plan"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/syntax"
	"github.com/daybook/daybook/query/internal/value"
)

// An Op is a running operator. Next gives batches, never empty, then io.EOF. It is used by one goroutine.
type Op interface {
	Next(ctx context.Context) (*value.Batch, error)
	Close()
}

// Memory counts what a query holds, and all queries together in Parent, if it is set.
type Memory struct {
	Limit  int64
	Parent *Memory
	used   atomic.Int64
}

// Reserve adds n bytes, which may be negative.
func (m *Memory) Reserve(n int64) error {
	if m.used.Add(n) > m.Limit && n > 0 {
		m.used.Add(-n)
		return sqlerr.ExceededLocalMemory.Errorf("Query exceeded per-node memory limit of %dMB", m.Limit>>20)
	}
	if p := m.Parent; p != nil && p.used.Add(n) > p.Limit && n > 0 {
		p.used.Add(-n)
		m.used.Add(-n)
		return sqlerr.ClusterOutOfMemory.Errorf("Query was ended because all queries together exceeded %dMB", p.Limit>>20)
	}
	return nil
}

// Release gives back everything that is still held; nothing may be reserved after it.
func (m *Memory) Release() {
	if n := m.used.Swap(0); m.Parent != nil {
		m.Parent.used.Add(-n)
	}
}

// Used gives the bytes held now.
func (m *Memory) Used() int64 { return m.used.Load() }

// Options of a run.
type Options struct {
	Workers int
	Memory  *Memory
}

// Run starts a plan: subqueries run to their end, then the root is ready to be pulled from.
func Run(ctx context.Context, p *plan.Plan, o Options) (Op, error) {
	r := &runner{Options: o}
	for _, s := range p.Subplans {
		if err := r.subplan(ctx, s); err != nil {
			return nil, err
		}
	}
	return r.build(ctx, p.Root, true)
}

type runner struct{ Options }

func (r *runner) subplan(ctx context.Context, s *plan.Subplan) error {
	op, err := r.build(ctx, s.Root, true)
	if err != nil {
		return err
	}
	defer op.Close()
	rows := 0
	var val any
	if s.Set != nil {
		s.Set.Keys = map[string]struct{}{}
	}
	for {
		b, err := op.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		rows += b.Len
		switch {
		case s.Exists != nil:
		case s.Scalar != nil:
			if rows > 1 {
				return sqlerr.SubqueryMultipleRows.Errorf("Scalar sub-query has returned multiple rows")
			}
			b.Cols[0].CloneStrings(0)
			val = b.Cols[0].Get(0)
		default:
			var key []byte
			for i := range b.Len {
				if b.Cols[0].IsNull(i) {
					s.Set.HasNull = true
					continue
				}
				key = value.AppendKey(key[:0], b.Cols[0], i)
				if _, ok := s.Set.Keys[string(key)]; !ok {
					if err := r.Memory.Reserve(int64(len(key)) + 48); err != nil {
						return err
					}
					s.Set.Keys[string(key)] = struct{}{}
				}
			}
		}
	}
	if s.Exists != nil {
		s.Exists.Val = expr.NewConst(value.BooleanType, rows > 0)
	}
	if s.Scalar != nil {
		s.Scalar.Val = expr.NewConst(s.Scalar.T, val)
	}
	return nil
}

// build makes the operator of a node. ordered keeps the order of scans, which are then not parallel.
func (r *runner) build(ctx context.Context, n plan.Node, ordered bool) (Op, error) {
	if scan, steps, ok := pipeline(n); ok {
		if ordered || r.Workers < 2 {
			splits, err := scan.Table.Source.Splits(ctx, plan.Request{Columns: scan.Columns, Bounds: scan.Bounds, Splits: 1})
			if err != nil {
				return nil, err
			}
			return apply(&serial{splits: splits}, steps), nil
		}
		splits, err := r.splits(ctx, scan)
		if err != nil {
			return nil, err
		}
		return &exchange{splits: splits, steps: steps, workers: r.Workers}, nil
	}
	switch n := n.(type) {
	case *plan.Values:
		return &values{n: n}, nil
	case *plan.Filter:
		in, err := r.build(ctx, n.In, ordered)
		if err != nil {
			return nil, err
		}
		return &filter{in: in, cond: n.Cond}, nil
	case *plan.Project:
		in, err := r.build(ctx, n.In, ordered)
		if err != nil {
			return nil, err
		}
		return &project{in: in, exprs: n.Exprs}, nil
	case *plan.Limit:
		in, err := r.build(ctx, n.In, true)
		if err != nil {
			return nil, err
		}
		return &limit{in: in, n: n.N, skip: n.Offset}, nil
	case *plan.Sort:
		in, err := r.build(ctx, n.In, false)
		if err != nil {
			return nil, err
		}
		return &sorter{in: in, keys: n.Keys, limit: n.Limit, mem: r.Memory, types: types(n.Cols())}, nil
	case *plan.Aggregate:
		return r.aggregate(ctx, n)
	case *plan.Join:
		return r.join(ctx, n)
	case *plan.SetOp:
		return r.setOp(ctx, n, ordered)
	}
	return nil, sqlerr.NotSupported.Errorf("operator is not supported")
}

func (r *runner) splits(ctx context.Context, scan *plan.Scan) ([]plan.Split, error) {
	return scan.Table.Source.Splits(ctx, plan.Request{Columns: scan.Columns, Bounds: scan.Bounds, Splits: 4 * r.Workers})
}

func types(cols []plan.Col) []value.Type {
	out := make([]value.Type, len(cols))
	for i, c := range cols {
		out[i] = c.Type
	}
	return out
}

// pipeline takes apart a chain of filters and projections over a scan; the steps go from the scan up.
func pipeline(n plan.Node) (*plan.Scan, []plan.Node, bool) {
	var steps []plan.Node
	for {
		switch t := n.(type) {
		case *plan.Scan:
			for i, j := 0, len(steps)-1; i < j; i, j = i+1, j-1 {
				steps[i], steps[j] = steps[j], steps[i]
			}
			return t, steps, true
		case *plan.Filter:
			steps = append(steps, t)
			n = t.In
		case *plan.Project:
			steps = append(steps, t)
			n = t.In
		default:
			return nil, nil, false
		}
	}
}

func apply(op Op, steps []plan.Node) Op {
	for _, s := range steps {
		switch s := s.(type) {
		case *plan.Filter:
			op = &filter{in: op, cond: s.Cond}
		case *plan.Project:
			op = &project{in: op, exprs: s.Exprs}
		}
	}
	return op
}

// serial reads splits one after the other.
type serial struct{ splits []plan.Split }

func (s *serial) Next(ctx context.Context) (*value.Batch, error) {
	for len(s.splits) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b, err := s.splits[0].Next(ctx)
		if !errors.Is(err, io.EOF) {
			return b, err
		}
		s.splits[0].Close()
		s.splits = s.splits[1:]
	}
	return nil, io.EOF
}

func (s *serial) Close() {
	for _, sp := range s.splits {
		sp.Close()
	}
	s.splits = nil
}

// eachSplit runs f for every split, pulling its pipeline, in up to workers goroutines, and closes all.
func eachSplit(ctx context.Context, splits []plan.Split, steps []plan.Node, workers int, f func(worker int, op Op) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for w := range min(workers, len(splits)) {
		g.Go(func() (err error) {
			defer recovered(&err)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(splits) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := f(w, apply(&serial{splits: splits[i : i+1 : i+1]}, steps)); err != nil {
					return err
				}
			}
		})
	}
	err := g.Wait()
	for _, s := range splits {
		s.Close()
	}
	return err
}

// recovered turns a panic into an error: one statement must not end the process.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = sqlerr.GenericInternal.Errorf("internal error: %v\n%s", p, debug.Stack())
	}
}

// exchange runs a pipeline in several goroutines and gives batches as they come.
type exchange struct {
	splits  []plan.Split
	steps   []plan.Node
	workers int
	out     chan *value.Batch
	err     error // read after out is closed
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

func (e *exchange) Next(ctx context.Context) (*value.Batch, error) {
	if e.out == nil {
		e.out = make(chan *value.Batch, e.workers)
		var run context.Context
		run, e.cancel = context.WithCancel(ctx)
		e.done.Go(func() {
			defer close(e.out)
			e.err = eachSplit(run, e.splits, e.steps, e.workers, func(_ int, op Op) error {
				for {
					b, err := op.Next(run)
					if errors.Is(err, io.EOF) {
						return nil
					}
					if err != nil {
						return err
					}
					select {
					case e.out <- b:
					case <-run.Done():
						return run.Err()
					}
				}
			})
		})
	}
	b, ok := <-e.out
	if ok {
		return b, nil
	}
	if e.err != nil {
		return nil, e.err
	}
	return nil, io.EOF
}

func (e *exchange) Close() {
	if e.cancel == nil {
		for _, s := range e.splits {
			s.Close()
		}
		return
	}
	e.cancel()
	for range e.out {
	}
	e.done.Wait()
}

type values struct {
	n    *plan.Values
	next int
}

func (v *values) Next(context.Context) (*value.Batch, error) {
	k := min(len(v.n.Rows)-v.next, value.BatchSize)
	if k <= 0 {
		return nil, io.EOF
	}
	b := &value.Batch{Len: k}
	for c, col := range v.n.Columns {
		vec := value.NewVec(col.Type, k)
		for i := range k {
			vec.Set(i, v.n.Rows[v.next+i][c])
		}
		b.Cols = append(b.Cols, vec)
	}
	v.next += k
	return b, nil
}

func (*values) Close() {}

type filter struct {
	in   Op
	cond expr.Expr
	sel  []int32
}

func (f *filter) Next(ctx context.Context) (*value.Batch, error) {
	for {
		b, err := f.in.Next(ctx)
		if err != nil {
			return nil, err
		}
		if f.sel, err = expr.Bool(f.cond, b, f.sel); err != nil {
			return nil, err
		}
		switch len(f.sel) {
		case 0:
			continue
		case b.Len:
			return b, nil
		}
		return b.Gather(f.sel), nil
	}
}

func (f *filter) Close() { f.in.Close() }

type project struct {
	in    Op
	exprs []expr.Expr
}

func (p *project) Next(ctx context.Context) (*value.Batch, error) {
	b, err := p.in.Next(ctx)
	if err != nil {
		return nil, err
	}
	o := &value.Batch{Cols: make([]*value.Vec, len(p.exprs)), Len: b.Len}
	for i, e := range p.exprs {
		if o.Cols[i], err = e.Eval(b); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (p *project) Close() { p.in.Close() }

type limit struct {
	in      Op
	n, skip int64
}

func (l *limit) Next(ctx context.Context) (*value.Batch, error) {
	for {
		if l.n == 0 {
			return nil, io.EOF
		}
		b, err := l.in.Next(ctx)
		if err != nil {
			return nil, err
		}
		if l.skip >= int64(b.Len) {
			l.skip -= int64(b.Len)
			continue
		}
		to := b.Len
		if l.n > 0 {
			to = int(min(l.skip+l.n, int64(b.Len)))
		}
		b = b.Slice(int(l.skip), to)
		l.skip = 0
		if l.n > 0 {
			l.n -= int64(b.Len)
		}
		return b, nil
	}
}

func (l *limit) Close() { l.in.Close() }

func (r *runner) setOp(ctx context.Context, n *plan.SetOp, ordered bool) (Op, error) {
	var ins []Op
	for _, c := range n.Ins {
		op, err := r.build(ctx, c, ordered)
		if err != nil {
			for _, o := range ins {
				o.Close()
			}
			return nil, err
		}
		ins = append(ins, op)
	}
	if n.Op == "UNION" {
		return &concat{ins: ins}, nil
	}
	return &setOp{left: ins[0], right: ins[1], except: n.Op == "EXCEPT", all: n.All, mem: r.Memory}, nil
}

type concat struct{ ins []Op }

func (c *concat) Next(ctx context.Context) (*value.Batch, error) {
	for len(c.ins) > 0 {
		b, err := c.ins[0].Next(ctx)
		if !errors.Is(err, io.EOF) {
			return b, err
		}
		c.ins[0].Close()
		c.ins = c.ins[1:]
	}
	return nil, io.EOF
}

func (c *concat) Close() {
	for _, in := range c.ins {
		in.Close()
	}
}

// setOp is INTERSECT and EXCEPT: it counts the right side's rows, then goes through the left.
type setOp struct {
	left, right Op
	except, all bool
	mem         *Memory
	counts      map[string]int64
	given       map[string]struct{} // not all: what was given already
}

func (s *setOp) Next(ctx context.Context) (*value.Batch, error) {
	var key []byte
	if s.counts == nil {
		s.counts, s.given = map[string]int64{}, map[string]struct{}{}
		for {
			b, err := s.right.Next(ctx)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			for i := range b.Len {
				key = rowKey(key[:0], b.Cols, i)
				n, ok := s.counts[string(key)]
				if !ok {
					if err := s.mem.Reserve(int64(len(key)) + 64); err != nil {
						return nil, err
					}
				}
				s.counts[string(key)] = n + 1
			}
		}
	}
	for {
		b, err := s.left.Next(ctx)
		if err != nil {
			return nil, err
		}
		var sel []int32
		for i := range b.Len {
			key = rowKey(key[:0], b.Cols, i)
			n := s.counts[string(key)]
			keep := (n > 0) != s.except
			if s.all {
				if n > 0 {
					s.counts[string(key)] = n - 1
				}
			} else if keep {
				if _, dup := s.given[string(key)]; dup {
					keep = false
				} else {
					if err := s.mem.Reserve(int64(len(key)) + 64); err != nil {
						return nil, err
					}
					s.given[string(key)] = struct{}{}
				}
			}
			if keep {
				sel = append(sel, int32(i))
			}
		}
		if len(sel) > 0 {
			return b.Gather(sel), nil
		}
	}
}

func (s *setOp) Close() { s.left.Close(); s.right.Close() }

func rowKey(dst []byte, cols []*value.Vec, i int) []byte {
	for _, c := range cols {
		dst = value.AppendKey(dst, c, i)
	}
	return dst
}

func (r *runner) join(ctx context.Context, n *plan.Join) (Op, error) {
	left, err := r.build(ctx, n.Left, false)
	if err != nil {
		return nil, err
	}
	right, err := r.build(ctx, n.Right, false)
	if err != nil {
		left.Close()
		return nil, err
	}
	return &join{n: n, left: left, right: right, mem: r.Memory, lt: types(n.Left.Cols()), rt: types(n.Right.Cols()),
		keepLeft:  n.Kind == syntax.LeftJoin || n.Kind == syntax.FullJoin,
		keepRight: n.Kind == syntax.RightJoin || n.Kind == syntax.FullJoin}, nil
}
