package plan

import (
	"math"

	"github.com/daybook/daybook/query/internal/expr"
	"github.com/daybook/daybook/query/internal/syntax"
	"github.com/daybook/daybook/query/internal/value"
)

// conjuncts takes a condition apart at its ANDs.
func conjuncts(e expr.Expr) []expr.Expr {
	if l, ok := e.(*expr.Logical); ok && !l.Or {
		var out []expr.Expr
		for _, a := range l.Args {
			out = append(out, conjuncts(a)...)
		}
		return out
	}
	return []expr.Expr{e}
}

func conjunction(es []expr.Expr) expr.Expr {
	switch len(es) {
	case 0:
		return nil
	case 1:
		return es[0]
	}
	return &expr.Logical{Args: es}
}

// sides reports whether e reads columns below and from nl on.
func sides(e expr.Expr, nl int) (left, right bool) {
	expr.Walk(e, func(x expr.Expr) {
		if c, ok := x.(*expr.Col); ok {
			if c.Index < nl {
				left = true
			} else {
				right = true
			}
		}
	})
	return left, right
}

func shift(e expr.Expr, by int) expr.Expr {
	return expr.Map(e, func(c *expr.Col) expr.Expr { return &expr.Col{Index: c.Index + by, T: c.T} })
}

// addCondition adds a conjunct of ON: an equality of both sides becomes a key.
func (j *Join) addCondition(c expr.Expr, nl int) {
	if f, ok := c.(*expr.Func); ok && f.Name == "=" {
		al, ar := sides(f.Args[0], nl)
		bl, br := sides(f.Args[1], nl)
		switch {
		case al && !ar && br && !bl:
			j.LKeys = append(j.LKeys, f.Args[0])
			j.RKeys = append(j.RKeys, shift(f.Args[1], -nl))
			return
		case ar && !al && bl && !br:
			j.LKeys = append(j.LKeys, f.Args[1])
			j.RKeys = append(j.RKeys, shift(f.Args[0], -nl))
			return
		}
	}
	if j.Cond == nil {
		j.Cond = c
	} else {
		j.Cond = &expr.Logical{Args: append(conjuncts(j.Cond), c)}
	}
}

// pushFilter puts conditions as far down as they go.
func pushFilter(n Node, conds []expr.Expr) Node {
	if len(conds) == 0 {
		return n
	}
	switch n := n.(type) {
	case *Filter:
		return pushFilter(n.In, append(conjuncts(n.Cond), conds...))
	case *Join:
		nl := len(n.Left.Cols())
		var left, right, here []expr.Expr
		for _, c := range conds {
			l, r := sides(c, nl)
			fails := expr.CanFail(c)
			switch {
			case l && !r && !fails && n.Kind != syntax.RightJoin && n.Kind != syntax.FullJoin:
				left = append(left, c)
			case r && !l && !fails && (n.Kind == syntax.InnerJoin || n.Kind == syntax.CrossJoin || n.Kind == syntax.RightJoin):
				right = append(right, shift(c, -nl))
			case l && r && (n.Kind == syntax.InnerJoin || n.Kind == syntax.CrossJoin):
				before := len(n.LKeys)
				cond := n.Cond
				n.addCondition(c, nl)
				if len(n.LKeys) == before { // no key: it stays a filter above
					n.Cond = cond
					here = append(here, c)
				} else {
					n.Kind = syntax.InnerJoin
				}
			default:
				here = append(here, c)
			}
		}
		n.Left = pushFilter(n.Left, left)
		n.Right = pushFilter(n.Right, right)
		if len(here) > 0 {
			return &Filter{In: n, Cond: conjunction(here)}
		}
		return n
	case *Scan:
		for _, c := range conds {
			n.narrow(c)
		}
	}
	return &Filter{In: n, Cond: conjunction(conds)}
}

