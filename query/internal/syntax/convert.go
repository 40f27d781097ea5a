package syntax

import (
	"strings"

	"github.com/xwb1989/sqlparser"

	"github.com/daybook/daybook/query/internal/sqlerr"
)

// maxTree is how deep a tree may be: chains of operators nest without parentheses.
const maxTree = 2000

// A converter makes our tree of sqlparser's.
type converter struct {
	nodes []node
	depth int
}

func (c *converter) enter() error {
	if c.depth++; c.depth > maxTree {
		return sqlerr.SyntaxError.Errorf("expression is nested more than %d levels deep", maxTree)
	}
	return nil
}

type part struct {
	body Body
	n    *node
}

func (c *converter) query(s sqlparser.SelectStatement) (*Query, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer func() { c.depth-- }()
	q := &Query{}
	order := sqlparser.OrderBy(nil)
	var sels []*sqlparser.Select
	for s != nil {
		switch t := s.(type) {
		case *sqlparser.Union:
			if len(t.OrderBy) > 0 {
				order = t.OrderBy
			}
			right, ok := t.Right.(*sqlparser.Select)
			if !ok {
				return nil, sqlerr.SyntaxError.Errorf("statement cannot be parsed")
			}
			sels = append(sels, right)
			s = t.Left
		case *sqlparser.Select:
			if len(t.OrderBy) > 0 {
				order = t.OrderBy
			}
			sels = append(sels, t)
			s = nil
		default:
			return nil, sqlerr.SyntaxError.Errorf("statement cannot be parsed")
		}
	}
	parts := make([]part, 0, len(sels))
	for i := len(sels) - 1; i >= 0; i-- {
		b, n, err := c.selectBody(sels[i])
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{b, n})
	}
	// INTERSECT binds tighter than UNION and EXCEPT, which group from the left.
	join := func(parts []part, intersect bool) []part {
		out := parts[:1]
		for _, p := range parts[1:] {
			if (p.n.op == "INTERSECT") == intersect {
				l := &out[len(out)-1]
				l.body = &SetOp{Op: p.n.op, All: p.n.all, Left: l.body, Right: p.body, Pos: p.n.pos}
			} else {
				out = append(out, p)
			}
		}
		return out
	}
	lv := parts[0].n.level
	parts = join(join(parts, true), false)
	q.Body = parts[0].body
	q.With, q.Limit, q.Offset = lv.with, lv.limit, lv.offset
	for _, o := range order {
		f, ok := o.Expr.(*sqlparser.FuncExpr)
		if !ok {
			return nil, sqlerr.SyntaxError.Errorf("statement cannot be parsed")
		}
		n := sentinel(c.nodes, f.Name.String())
		args, err := c.args(f.Exprs)
		if err != nil {
			return nil, err
		}
		q.OrderBy = append(q.OrderBy, OrderItem{Expr: args[0], Desc: n.flag, NullsFirst: n.nullsFirst})
	}
	return q, nil
}

func (c *converter) selectBody(s *sqlparser.Select) (Body, *node, error) {
	if len(s.Comments) != 1 {
		return nil, nil, sqlerr.SyntaxError.Errorf("statement cannot be parsed")
	}
	n := sentinel(c.nodes, strings.Trim(string(s.Comments[0]), "/* "))
	if n.flag { // a query in parentheses
		t, ok := s.From[0].(*sqlparser.AliasedTableExpr)
		if ok {
			if sub, ok := t.Expr.(*sqlparser.Subquery); ok {
				q, err := c.query(sub.Select)
				return q, n, err
			}
		}
		return nil, nil, sqlerr.SyntaxError.Errorf("statement cannot be parsed")
	}
	out := &Select{Pos: n.pos, Distinct: s.Distinct != ""}
	for _, e := range s.SelectExprs {
		switch e := e.(type) {
		case *sqlparser.StarExpr:
			star := &Star{at: at{n.pos}}
			if q := e.TableName.Name.String(); q != "" {
				t := sentinel(c.nodes, q)
				star.Qualifier, star.Pos = t.name, t.pos
			}
			out.Items = append(out.Items, Item{Expr: star})
		case *sqlparser.AliasedExpr:
			x, err := c.expr(e.Expr)
			if err != nil {
				return nil, nil, err
			}
			it := Item{Expr: x}
			if !e.As.IsEmpty() {
				it.Alias = sentinel(c.nodes, e.As.String()).name[0]
			}
			out.Items = append(out.Items, it)
		default:
			return nil, nil, sqlerr.SyntaxError.At(n.pos, "statement cannot be parsed")
		}
	}
	for _, f := range s.From {
		if t, ok := f.(*sqlparser.AliasedTableExpr); ok {
			if name, ok := t.Expr.(sqlparser.TableName); ok && name.Name.String() == "dual" {
				continue // sqlparser's word for no FROM
			}
		}
		t, err := c.table(f)
		if err != nil {
			return nil, nil, err
		}
		out.From = append(out.From, t)
	}
	var err error
	if s.Where != nil {
		if out.Where, err = c.expr(s.Where.Expr); err != nil {
			return nil, nil, err
		}
	}
	for _, g := range s.GroupBy {
		x, err := c.expr(g)
		if err != nil {
			return nil, nil, err
		}
		out.GroupBy = append(out.GroupBy, x)
	}
	if s.Having != nil {
		if out.Having, err = c.expr(s.Having.Expr); err != nil {
			return nil, nil, err
		}
	}
	return out, n, nil
}

