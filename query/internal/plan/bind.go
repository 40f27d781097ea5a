package plan

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/daybook/daybook/query/internal/expr"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/syntax"
	"github.com/daybook/daybook/query/internal/value"
)

// A Catalog finds tables. Missing ones are sqlerr.CatalogNotFound, SchemaNotFound or TableNotFound.
type Catalog interface {
	Table(ctx context.Context, catalog, schema, name string) (*Table, error)
}

// Env is what a statement is bound in.
type Env struct {
	Catalog                Catalog
	DefaultCatalog, Schema string
	User, Version, Zone    string
	Now                    time.Time
	Params                 []syntax.Expr
}

const maxNodes = 50_000

// Bind makes the plan of a query.
func Bind(ctx context.Context, env *Env, q *syntax.Query) (*Plan, error) {
	b := &binder{ctx: ctx, env: env}
	n, _, err := b.query(q, nil)
	if err != nil {
		return nil, err
	}
	p := &Plan{Columns: n.Cols(), Subplans: b.subplans}
	for i := range p.Columns {
		if p.Columns[i].Name == "" {
			p.Columns[i].Name = "_col" + strconv.Itoa(i)
		}
	}
	p.Root = optimize(n)
	for _, s := range p.Subplans {
		s.Root = optimize(s.Root)
	}
	return p, nil
}

// Constant binds and evaluates an expression without columns.
func Constant(ctx context.Context, env *Env, e syntax.Expr) (value.Type, any, error) {
	b := &binder{ctx: ctx, env: env}
	x, err := b.expr(e, &scope{}, nil)
	if err != nil {
		return value.Type{}, nil, err
	}
	c, ok := expr.Fold(x).(*expr.Const)
	if !ok {
		return value.Type{}, nil, sqlerr.ExpressionNotConstant.At(e.Position(), "Expression must be constant")
	}
	return c.T, c.Val, nil
}

type binder struct {
	ctx      context.Context
	env      *Env
	subplans []*Subplan
	nodes    int
	depth    int
}

// A scopeCol is a column that expressions can name.
type scopeCol struct {
	qual []string // catalog, schema, table, or an alias alone
	name string
	typ  value.Type
}

// A scope is the columns of a node; outer is only looked at to explain correlated subqueries.
type scope struct {
	cols  []scopeCol
	outer *scope
	ctes  *cteEnv
}

type cteEnv struct {
	name   string
	cte    *syntax.CTE
	parent *cteEnv
}

func (b *binder) count(n int) error {
	if b.nodes += n; b.nodes > maxNodes {
		return sqlerr.NotSupported.Errorf("query is too complex: more than %d operators", maxNodes)
	}
	return b.ctx.Err()
}