// narrow takes bounds of the publish time and the partition from a condition.
func (s *Scan) narrow(c expr.Expr) {
	f, ok := c.(*expr.Func)
	if !ok || len(f.Args) != 2 {
		return
	}
	op := f.Name
	col, val := f.Args[0], f.Args[1]
	if _, ok := val.(*expr.Const); !ok {
		col, val = val, col
		flip := map[string]string{"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "="}
		op = flip[op]
	}
	k, ok := val.(*expr.Const)
	if !ok || k.Val == nil {
		return
	}
	v, ok := k.Val.(int64)
	if !ok {
		return
	}
	// The column may be converted to compare with a wider type.
	for {
		w, ok := col.(*expr.Func)
		if !ok || w.Name != "cast" || len(w.Args) != 1 {
			break
		}
		if t := w.T.Kind; t != value.BigInt && t != value.TimestampTZ || w.T.Zone != "" && w.T.Zone != "UTC" {
			return
		}
		col = w.Args[0]
	}
	x, ok := col.(*expr.Col)
	if !ok {
		return
	}
	var lo, hi *int64
	switch s.Table.Columns[s.Columns[x.Index]].Name {
	case "__publish_time__":
		lo, hi = &s.Bounds.PublishMin, &s.Bounds.PublishMax
	case "__partition__":
		lo, hi = &s.Bounds.PartitionMin, &s.Bounds.PartitionMax
	default:
		return
	}
	switch {
	case op == "=":
		*lo, *hi = max(*lo, v), min(*hi, v)
	case op == ">=":
		*lo = max(*lo, v)
	case op == ">" && v < math.MaxInt64:
		*lo = max(*lo, v+1)
	case op == "<=":
		*hi = min(*hi, v)
	case op == "<" && v > math.MinInt64:
		*hi = min(*hi, v-1)
	}
}

// optimize drops the columns that nobody reads.
func optimize(n Node) Node {
	need := make([]bool, len(n.Cols()))
	for i := range need {
		need[i] = true
	}
	out, _ := prune(n, need)
	return out
}

func use(need []bool, es ...expr.Expr) {
	for _, e := range es {
		if e != nil {
			expr.Walk(e, func(x expr.Expr) {
				if c, ok := x.(*expr.Col); ok {
					need[c.Index] = true
				}
			})
		}
	}
}

func remap(e expr.Expr, m []int) expr.Expr {
	if e == nil {
		return nil
	}
	return expr.Map(e, func(c *expr.Col) expr.Expr { return &expr.Col{Index: m[c.Index], T: c.T} })
}

func remapAll(es []expr.Expr, m []int) []expr.Expr {
	out := make([]expr.Expr, len(es))
	for i, e := range es {
		out[i] = remap(e, m)
	}
	return out
}

func identity(n int) []int {
	m := make([]int, n)
	for i := range m {
		m[i] = i
	}
	return m
}

// prune gives n with the needed columns and a map from the old to the new places; it may keep more.
func prune(n Node, need []bool) (Node, []int) {
	all := func(in Node) []bool { return make([]bool, len(in.Cols())) }
	switch n := n.(type) {
	case *Scan:
		m := make([]int, len(n.Columns))
		s := &Scan{Table: n.Table, Bounds: n.Bounds}
		for i, c := range n.Columns {
			if need[i] {
				m[i] = len(s.Columns)
				s.Columns = append(s.Columns, c)
			}
		}
		return s, m
	case *Filter:
		sub := append([]bool(nil), need...)
		use(sub, n.Cond)
		in, m := prune(n.In, sub)
		return &Filter{In: in, Cond: remap(n.Cond, m)}, m
	case *Project:
		sub := all(n.In)
		p := &Project{}
		m := make([]int, len(n.Exprs))
		for i, e := range n.Exprs {
			if need[i] {
				use(sub, e)
				m[i] = len(p.Exprs)
				p.Exprs = append(p.Exprs, e)
				p.Names = append(p.Names, n.Names[i])
			}
		}
		in, im := prune(n.In, sub)
		p.In, p.Exprs = in, remapAll(p.Exprs, im)
		return p, m
	case *Aggregate:
		sub := all(n.In)
		use(sub, n.Keys...)
		a := &Aggregate{}
		m := identity(len(n.Keys) + len(n.Aggs))
		for i, g := range n.Aggs {
			if need[len(n.Keys)+i] {
				use(sub, g.Args...)
				use(sub, g.Filter)
				m[len(n.Keys)+i] = len(n.Keys) + len(a.Aggs)
				a.Aggs = append(a.Aggs, g)
			}
		}
		in, im := prune(n.In, sub)
		a.In, a.Keys = in, remapAll(n.Keys, im)
		for i, g := range a.Aggs {
			c := *g
			c.Args, c.Filter = remapAll(g.Args, im), remap(g.Filter, im)
			a.Aggs[i] = &c
		}
		return a, m
	case *Sort:
		sub := append([]bool(nil), need...)
		for _, k := range n.Keys {
			sub[k.Col] = true
		}
		in, m := prune(n.In, sub)
		s := &Sort{In: in, Limit: n.Limit}
		for _, k := range n.Keys {
			k.Col = m[k.Col]
			s.Keys = append(s.Keys, k)
		}
		return s, m
	case *Limit:
		in, m := prune(n.In, need)
		return &Limit{In: in, N: n.N, Offset: n.Offset}, m
	case *Join:
		nl := len(n.Left.Cols())
		sub := append([]bool(nil), need...)
		use(sub, n.Cond)
		ln, rn := sub[:nl], sub[nl:]
		use(ln, n.LKeys...)
		use(rn, n.RKeys...)
		l, lm := prune(n.Left, ln)
		r, rm := prune(n.Right, rn)
		w := len(l.Cols())
		m := append([]int(nil), lm...)
		for _, k := range rm {
			m = append(m, k+w)
		}
		return &Join{Kind: n.Kind, Left: l, Right: r, LKeys: remapAll(n.LKeys, lm), RKeys: remapAll(n.RKeys, rm), Cond: remap(n.Cond, m)}, m
	case *SetOp:
		s := &SetOp{Op: n.Op, All: n.All}
		if n.Op == "UNION" {
			// Every input gives exactly the needed columns, in order.
			for _, in := range n.Ins {
				cols := in.Cols()
				sub := append([]bool(nil), need...)
				pn, pm := prune(in, sub)
				p := &Project{In: pn}
				for i := range need {
					if need[i] {
						p.Exprs = append(p.Exprs, &expr.Col{Index: pm[i], T: cols[i].Type})
						p.Names = append(p.Names, cols[i].Name)
					}
				}
				s.Ins = append(s.Ins, p)
			}
			m := make([]int, len(need))
			k := 0
			for i := range need {
				if need[i] {
					m[i] = k
					k++
				}
			}
			return s, m
		}
		for _, in := range n.Ins {
			s.Ins = append(s.Ins, optimize(in))
		}
		return s, identity(len(need))
	}
	return n, identity(len(n.Cols()))
}
