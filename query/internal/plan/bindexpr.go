package plan

import (
	"strconv"
	"strings"
	"time"

	"github.com/daybook/daybook/query/internal/expr"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/syntax"
	"github.com/daybook/daybook/query/internal/value"
)

// expr binds an expression over a scope, or, with agg, over the result of an aggregation of that scope.
func (b *binder) expr(e syntax.Expr, sc *scope, agg *aggState) (expr.Expr, error) {
	if agg != nil {
		x, done, err := b.grouped(e, sc, agg)
		if done || err != nil {
			return x, err
		}
	}
	x, err := b.expr1(e, sc, agg)
	if err != nil {
		return nil, sqlerr.WithPos(err, e.Position())
	}
	switch x.(type) {
	case *expr.Func, *expr.Case, *expr.Logical:
		return expr.Fold(x), nil
	}
	return x, nil
}

// grouped binds aggregates and whatever is a key of the aggregation.
func (b *binder) grouped(e syntax.Expr, sc *scope, agg *aggState) (expr.Expr, bool, error) {
	if c, ok := e.(*syntax.Call); ok && isAggregate(c.Name) {
		x, err := b.aggregate(c, agg)
		if err != nil {
			err = sqlerr.WithPos(err, c.Pos)
		}
		return x, true, err
	}
	switch e.(type) {
	case *syntax.Literal, *syntax.Param, *syntax.Subquery, *syntax.Exists:
		return nil, false, nil
	}
	if len(agg.keys) > 0 {
		if _, found := findAggregate(e); !found && !hasSubquery(e) {
			if x, err := b.expr(e, agg.in, nil); err == nil {
				if k, ok := agg.names[expr.String(x)]; ok {
					return &expr.Col{Index: k, T: x.Type()}, true, nil
				}
			}
		}
	}
	if c, ok := e.(*syntax.Column); ok {
		if _, err := agg.in.resolve(c); err != nil {
			return nil, true, err
		}
		return nil, true, notAggregate(c.Pos, strings.Join(c.Parts, "."))
	}
	return nil, false, nil
}

func hasSubquery(e syntax.Expr) bool {
	found := false
	syntax.Walk(e, func(x syntax.Expr) {
		switch x := x.(type) {
		case *syntax.Subquery, *syntax.Exists:
			found = true
		case *syntax.In:
			found = found || x.Query != nil
		}
	})
	return found
}

func (b *binder) aggregate(c *syntax.Call, agg *aggState) (expr.Expr, error) {
	for _, a := range c.Args {
		if p, found := findAggregate(a); found {
			return nil, sqlerr.NestedAggregation.At(p, "Cannot nest aggregations inside aggregation '%s'", c.Name)
		}
	}
	if c.Star && c.Name != "count" {
		return nil, sqlerr.FunctionNotFound.Errorf("Unexpected parameters (*) for function %s", c.Name)
	}
	var args []expr.Expr
	for _, a := range c.Args {
		x, err := b.expr(a, agg.in, nil)
		if err != nil {
			return nil, err
		}
		args = append(args, x)
	}
	var filter expr.Expr
	if c.Filter != nil {
		f, err := b.condition(c.Filter, agg.in, nil, "FILTER")
		if err != nil {
			return nil, err
		}
		filter = f
	}
	a, err := newAgg(c.Name, args, c.Distinct, filter)
	if err != nil {
		return nil, err
	}
	s := a.String()
	i, ok := agg.byStr[s]
	if !ok {
		i = len(agg.aggs)
		agg.byStr[s] = i
		agg.aggs = append(agg.aggs, a)
	}
	return &expr.Col{Index: len(agg.keys) + i, T: a.T}, nil
}