// query binds a query; its scope has the output columns without qualifier.
func (b *binder) query(q *syntax.Query, outer *scope) (Node, *scope, error) {
	if b.depth++; b.depth > 200 {
		return nil, nil, sqlerr.NotSupported.Errorf("query is nested too deeply")
	}
	defer func() { b.depth-- }()
	if err := b.count(1); err != nil {
		return nil, nil, err
	}
	var ctes *cteEnv
	if outer != nil {
		ctes = outer.ctes
	}
	seen := map[string]bool{}
	for i := range q.With {
		c := &q.With[i]
		if seen[strings.ToLower(c.Name)] {
			return nil, nil, sqlerr.DuplicateNamedQuery.At(c.Pos, "WITH query name '%s' specified more than once", c.Name)
		}
		seen[strings.ToLower(c.Name)] = true
		ctes = &cteEnv{name: c.Name, cte: c, parent: ctes}
	}
	env := &scope{ctes: ctes}
	if outer != nil {
		env.outer = outer.outer
		if len(outer.cols) > 0 {
			env.outer = outer
		}
	}
	limit, err := b.rowCount(q.Limit, "LIMIT", -1)
	if err != nil {
		return nil, nil, err
	}
	offset, err := b.rowCount(q.Offset, "OFFSET", 0)
	if err != nil {
		return nil, nil, err
	}
	var n Node
	if sel, ok := q.Body.(*syntax.Select); ok {
		n, err = b.selectQuery(sel, q.OrderBy, env)
	} else {
		n, err = b.body(q.Body, env)
		if err == nil && len(q.OrderBy) > 0 {
			n, err = b.orderOutput(n, q.OrderBy, env)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if limit >= 0 || offset > 0 {
		n = limitNode(n, limit, offset)
	}
	return n, outputScope(n, nil), nil
}

// limitNode puts a limit on a node; over a sort, perhaps under a projection, the sort keeps no more.
func limitNode(n Node, limit, offset int64) Node {
	if limit >= 0 {
		at := n
		if p, ok := n.(*Project); ok {
			at = p.In
		}
		if s, ok := at.(*Sort); ok && s.Limit < 0 && limit+offset >= limit {
			s.Limit = limit + offset
		}
	}
	return &Limit{In: n, N: limit, Offset: offset}
}

func (b *binder) rowCount(e syntax.Expr, what string, none int64) (int64, error) {
	if e == nil {
		return none, nil
	}
	_, v, err := Constant(b.ctx, b.env, e)
	if err != nil {
		return 0, err
	}
	n, ok := v.(int64)
	if !ok || n < 0 {
		return 0, sqlerr.InvalidLimitClause.At(e.Position(), "%s must be a number of rows", what)
	}
	return n, nil
}

func outputScope(n Node, qual []string) *scope {
	s := &scope{}
	for _, c := range n.Cols() {
		s.cols = append(s.cols, scopeCol{qual: qual, name: c.Name, typ: c.Type})
	}
	return s
}

func (b *binder) body(body syntax.Body, env *scope) (Node, error) {
	if b.depth++; b.depth > 200 {
		return nil, sqlerr.NotSupported.Errorf("query is nested too deeply")
	}
	defer func() { b.depth-- }()
	switch t := body.(type) {
	case *syntax.Select:
		return b.selectQuery(t, nil, env)
	case *syntax.Query:
		n, _, err := b.query(t, env)
		return n, err
	case *syntax.SetOp:
		// A chain of UNION ALL is one node: VALUES with many rows is such a chain.
		var rights []syntax.Body
		var left syntax.Body = t
		for {
			s, ok := left.(*syntax.SetOp)
			if !ok || s.Op != t.Op || s.All != t.All || t.Op == "EXCEPT" || t.Op == "INTERSECT" && len(rights) == 1 {
				break
			}
			rights = append(rights, s.Right)
			left = s.Left
		}
		if t.Op != "UNION" {
			rights, left = []syntax.Body{t.Right}, t.Left
		}
		first, err := b.body(left, env)
		if err != nil {
			return nil, err
		}
		ins := []Node{first}
		for i := len(rights) - 1; i >= 0; i-- {
			n, err := b.body(rights[i], env)
			if err != nil {
				return nil, err
			}
			ins = append(ins, n)
		}
		if ins, err = b.align(ins, t); err != nil {
			return nil, err
		}
		if t.Op == "UNION" {
			var n Node = unionAll(ins)
			if !t.All {
				n = distinct(n)
			}
			return n, nil
		}
		return &SetOp{Op: t.Op, All: t.All, Ins: ins}, nil
	}
	return nil, sqlerr.NotSupported.Errorf("query is not supported")
}

// unionAll makes one Values node of constant rows.
func unionAll(ins []Node) Node {
	v := &Values{Columns: ins[0].Cols()}
	for _, n := range ins {
		row, ok := constantRow(n)
		if !ok {
			return &SetOp{Op: "UNION", All: true, Ins: ins}
		}
		v.Rows = append(v.Rows, row...)
	}
	return v
}

func constantRow(n Node) ([][]any, bool) {
	switch n := n.(type) {
	case *Values:
		return n.Rows, true
	case *Project:
		rows, ok := constantRow(n.In)
		if !ok || len(rows) != 1 {
			return nil, false
		}
		row := make([]any, len(n.Exprs))
		for i, e := range n.Exprs {
			if c, ok := e.(*expr.Col); ok {
				row[i] = rows[0][c.Index]
				continue
			}
			bound := expr.Map(e, func(c *expr.Col) expr.Expr { return expr.NewConst(c.T, rows[0][c.Index]) })
			c, ok := expr.Fold(bound).(*expr.Const)
			if !ok {
				return nil, false
			}
			row[i] = c.Val
		}
		return [][]any{row}, true
	}
	return nil, false
}

func (b *binder) align(ins []Node, t *syntax.SetOp) ([]Node, error) {
	width := len(ins[0].Cols())
	types := make([]value.Type, width)
	for i, n := range ins {
		cols := n.Cols()
		if len(cols) != width {
			return nil, sqlerr.TypeMismatch.At(t.Pos, "%s query has different number of fields: %d, %d", t.Op, width, len(cols))
		}
		for k, c := range cols {
			if i == 0 {
				types[k] = c.Type
				continue
			}
			ct, ok := expr.Common(types[k], c.Type)
			if !ok {
				return nil, sqlerr.TypeMismatch.At(t.Pos, "column %d in %s query has incompatible types: %s, %s", k+1, t.Op, types[k], c.Type)
			}
			types[k] = ct
		}
	}
	out := make([]Node, len(ins))
	for i, n := range ins {
		out[i] = n
		cols := n.Cols()
		p := &Project{In: n}
		change := false
		for k, c := range cols {
			var e expr.Expr = &expr.Col{Index: k, T: c.Type}
			if !c.Type.Equal(types[k]) {
				var ok bool
				if e, ok = expr.Coerce(e, types[k]); !ok {
					return nil, sqlerr.TypeMismatch.At(t.Pos, "column %d in %s query has incompatible types: %s, %s", k+1, t.Op, types[k], c.Type)
				}
				change = true
			}
			p.Exprs = append(p.Exprs, e)
			p.Names = append(p.Names, ins[0].Cols()[k].Name)
		}
		if change {
			out[i] = p
		}
	}
	return out, nil
}

func distinct(n Node) Node {
	a := &Aggregate{In: n}
	p := &Project{In: a}
	for i, c := range n.Cols() {
		a.Keys = append(a.Keys, &expr.Col{Index: i, T: c.Type})
		p.Exprs = append(p.Exprs, &expr.Col{Index: i, T: c.Type})
		p.Names = append(p.Names, c.Name)
	}
	return p
}

// orderOutput sorts by output columns.
func (b *binder) orderOutput(n Node, items []syntax.OrderItem, env *scope) (Node, error) {
	sc := outputScope(n, nil)
	sc.ctes, sc.outer = env.ctes, env.outer
	cols := n.Cols()
	p := &Project{In: n}
	for i, c := range cols {
		p.Exprs = append(p.Exprs, &expr.Col{Index: i, T: c.Type})
		p.Names = append(p.Names, c.Name)
	}
	s := &Sort{In: n, Limit: -1}
	extra := false
	for _, it := range items {
		k := SortKey{Desc: it.Desc, NullsFirst: it.NullsFirst}
		if pos, ok, err := ordinal(it.Expr, len(cols)); err != nil {
			return nil, err
		} else if ok {
			k.Col = pos
		} else {
			e, err := b.expr(it.Expr, sc, nil)
			if err != nil {
				return nil, err
			}
			if c, ok := e.(*expr.Col); ok {
				k.Col = c.Index
			} else {
				k.Col = len(p.Exprs)
				p.Exprs = append(p.Exprs, e)
				p.Names = append(p.Names, "")
				extra = true
			}
		}
		if err := orderable(p.Exprs[k.Col].Type(), it.Expr.Position()); err != nil {
			return nil, err
		}
		s.Keys = append(s.Keys, k)
	}
	if !extra {
		return s, nil
	}
	s.In = p
	return firstCols(s, len(cols)), nil
}

func orderable(t value.Type, pos sqlerr.Pos) error {
	if t.Kind == value.Map {
		return sqlerr.TypeMismatch.At(pos, "Type %s is not orderable, and therefore cannot be used in ORDER BY", t)
	}
	return nil
}

func firstCols(n Node, k int) Node {
	p := &Project{In: n}
	for i, c := range n.Cols()[:k] {
		p.Exprs = append(p.Exprs, &expr.Col{Index: i, T: c.Type})
		p.Names = append(p.Names, c.Name)
	}
	return p
}

func ordinal(e syntax.Expr, n int) (int, bool, error) {
	l, ok := e.(*syntax.Literal)
	if !ok || l.Kind != syntax.IntLiteral {
		return 0, false, nil
	}
	k, err := strconv.Atoi(l.Text)
	if err != nil || k < 1 || k > n {
		return 0, false, sqlerr.InvalidColumnRef.At(l.Pos, "ORDER BY or GROUP BY position %s is not in select list", l.Text)
	}
	return k - 1, true, nil
}

// An aggState binds expressions over the result of an Aggregate.
type aggState struct {
	in    *scope // columns of the aggregate's input
	keys  []expr.Expr
	names map[string]int // String of a key to its place
	aggs  []*Agg
	byStr map[string]int
	group bool // there is GROUP BY
}

func (b *binder) selectQuery(sel *syntax.Select, order []syntax.OrderItem, env *scope) (Node, error) {
	if err := b.count(1); err != nil {
		return nil, err
	}
	n, sc, err := b.from(sel.From, env)
	if err != nil {
		return nil, err
	}
	sc.outer, sc.ctes = env.outer, env.ctes
	if sel.Where != nil {
		if p, found := findAggregate(sel.Where); found {
			return nil, sqlerr.ExpressionNotScalar.At(p, "WHERE clause cannot contain aggregations")
		}
		cond, err := b.condition(sel.Where, sc, nil, "WHERE")
		if err != nil {
			return nil, err
		}
		n = pushFilter(n, conjuncts(cond))
	}
	// Expand stars.
	var items []syntax.Item
	var fixed []expr.Expr // set where a star stood
	for _, it := range sel.Items {
		star, ok := it.Expr.(*syntax.Star)
		if !ok {
			items = append(items, it)
			fixed = append(fixed, nil)
			continue
		}
		found := false
		for i, c := range sc.cols {
			if len(star.Qualifier) > 0 && !qualified(c.qual, star.Qualifier) {
				continue
			}
			found = true
			items = append(items, syntax.Item{Expr: it.Expr, Alias: c.name})
			fixed = append(fixed, &expr.Col{Index: i, T: c.typ})
		}
		if !found {
			if len(star.Qualifier) > 0 {
				return nil, sqlerr.TableNotFound.At(star.Pos, "Unable to resolve reference %s", strings.Join(star.Qualifier, "."))
			}
			return nil, sqlerr.ColumnNotFound.At(star.Pos, "SELECT * not allowed in queries without FROM clause")
		}
	}
	// Is it an aggregation?
	var agg *aggState
	isAgg := len(sel.GroupBy) > 0 || sel.Having != nil
	for i, it := range items {
		if fixed[i] == nil {
			if _, found := findAggregate(it.Expr); found {
				isAgg = true
			}
		}
	}
	for _, o := range order {
		if _, found := findAggregate(o.Expr); found {
			isAgg = true
		}
	}
	if isAgg {
		agg = &aggState{in: sc, names: map[string]int{}, byStr: map[string]int{}, group: len(sel.GroupBy) > 0}
		for _, g := range sel.GroupBy {
			pos, ok, err := ordinal(g, len(items))
			if err != nil {
				return nil, err
			}
			var k expr.Expr
			if ok && fixed[pos] != nil {
				k = fixed[pos]
			} else {
				at := g
				if ok {
					at = items[pos].Expr
				}
				if p, found := findAggregate(at); found {
					return nil, sqlerr.ExpressionNotScalar.At(p, "GROUP BY clause cannot contain aggregations")
				}
				if k, err = b.expr(at, sc, nil); err != nil {
					return nil, err
				}
			}
			if k.Type().Kind == value.Map {
				return nil, sqlerr.TypeMismatch.At(g.Position(), "%s is not comparable, and therefore cannot be used in GROUP BY", k.Type())
			}
			s := expr.String(k)
			if _, dup := agg.names[s]; !dup {
				agg.names[s] = len(agg.keys)
				agg.keys = append(agg.keys, k)
			}
		}
	}
	p := &Project{}
	for i, it := range items {
		e := fixed[i]
		if e == nil {
			if e, err = b.expr(it.Expr, sc, agg); err != nil {
				return nil, err
			}
		} else if agg != nil {
			k, ok := agg.names[expr.String(e)]
			if !ok {
				return nil, notAggregate(it.Expr.Position(), it.Alias)
			}
			e = &expr.Col{Index: k, T: e.Type()}
		}
		name := it.Alias
		if name == "" {
			switch c := it.Expr.(type) {
			case *syntax.Column:
				name = c.Parts[len(c.Parts)-1]
				if x, err := sc.resolve(c); err == nil {
					if col, ok := x.(*expr.Col); ok {
						name = sc.cols[col.Index].name // as the schema writes it
					}
				}
			case *syntax.Field:
				name = c.Name
			}
		}
		p.Exprs = append(p.Exprs, e)
		p.Names = append(p.Names, name)
	}
	var having expr.Expr
	if sel.Having != nil {
		if having, err = b.condition(sel.Having, sc, agg, "HAVING"); err != nil {
			return nil, err
		}
	}
	// ORDER BY sees the output's names first, then the input.
	width := len(p.Exprs)
	srt := &Sort{Limit: -1}
	strs := map[string]int{}
	for i := len(p.Exprs) - 1; i >= 0; i-- {
		strs[expr.String(p.Exprs[i])] = i
	}
	for _, o := range order {
		k := SortKey{Col: -1, Desc: o.Desc, NullsFirst: o.NullsFirst}
		if pos, ok, err := ordinal(o.Expr, width); err != nil {
			return nil, err
		} else if ok {
			k.Col = pos
		} else if c, ok := o.Expr.(*syntax.Column); ok && len(c.Parts) == 1 {
			for i := range width {
				if strings.EqualFold(p.Names[i], c.Parts[0]) {
					if k.Col >= 0 && expr.String(p.Exprs[i]) != expr.String(p.Exprs[k.Col]) {
						return nil, sqlerr.AmbiguousName.At(c.Pos, "Column '%s' is ambiguous", c.Parts[0])
					}
					if k.Col < 0 {
						k.Col = i
					}
				}
			}
		}
		if k.Col < 0 {
			e, err := b.expr(substituteAliases(o.Expr, items, fixed), sc, agg)
			if err != nil {
				return nil, err
			}
			s := expr.String(e)
			if i, ok := strs[s]; ok {
				k.Col = i
			} else {
				if sel.Distinct {
					return nil, sqlerr.ExpressionNotInDistinct.At(o.Expr.Position(), "For SELECT DISTINCT, ORDER BY expressions must appear in select list")
				}
				k.Col = len(p.Exprs)
				strs[s] = k.Col
				p.Exprs = append(p.Exprs, e)
				p.Names = append(p.Names, "")
			}
		}
		if err := orderable(p.Exprs[k.Col].Type(), o.Expr.Position()); err != nil {
			return nil, err
		}
		srt.Keys = append(srt.Keys, k)
	}
	if agg != nil {
		n = &Aggregate{In: n, Keys: agg.keys, Aggs: agg.aggs}
		if having != nil {
			n = &Filter{In: n, Cond: having}
		}
	}
	p.In = n
	n = p
	if sel.Distinct {
		for i, e := range p.Exprs {
			if e.Type().Kind == value.Map {
				return nil, sqlerr.TypeMismatch.At(sel.Pos, "DISTINCT can only be applied to comparable types (actual: %s, column %d)", e.Type(), i+1)
			}
		}
		n = distinct(n)
	}
	if len(srt.Keys) > 0 {
		srt.In = n
		n = srt
		if len(p.Exprs) > width {
			n = firstCols(n, width)
		}
	}
	return n, nil
}

// substituteAliases replaces output names inside an ORDER BY expression by what they stand for.
func substituteAliases(e syntax.Expr, items []syntax.Item, fixed []expr.Expr) syntax.Expr {
	return syntax.Replace(e, func(c *syntax.Column) syntax.Expr {
		if len(c.Parts) != 1 {
			return c
		}
		for i, it := range items {
			if fixed[i] == nil && it.Alias != "" && strings.EqualFold(it.Alias, c.Parts[0]) {
				return it.Expr
			}
		}
		return c
	})
}

func notAggregate(pos sqlerr.Pos, name string) error {
	return sqlerr.ExpressionNotAggregate.At(pos, "'%s' must be an aggregate expression or appear in GROUP BY clause", name)
}

func isAggregate(name string) bool { _, ok := aggregates[name]; return ok }

// findAggregate finds an aggregate function outside of subqueries.
func findAggregate(e syntax.Expr) (sqlerr.Pos, bool) {
	var pos sqlerr.Pos
	found := false
	syntax.Walk(e, func(x syntax.Expr) {
		if c, ok := x.(*syntax.Call); ok && isAggregate(c.Name) && !found {
			pos, found = c.Pos, true
		}
	})
	return pos, found
}

// condition binds a boolean.
func (b *binder) condition(e syntax.Expr, sc *scope, agg *aggState, clause string) (expr.Expr, error) {
	x, err := b.expr(e, sc, agg)
	if err != nil {
		return nil, err
	}
	c, ok := expr.Coerce(x, value.BooleanType)
	if !ok {
		return nil, sqlerr.TypeMismatch.At(e.Position(), "%s clause must evaluate to a boolean: actual type %s", clause, x.Type())
	}
	return expr.Fold(c), nil
}

// qualified reports whether a column's qualifier ends with the given one.
func qualified(have, want []string) bool {
	if len(want) > len(have) {
		return false
	}
	for i, w := range want {
		if !strings.EqualFold(have[len(have)-len(want)+i], w) {
			return false
		}
	}
	return true
}

// resolve finds a column by its parts; the parts behind the name are fields of rows.
func (s *scope) resolve(c *syntax.Column) (expr.Expr, error) {
	for k := min(len(c.Parts)-1, 3); k >= 0; k-- {
		at := -1
		for i, col := range s.cols {
			if !strings.EqualFold(col.name, c.Parts[k]) || k > 0 && !qualified(col.qual, c.Parts[:k]) {
				continue
			}
			if at >= 0 {
				return nil, sqlerr.AmbiguousName.At(c.Pos, "Column '%s' is ambiguous", strings.Join(c.Parts, "."))
			}
			at = i
		}
		if at < 0 {
			continue
		}
		var e expr.Expr = &expr.Col{Index: at, T: s.cols[at].typ}
		ok := true
		for _, f := range c.Parts[k+1:] {
			if e, ok = expr.FieldOf(e, f); !ok {
				break
			}
		}
		if ok {
			return e, nil
		}
	}
	name := strings.Join(c.Parts, ".")
	for o := s.outer; o != nil; o = o.outer {
		if _, err := (&scope{cols: o.cols}).resolve(c); err == nil {
			return nil, sqlerr.UnsupportedSubquery.At(c.Pos, "Column '%s' belongs to the outer query: correlated subqueries are not supported", name)
		}
	}
	return nil, sqlerr.ColumnNotFound.At(c.Pos, "Column '%s' cannot be resolved", name)
}

// from binds the FROM clause. Without one there is a single row without columns.
func (b *binder) from(list []syntax.TableExpr, env *scope) (Node, *scope, error) {
	if len(list) == 0 {
		return &Values{Rows: [][]any{{}}}, &scope{}, nil
	}
	n, sc, err := b.table(list[0], env)
	if err != nil {
		return nil, nil, err
	}
	for _, t := range list[1:] {
		r, rs, err := b.table(t, env)
		if err != nil {
			return nil, nil, err
		}
		n = &Join{Kind: syntax.CrossJoin, Left: n, Right: r}
		sc = &scope{cols: append(append([]scopeCol(nil), sc.cols...), rs.cols...)}
	}
	return n, sc, nil
}

func (b *binder) table(t syntax.TableExpr, env *scope) (Node, *scope, error) {
	if err := b.count(1); err != nil {
		return nil, nil, err
	}
	switch t := t.(type) {
	case *syntax.Table:
		if len(t.Parts) == 1 {
			for c := env.ctes; c != nil; c = c.parent {
				if strings.EqualFold(c.name, t.Parts[0]) {
					n, _, err := b.query(c.cte.Query, &scope{ctes: c.parent})
					if err != nil {
						return nil, nil, err
					}
					name := t.Alias
					if name == "" {
						name = c.name
					}
					cols := t.Columns
					if cols == nil {
						cols = c.cte.Columns
					}
					return renamed(n, name, cols, t.Pos)
				}
			}
		}
		tab, err := b.lookup(t)
		if err != nil {
			return nil, nil, sqlerr.WithPos(err, t.Pos)
		}
		s := &Scan{Table: tab, Bounds: NoBounds}
		sc := &scope{}
		qual := []string{tab.Catalog, tab.Schema, tab.Name}
		if t.Alias != "" {
			qual = []string{t.Alias}
		}
		if t.Columns != nil && len(t.Columns) != len(tab.Columns) {
			return nil, nil, aliasCount(t.Pos, len(t.Columns), t.Alias, len(tab.Columns))
		}
		for i, c := range tab.Columns {
			s.Columns = append(s.Columns, i)
			name := c.Name
			if t.Columns != nil {
				name = t.Columns[i]
			}
			sc.cols = append(sc.cols, scopeCol{qual: qual, name: name, typ: c.Type})
		}
		return s, sc, nil
	case *syntax.Derived:
		n, _, err := b.query(t.Query, &scope{ctes: env.ctes})
		if err != nil {
			return nil, nil, err
		}
		return renamed(n, t.Alias, t.Columns, t.Pos)
	case *syntax.Join:
		return b.join(t, env)
	}
	return nil, nil, sqlerr.NotSupported.Errorf("table expression is not supported")
}

func aliasCount(pos sqlerr.Pos, have int, name string, want int) error {
	return sqlerr.MismatchedColAliases.At(pos, "Column alias list has %d entries but '%s' has %d columns available", have, name, want)
}

func renamed(n Node, alias string, cols []string, pos sqlerr.Pos) (Node, *scope, error) {
	var qual []string
	if alias != "" {
		qual = []string{alias}
	}
	sc := outputScope(n, qual)
	if cols != nil {
		if len(cols) != len(sc.cols) {
			return nil, nil, aliasCount(pos, len(cols), alias, len(sc.cols))
		}
		for i := range cols {
			sc.cols[i].name = cols[i]
		}
	}
	return n, sc, nil
}

func (b *binder) lookup(t *syntax.Table) (*Table, error) {
	cat, sch := b.env.DefaultCatalog, b.env.Schema
	name := t.Parts[len(t.Parts)-1]
	switch len(t.Parts) {
	case 2:
		sch = t.Parts[0]
	case 3:
		cat, sch = t.Parts[0], t.Parts[1]
	}
	if sch == "" {
		return nil, sqlerr.MissingSchemaName.Errorf("Schema must be specified when session schema is not set")
	}
	return b.env.Catalog.Table(b.ctx, strings.ToLower(cat), sch, name)
}

func (b *binder) join(t *syntax.Join, env *scope) (Node, *scope, error) {
	if b.depth++; b.depth > 200 {
		return nil, nil, sqlerr.NotSupported.Errorf("query is nested too deeply")
	}
	defer func() { b.depth-- }()
	l, ls, err := b.table(t.Left, env)
	if err != nil {
		return nil, nil, err
	}
	r, rs, err := b.table(t.Right, env)
	if err != nil {
		return nil, nil, err
	}
	sc := &scope{cols: append(append([]scopeCol(nil), ls.cols...), rs.cols...), ctes: env.ctes}
	j := &Join{Kind: t.Kind, Left: l, Right: r}
	nl := len(ls.cols)
	if t.Using != nil {
		return b.joinUsing(j, t, ls, rs)
	}
	if t.On != nil {
		if p, found := findAggregate(t.On); found {
			return nil, nil, sqlerr.ExpressionNotScalar.At(p, "JOIN clause cannot contain aggregations")
		}
		cond, err := b.condition(t.On, sc, nil, "JOIN ON")
		if err != nil {
			return nil, nil, err
		}
		for _, c := range conjuncts(cond) {
			j.addCondition(c, nl)
		}
	}
	return j, sc, nil
}

func (b *binder) joinUsing(j *Join, t *syntax.Join, ls, rs *scope) (Node, *scope, error) {
	nl := len(ls.cols)
	used := map[int]bool{}
	p := &Project{In: j}
	sc := &scope{}
	for _, name := range t.Using {
		c := &syntax.Column{Parts: []string{name}}
		c.Pos = t.Pos
		le, err := ls.resolve(c)
		if err != nil {
			return nil, nil, err
		}
		re, err := rs.resolve(c)
		if err != nil {
			return nil, nil, err
		}
		lc, rc := le.(*expr.Col), re.(*expr.Col)
		both := &expr.Col{Index: nl + rc.Index, T: rc.T}
		eq, err := expr.Compare("=", lc, both)
		if err != nil {
			return nil, nil, sqlerr.WithPos(err, t.Pos)
		}
		j.addCondition(eq, nl)
		used[lc.Index], used[nl+rc.Index] = true, true
		e, err := expr.Call("coalesce", []expr.Expr{lc, both})
		if err != nil {
			return nil, nil, sqlerr.WithPos(err, t.Pos)
		}
		p.Exprs = append(p.Exprs, e)
		p.Names = append(p.Names, ls.cols[lc.Index].name)
		sc.cols = append(sc.cols, scopeCol{name: ls.cols[lc.Index].name, typ: e.Type()})
	}
	for i, c := range append(append([]scopeCol(nil), ls.cols...), rs.cols...) {
		if !used[i] {
			p.Exprs = append(p.Exprs, &expr.Col{Index: i, T: c.typ})
			p.Names = append(p.Names, c.name)
			sc.cols = append(sc.cols, c)
		}
	}
	return p, sc, nil
}