func (c *converter) table(t sqlparser.TableExpr) (TableExpr, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer func() { c.depth-- }()
	switch t := t.(type) {
	case *sqlparser.AliasedTableExpr:
		alias := &node{}
		if !t.As.IsEmpty() {
			alias = sentinel(c.nodes, t.As.String())
		}
		name := ""
		if len(alias.name) > 0 {
			name = alias.name[0]
		}
		switch e := t.Expr.(type) {
		case sqlparser.TableName:
			n := sentinel(c.nodes, e.Name.String())
			return &Table{Pos: n.pos, Parts: n.name, Alias: name, Columns: alias.cols}, nil
		case *sqlparser.Subquery:
			q, err := c.query(e.Select)
			return &Derived{Pos: alias.pos, Query: q, Alias: name, Columns: alias.cols}, err
		}
	case *sqlparser.ParenTableExpr:
		if len(t.Exprs) == 1 {
			return c.table(t.Exprs[0])
		}
	case *sqlparser.JoinTableExpr:
		l, err := c.table(t.LeftExpr)
		if err != nil {
			return nil, err
		}
		r, err := c.table(t.RightExpr)
		if err != nil {
			return nil, err
		}
		j := &Join{Left: l, Right: r}
		switch t.Join {
		case sqlparser.JoinStr:
			j.Kind = InnerJoin
		case sqlparser.LeftJoinStr:
			j.Kind = LeftJoin
		case sqlparser.RightJoinStr:
			j.Kind = RightJoin
		case sqlparser.StraightJoinStr:
			j.Kind = FullJoin
		case sqlparser.NaturalJoinStr:
			j.Kind = CrossJoin
			return j, nil
		}
		if v, ok := t.Condition.On.(*sqlparser.SQLVal); ok && v.Type == sqlparser.ValArg {
			if n := sentinel(c.nodes, string(v.Val[1:])); n.kind == nUsing {
				j.Using, j.Pos = n.cols, n.pos
				return j, nil
			}
		}
		if t.Condition.On == nil {
			return nil, sqlerr.SyntaxError.At(tablePos(r), "JOIN needs ON or USING; a product of two tables is CROSS JOIN")
		}
		if j.On, err = c.expr(t.Condition.On); err != nil {
			return nil, err
		}
		j.Pos = j.On.Position()
		return j, nil
	}
	return nil, sqlerr.SyntaxError.Errorf("statement cannot be parsed")
}

func tablePos(t TableExpr) sqlerr.Pos {
	switch t := t.(type) {
	case *Table:
		return t.Pos
	case *Derived:
		return t.Pos
	case *Join:
		return tablePos(t.Left)
	}
	return sqlerr.Pos{}
}