func (b *binder) exprs(es []syntax.Expr, sc *scope, agg *aggState) ([]expr.Expr, error) {
	var out []expr.Expr
	for _, e := range es {
		x, err := b.expr(e, sc, agg)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

func (b *binder) expr1(e syntax.Expr, sc *scope, agg *aggState) (expr.Expr, error) {
	switch e := e.(type) {
	case *syntax.Literal:
		return b.literal(e)
	case *syntax.Param:
		if e.Index >= len(b.env.Params) {
			return nil, sqlerr.InvalidArguments.At(e.Pos, "Incorrect number of parameters: expected more than %d", len(b.env.Params))
		}
		return (&binder{ctx: b.ctx, env: &Env{Zone: b.env.Zone, Now: b.env.Now}}).expr(b.env.Params[e.Index], &scope{}, nil)
	case *syntax.Column:
		return sc.resolve(e)
	case *syntax.Field:
		x, err := b.expr(e.X, sc, agg)
		if err != nil {
			return nil, err
		}
		f, ok := expr.FieldOf(x, e.Name)
		if !ok {
			return nil, sqlerr.TypeMismatch.At(e.Pos, "%s has no field '%s'", x.Type(), e.Name)
		}
		return f, nil
	case *syntax.Unary:
		x, err := b.expr(e.X, sc, agg)
		if err != nil {
			return nil, err
		}
		if e.Op == "-" {
			return expr.Negate(x)
		}
		if !x.Type().IsNumeric() {
			return nil, sqlerr.TypeMismatch.Errorf("Unary plus needs a number")
		}
		return x, nil
	case *syntax.Binary:
		// A chain of operators leans left; it is bound without recursion.
		var chain []*syntax.Binary
		var left syntax.Expr = e
		for {
			bin, ok := left.(*syntax.Binary)
			if !ok || agg != nil && len(chain) > 0 {
				break
			}
			chain = append(chain, bin)
			left = bin.Left
		}
		x, err := b.expr(left, sc, agg)
		if err != nil {
			return nil, err
		}
		for i := len(chain) - 1; i >= 0; i-- {
			y, err := b.expr(chain[i].Right, sc, agg)
			if err != nil {
				return nil, err
			}
			switch op := chain[i].Op; op {
			case "+", "-", "*", "/", "%":
				x, err = expr.Arith(op, x, y)
			case "||":
				x, err = expr.Concat(x, y)
			default:
				x, err = expr.Compare(op, x, y)
			}
			if err != nil {
				return nil, err
			}
		}
		return x, nil
	case *syntax.Logical:
		args, err := b.exprs(e.Args, sc, agg)
		if err != nil {
			return nil, err
		}
		return expr.And(e.Or, args)
	case *syntax.Not:
		x, err := b.expr(e.X, sc, agg)
		if err != nil {
			return nil, err
		}
		return expr.Not(x)
	case *syntax.Is:
		x, err := b.expr(e.X, sc, agg)
		if err != nil {
			return nil, err
		}
		if e.What == "NULL" {
			return expr.IsNull(x, e.Not), nil
		}
		return expr.IsBool(x, e.What == "TRUE", e.Not)
	case *syntax.Between:
		xs, err := b.exprs([]syntax.Expr{e.X, e.Low, e.High}, sc, agg)
		if err != nil {
			return nil, err
		}
		lo, err := expr.Compare(">=", xs[0], xs[1])
		if err != nil {
			return nil, err
		}
		hi, err := expr.Compare("<=", xs[0], xs[2])
		if err != nil {
			return nil, err
		}
		both, err := expr.And(false, []expr.Expr{lo, hi})
		if err != nil || !e.Not {
			return both, err
		}
		return expr.Not(both)
	case *syntax.In:
		return b.in(e, sc, agg)
	case *syntax.Like:
		es := []syntax.Expr{e.X, e.Pattern}
		if e.Escape != nil {
			es = append(es, e.Escape)
		}
		xs, err := b.exprs(es, sc, agg)
		if err != nil {
			return nil, err
		}
		var esc expr.Expr
		if e.Escape != nil {
			esc = xs[2]
		}
		x, err := expr.Like(xs[0], xs[1], esc)
		if err != nil || !e.Not {
			return x, err
		}
		return expr.Not(x)
	case *syntax.Exists:
		n, _, err := b.query(e.Query, sc)
		if err != nil {
			return nil, err
		}
		late := &expr.Late{T: value.BooleanType}
		b.subplans = append(b.subplans, &Subplan{Root: limitNode(n, 1, 0), Exists: late})
		return late, nil
	case *syntax.Subquery:
		n, _, err := b.query(e.Query, sc)
		if err != nil {
			return nil, err
		}
		if len(n.Cols()) != 1 {
			return nil, sqlerr.UnsupportedSubquery.Errorf("Multiple columns returned by subquery are not supported: %d", len(n.Cols()))
		}
		late := &expr.Late{T: n.Cols()[0].Type}
		b.subplans = append(b.subplans, &Subplan{Root: n, Scalar: late})
		return late, nil
	case *syntax.Case:
		return b.caseExpr(e, sc, agg)
	case *syntax.Cast:
		x, err := b.expr(e.X, sc, agg)
		if err != nil {
			return nil, err
		}
		t := e.Type
		if t.Kind == value.TimestampTZ {
			t.Zone = b.env.Zone
		}
		return expr.Cast(x, t, e.Try)
	case *syntax.Call:
		return b.call(e, sc, agg)
	case *syntax.Tuple:
		return nil, sqlerr.NotSupported.Errorf("a list of expressions is not supported here")
	case *syntax.Star:
		return nil, sqlerr.SyntaxError.Errorf("* is not an expression")
	}
	return nil, sqlerr.NotSupported.Errorf("expression is not supported")
}

func (b *binder) in(e *syntax.In, sc *scope, agg *aggState) (expr.Expr, error) {
	if t, ok := e.X.(*syntax.Tuple); ok && e.Query == nil {
		// (a, b) IN ((1, 2), …) is a = 1 AND b = 2 OR …
		xs, err := b.exprs(t.Args, sc, agg)
		if err != nil {
			return nil, err
		}
		var ors []expr.Expr
		for _, item := range e.List {
			it, ok := item.(*syntax.Tuple)
			if !ok || len(it.Args) != len(xs) {
				return nil, sqlerr.TypeMismatch.At(item.Position(), "IN value and list items must have the same number of fields")
			}
			ys, err := b.exprs(it.Args, sc, agg)
			if err != nil {
				return nil, err
			}
			var ands []expr.Expr
			for i := range xs {
				eq, err := expr.Compare("=", xs[i], ys[i])
				if err != nil {
					return nil, err
				}
				ands = append(ands, eq)
			}
			and, err := expr.And(false, ands)
			if err != nil {
				return nil, err
			}
			ors = append(ors, and)
		}
		or, err := expr.And(true, ors)
		if err != nil || !e.Not {
			return or, err
		}
		return expr.Not(or)
	}
	x, err := b.expr(e.X, sc, agg)
	if err != nil {
		return nil, err
	}
	if e.Query == nil {
		list, err := b.exprs(e.List, sc, agg)
		if err != nil {
			return nil, err
		}
		return expr.In(x, list, e.Not)
	}
	n, _, err := b.query(e.Query, sc)
	if err != nil {
		return nil, err
	}
	cols := n.Cols()
	if len(cols) != 1 {
		return nil, sqlerr.TypeMismatch.Errorf("Multiple columns returned by subquery of IN: %d", len(cols))
	}
	t, ok := expr.Common(x.Type(), cols[0].Type)
	if !ok {
		return nil, sqlerr.TypeMismatch.Errorf("value and result of subquery must be of the same type for IN expression: %s vs %s", x.Type(), cols[0].Type)
	}
	x, ok1 := expr.Coerce(x, t)
	c, ok2 := expr.Coerce(&expr.Col{Index: 0, T: cols[0].Type}, t)
	if !ok1 || !ok2 {
		return nil, sqlerr.TypeMismatch.Errorf("value and result of subquery must be of the same type for IN expression: %s vs %s", t, cols[0].Type)
	}
	set := &expr.Set{}
	b.subplans = append(b.subplans, &Subplan{Root: &Project{In: n, Exprs: []expr.Expr{c}, Names: []string{""}}, Set: set})
	return &expr.LateSet{X: x, Not: e.Not, Set: set}, nil
}

func (b *binder) caseExpr(e *syntax.Case, sc *scope, agg *aggState) (expr.Expr, error) {
	out := &expr.Case{}
	var operand expr.Expr
	if e.Operand != nil {
		x, err := b.expr(e.Operand, sc, agg)
		if err != nil {
			return nil, err
		}
		operand = x
	}
	var results []expr.Expr
	for _, w := range e.Whens {
		c, err := b.expr(w.Cond, sc, agg)
		if err != nil {
			return nil, err
		}
		if operand != nil {
			if c, err = expr.Compare("=", operand, c); err != nil {
				return nil, sqlerr.WithPos(err, w.Cond.Position())
			}
		}
		cb, ok := expr.Coerce(c, value.BooleanType)
		if !ok {
			return nil, sqlerr.TypeMismatch.At(w.Cond.Position(), "CASE WHEN clause must evaluate to a boolean: actual type %s", c.Type())
		}
		out.Conds = append(out.Conds, cb)
		r, err := b.expr(w.Then, sc, agg)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	if e.Else != nil {
		r, err := b.expr(e.Else, sc, agg)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	results, t, err := expr.Unify("All CASE results", results)
	if err != nil {
		return nil, err
	}
	out.T = t
	out.Thens = results[:len(e.Whens)]
	if e.Else != nil {
		out.Else = results[len(e.Whens)]
	}
	return out, nil
}

func (b *binder) call(e *syntax.Call, sc *scope, agg *aggState) (expr.Expr, error) {
	if isAggregate(e.Name) {
		return nil, sqlerr.ExpressionNotScalar.At(e.Pos, "aggregate function %s is not allowed here", e.Name)
	}
	if e.Filter != nil {
		return nil, sqlerr.FunctionNotFound.At(e.Pos, "Filter is only valid for aggregation functions: %s", e.Name)
	}
	if e.Star || e.Distinct {
		return nil, sqlerr.FunctionNotFound.At(e.Pos, "%s is not an aggregate function", e.Name)
	}
	if len(e.Args) == 0 {
		text := func(s string) (expr.Expr, error) { return expr.NewConst(value.VarcharType, s), nil }
		tz := value.TimestampTZType
		tz.Zone = b.env.Zone
		local := func() int64 {
			l, ok := value.Zone(b.env.Zone)
			if !ok {
				l = time.UTC
			}
			_, off := b.env.Now.In(l).Zone()
			return b.env.Now.UnixMilli() + int64(off)*1000
		}
		day := int64(86_400_000)
		switch e.Name {
		case "now", "current_timestamp":
			return expr.NewConst(tz, b.env.Now.UnixMilli()), nil
		case "localtimestamp":
			return expr.NewConst(value.TimestampType, local()), nil
		case "current_date":
			return expr.NewConst(value.DateType, value.FloorDiv(local(), day)), nil
		case "localtime", "current_time":
			return expr.NewConst(value.TimeType, local()-value.FloorDiv(local(), day)*day), nil
		case "current_user":
			return text(b.env.User)
		case "current_catalog":
			return text(b.env.DefaultCatalog)
		case "current_schema":
			return text(b.env.Schema)
		case "current_timezone":
			if b.env.Zone == "" {
				return text("UTC")
			}
			return text(b.env.Zone)
		case "version":
			return text(b.env.Version)
		}
	}
	args, err := b.exprs(e.Args, sc, agg)
	if err != nil {
		return nil, err
	}
	return expr.Call(e.Name, args)
}

func (b *binder) literal(l *syntax.Literal) (expr.Expr, error) {
	switch l.Kind {
	case syntax.NullLiteral:
		return expr.NewConst(value.UnknownType, nil), nil
	case syntax.BoolLiteral:
		return expr.NewConst(value.BooleanType, l.Text == "TRUE"), nil
	case syntax.IntLiteral:
		n, err := strconv.ParseInt(l.Text, 10, 64)
		if err != nil {
			return nil, sqlerr.InvalidLiteral.At(l.Pos, "Invalid numeric literal: %s", l.Text)
		}
		if n <= 1<<31-1 {
			return expr.NewConst(value.IntegerType, n), nil
		}
		return expr.NewConst(value.BigIntType, n), nil
	case syntax.DecimalLiteral:
		return decimal(l)
	case syntax.DoubleLiteral:
		f, err := strconv.ParseFloat(l.Text, 64)
		if err != nil {
			return nil, sqlerr.InvalidLiteral.At(l.Pos, "Invalid numeric literal: %s", l.Text)
		}
		return expr.NewConst(value.DoubleType, f), nil
	case syntax.StringLiteral:
		return expr.NewConst(value.VarcharType, l.Text), nil
	case syntax.BinaryLiteral:
		return expr.NewConst(value.VarbinaryType, l.Text), nil
	case syntax.IntervalLiteral:
		return interval(l)
	}
	t := l.Type
	switch t.Kind {
	case value.Decimal:
		return decimal(l)
	case value.Timestamp:
		ms, zone, ok := value.ParseTimestamp(l.Text)
		if !ok {
			return nil, sqlerr.InvalidLiteral.At(l.Pos, "'%s' is not a valid timestamp literal", l.Text)
		}
		if zone != "" {
			t = value.TimestampTZType
			t.Zone = zone
		}
		return expr.NewConst(t, ms), nil
	}
	x, err := expr.Cast(expr.NewConst(value.VarcharType, l.Text), t, false)
	if err != nil {
		return nil, err
	}
	c, ok := expr.Fold(x).(*expr.Const)
	if !ok {
		return nil, sqlerr.InvalidLiteral.At(l.Pos, "'%s' is not a valid %s literal", l.Text, t.Name())
	}
	return c, nil
}

func decimal(l *syntax.Literal) (expr.Expr, error) {
	v, p, s, ok := value.ParseDecimal(strings.TrimSpace(l.Text))
	if !ok {
		return nil, sqlerr.InvalidLiteral.At(l.Pos, "Invalid decimal literal '%s'", l.Text)
	}
	return expr.NewConst(value.DecimalType(p, s), v), nil
}

// interval reads '5' DAY, '1 02:03:04.5' DAY TO SECOND, '1-2' YEAR TO MONTH and their like.
func interval(l *syntax.Literal) (expr.Expr, error) {
	bad := sqlerr.InvalidLiteral.At(l.Pos, "Invalid INTERVAL literal: '%s' %s", l.Text, l.Unit)
	text := strings.TrimSpace(l.Text)
	neg := l.Negative
	if t, ok := strings.CutPrefix(text, "-"); ok {
		text, neg = t, !neg
	}
	num := func(s string) (int64, bool) {
		n, err := strconv.ParseInt(s, 10, 32)
		return n, err == nil && n >= 0
	}
	sign := func(n int64) int64 {
		if neg {
			return -n
		}
		return n
	}
	if l.Unit == "YEAR" || l.Unit == "MONTH" {
		months := int64(0)
		y, m, two := strings.Cut(text, "-")
		n, ok := num(y)
		switch {
		case !ok || two != (l.To != "") || l.To != "" && (l.Unit != "YEAR" || l.To != "MONTH"):
			return nil, bad
		case l.Unit == "YEAR":
			months = n * 12
		default:
			months = n
		}
		if two {
			k, ok := num(m)
			if !ok || k > 11 {
				return nil, bad
			}
			months += k
		}
		return expr.NewConst(value.IntervalMonthType, sign(months)), nil
	}
	units := []string{"DAY", "HOUR", "MINUTE", "SECOND"}
	size := []int64{86_400_000, 3_600_000, 60_000, 1000}
	at := -1
	for i, u := range units {
		if u == l.Unit {
			at = i
		}
	}
	parts := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ':' })
	last := at
	if l.To != "" {
		last = -1
		for i, u := range units {
			if u == l.To && i > at {
				last = i
			}
		}
	}
	if at < 0 || last < 0 || len(parts) != last-at+1 {
		return nil, bad
	}
	ms := int64(0)
	for i, p := range parts {
		if units[at+i] == "SECOND" {
			f, err := strconv.ParseFloat(p, 64)
			if err != nil || f < 0 || f > 1e9 {
				return nil, bad
			}
			ms += int64(f*1000 + 0.5)
			continue
		}
		n, ok := num(p)
		if !ok {
			return nil, bad
		}
		ms += n * size[at+i]
	}
	return expr.NewConst(value.IntervalDayType, sign(ms)), nil
}