func (c *converter) args(es sqlparser.SelectExprs) ([]Expr, error) {
	var out []Expr
	for _, e := range es {
		a, ok := e.(*sqlparser.AliasedExpr)
		if !ok {
			return nil, sqlerr.SyntaxError.Errorf("statement cannot be parsed")
		}
		x, err := c.expr(a.Expr)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

func (c *converter) list(es []sqlparser.Expr) ([]Expr, error) {
	var out []Expr
	for _, e := range es {
		x, err := c.expr(e)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// chain flattens a chain of ANDs or ORs, which may be thousands long.
func (c *converter) chain(e sqlparser.Expr, or bool) ([]Expr, error) {
	var rev []sqlparser.Expr
	for {
		if a, ok := e.(*sqlparser.AndExpr); ok && !or {
			rev = append(rev, a.Right)
			e = a.Left
		} else if o, ok := e.(*sqlparser.OrExpr); ok && or {
			rev = append(rev, o.Right)
			e = o.Left
		} else {
			break
		}
	}
	rev = append(rev, e)
	out := make([]Expr, 0, len(rev))
	for i := len(rev) - 1; i >= 0; i-- {
		x, err := c.expr(rev[i])
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

func (c *converter) expr(e sqlparser.Expr) (Expr, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer func() { c.depth-- }()
	switch e := e.(type) {
	case *sqlparser.AndExpr, *sqlparser.OrExpr:
		_, or := e.(*sqlparser.OrExpr)
		args, err := c.chain(e, or)
		if err != nil {
			return nil, err
		}
		return &Logical{at: at{args[0].Position()}, Or: or, Args: args}, nil
	case *sqlparser.NotExpr:
		x, err := c.expr(e.Expr)
		if err != nil {
			return nil, err
		}
		return &Not{at{x.Position()}, x}, nil
	case *sqlparser.ParenExpr:
		return c.expr(e.Expr)
	case *sqlparser.ComparisonExpr:
		return c.comparison(e)
	case *sqlparser.RangeCond:
		xs, err := c.list([]sqlparser.Expr{e.Left, e.From, e.To})
		if err != nil {
			return nil, err
		}
		return &Between{at{xs[0].Position()}, xs[0], xs[1], xs[2], e.Operator == sqlparser.NotBetweenStr}, nil
	case *sqlparser.IsExpr:
		x, err := c.expr(e.Expr)
		if err != nil {
			return nil, err
		}
		what := strings.ToUpper(strings.TrimPrefix(e.Operator, "is "))
		w, not := strings.CutPrefix(what, "NOT ")
		return &Is{at{x.Position()}, x, w, not}, nil
	case *sqlparser.ExistsExpr:
		q, err := c.query(e.Subquery.Select)
		return &Exists{at{queryPos(q)}, q}, err
	case *sqlparser.Subquery:
		q, err := c.query(e.Select)
		return &Subquery{at{queryPos(q)}, q}, err
	case *sqlparser.SQLVal:
		if e.Type == sqlparser.ValArg {
			switch n := sentinel(c.nodes, string(e.Val[1:])); n.kind {
			case nLiteral:
				return n.lit, nil
			case nParam:
				return &Param{at{n.pos}, n.param}, nil
			}
		}
	case *sqlparser.ColName:
		n := sentinel(c.nodes, e.Name.String())
		return &Column{at{n.pos}, n.name}, nil
	case sqlparser.ValTuple:
		args, err := c.list(e)
		if err != nil {
			return nil, err
		}
		return &Tuple{at{args[0].Position()}, args}, nil
	case *sqlparser.BinaryExpr:
		return c.binary(e)
	case *sqlparser.UnaryExpr:
		x, err := c.expr(e.Expr)
		if err != nil {
			return nil, err
		}
		return &Unary{at{x.Position()}, e.Operator, x}, nil
	case *sqlparser.CaseExpr:
		out := &Case{}
		var err error
		if e.Expr != nil {
			if out.Operand, err = c.expr(e.Expr); err != nil {
				return nil, err
			}
		}
		for _, w := range e.Whens {
			xs, err := c.list([]sqlparser.Expr{w.Cond, w.Val})
			if err != nil {
				return nil, err
			}
			out.Whens = append(out.Whens, When{xs[0], xs[1]})
		}
		if e.Else != nil {
			if out.Else, err = c.expr(e.Else); err != nil {
				return nil, err
			}
		}
		out.Pos = out.Whens[0].Cond.Position()
		return out, nil
	case *sqlparser.FuncExpr:
		return c.function(e)
	}
	return nil, sqlerr.SyntaxError.Errorf("statement cannot be parsed")
}

func queryPos(q *Query) sqlerr.Pos {
	if q == nil {
		return sqlerr.Pos{}
	}
	switch b := q.Body.(type) {
	case *Select:
		return b.Pos
	case *SetOp:
		return b.Pos
	case *Query:
		return queryPos(b)
	}
	return sqlerr.Pos{}
}

// binary converts a chain of operators, which may be long, without recursion on its left side.
func (c *converter) binary(e *sqlparser.BinaryExpr) (Expr, error) {
	var rev []*sqlparser.BinaryExpr
	var left sqlparser.Expr = e
	for {
		b, ok := left.(*sqlparser.BinaryExpr)
		if !ok {
			break
		}
		rev = append(rev, b)
		left = b.Left
		if len(rev) > maxTree {
			return nil, sqlerr.SyntaxError.Errorf("expression is nested more than %d levels deep", maxTree)
		}
	}
	l, err := c.expr(left)
	if err != nil {
		return nil, err
	}
	for i := len(rev) - 1; i >= 0; i-- {
		r, err := c.expr(rev[i].Right)
		if err != nil {
			return nil, err
		}
		op := rev[i].Operator
		if op == sqlparser.BitOrStr {
			op = "||"
		}
		l = &Binary{at{l.Position()}, op, l, r}
	}
	return l, nil
}

func (c *converter) comparison(e *sqlparser.ComparisonExpr) (Expr, error) {
	l, err := c.expr(e.Left)
	if err != nil {
		return nil, err
	}
	p := at{l.Position()}
	switch e.Operator {
	case sqlparser.InStr, sqlparser.NotInStr:
		in := &In{at: p, X: l, Not: e.Operator == sqlparser.NotInStr}
		switch r := e.Right.(type) {
		case sqlparser.ValTuple:
			in.List, err = c.list(r)
		case *sqlparser.Subquery:
			in.Query, err = c.query(r.Select)
		default:
			err = sqlerr.SyntaxError.At(p.Pos, "statement cannot be parsed")
		}
		return in, err
	}
	r, err := c.expr(e.Right)
	if err != nil {
		return nil, err
	}
	switch e.Operator {
	case sqlparser.LikeStr, sqlparser.NotLikeStr:
		lk := &Like{at: p, X: l, Pattern: r, Not: e.Operator == sqlparser.NotLikeStr}
		if e.Escape != nil {
			if lk.Escape, err = c.expr(e.Escape); err != nil {
				return nil, err
			}
		}
		return lk, nil
	case sqlparser.RegexpStr:
		return &Binary{p, "IS DISTINCT FROM", l, r}, nil
	case sqlparser.NotRegexpStr:
		return &Binary{p, "IS NOT DISTINCT FROM", l, r}, nil
	case sqlparser.NotEqualStr:
		return &Binary{p, "<>", l, r}, nil
	}
	return &Binary{p, e.Operator, l, r}, nil
}

func (c *converter) function(e *sqlparser.FuncExpr) (Expr, error) {
	n := sentinel(c.nodes, e.Name.String())
	if len(e.Exprs) == 1 {
		if _, ok := e.Exprs[0].(*sqlparser.StarExpr); ok {
			return &Call{at: at{n.pos}, Name: n.name[0], Star: true, Distinct: e.Distinct}, nil
		}
	}
	args, err := c.args(e.Exprs)
	if err != nil {
		return nil, err
	}
	switch n.kind {
	case nCast:
		return &Cast{at{n.pos}, args[0], n.typ, n.flag}, nil
	case nField:
		return &Field{at{n.pos}, args[0], n.name[0]}, nil
	case nFilter:
		f, ok := args[0].(*Call)
		if !ok {
			return nil, sqlerr.SyntaxError.At(n.pos, "FILTER follows an aggregate")
		}
		f.Filter = args[1]
		return f, nil
	case nCall:
		name := n.name[0]
		if inner, ok := strings.CutPrefix(name, "$"); ok {
			switch inner {
			case "position", "trim", "ltrim", "rtrim":
				args[0], args[1] = args[1], args[0]
				name = inner
				if inner == "position" {
					name = "strpos"
				}
			case "extract":
				name = strings.ToLower(args[0].(*Literal).Text)
				args = args[1:]
			}
		}
		return &Call{at: at{n.pos}, Name: name, Distinct: e.Distinct, Args: args}, nil
	}
	return nil, sqlerr.SyntaxError.At(n.pos, "statement cannot be parsed")
}
