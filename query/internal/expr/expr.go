// Package expr is typed expressions over columns: plan builds them with the constructors here, which check
// types and insert casts, and exec evaluates them batch by batch.
//
// Evaluation has no side effects and an Expr may be used by several goroutines at once. The rules are
// Trino's: three-valued logic, no implicit conversion between text and numbers, integer overflow and
// division by zero are errors, decimals are exact.
package expr

import (
	"fmt"
	"strings"

	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// An Expr computes a column from the columns of a batch.
type Expr interface {
	Type() value.Type
	// Eval gives one value a row of b. The result may share memory with b.
	Eval(b *value.Batch) (*value.Vec, error)
}

// Col is a column of the input.
type Col struct {
	Index int
	T     value.Type
}

// Type gives the column's type.
func (c *Col) Type() value.Type { return c.T }

// Eval gives the column as it is.
func (c *Col) Eval(b *value.Batch) (*value.Vec, error) { return b.Cols[c.Index], nil }

// Const is a constant.
type Const struct {
	Val any // as value.Vec.Get gives it
	T   value.Type
	vec *value.Vec // BatchSize copies
}

// NewConst makes a constant of a boxed value.
func NewConst(t value.Type, v any) *Const {
	return &Const{Val: v, T: t, vec: value.Constant(t, v, value.BatchSize)}
}

// Type gives the constant's type.
func (c *Const) Type() value.Type { return c.T }

// Eval gives copies of the constant.
func (c *Const) Eval(b *value.Batch) (*value.Vec, error) {
	if b.Len <= value.BatchSize {
		return c.vec.Slice(0, b.Len), nil
	}
	return value.Constant(c.T, c.Val, b.Len), nil
}

// A Late is a constant that is known only when the statement runs: the value of a scalar subquery.
type Late struct {
	T   value.Type
	Val *Const // set before anything is evaluated
}

// Type gives the subquery's type.
func (l *Late) Type() value.Type { return l.T }

// Eval gives copies of the value.
func (l *Late) Eval(b *value.Batch) (*value.Vec, error) { return l.Val.Eval(b) }

// LateSet is x IN (subquery), whose set is known only when the statement runs.
type LateSet struct {
	X   Expr
	Not bool
	*Set
}

// A Set is the values that LateSet looks for; it is filled before anything is evaluated.
type Set struct {
	Keys    map[string]struct{} // made by value.AppendKey
	HasNull bool
}

// Type is boolean.
func (*LateSet) Type() value.Type { return value.BooleanType }

// Eval looks up each value.
func (s *LateSet) Eval(b *value.Batch) (*value.Vec, error) {
	x, err := s.X.Eval(b)
	if err != nil {
		return nil, err
	}
	out := value.NewVec(value.BooleanType, b.Len)
	var key []byte
	for i := range b.Len {
		if x.IsNull(i) {
			if len(s.Keys) > 0 || s.HasNull {
				out.SetNull(i)
			} else if s.Not {
				out.I64[i] = 1
			}
			continue
		}
		key = value.AppendKey(key[:0], x, i)
		_, found := s.Keys[string(key)]
		if found && x.Type.IsFloat() && x.F64[i] != x.F64[i] {
			found = false // NaN = NaN is false
		}
		switch {
		case found != s.Not && (found || !s.HasNull):
			out.I64[i] = 1
		case !found && s.HasNull:
			out.SetNull(i)
		}
	}
	return out, nil
}

// Func is a function of its arguments' values.
type Func struct {
	Name    string
	T       value.Type
	Args    []Expr
	CanFail bool // may give an error for some values
	eval    func(args []*value.Vec, n int) (*value.Vec, error)
}

// Type gives the result's type.
func (f *Func) Type() value.Type { return f.T }

// Eval evaluates the arguments, then the function.
func (f *Func) Eval(b *value.Batch) (*value.Vec, error) {
	var buf [4]*value.Vec
	args := buf[:0]
	for _, a := range f.Args {
		v, err := a.Eval(b)
		if err != nil {
			return nil, err
		}
		args = append(args, v)
	}
	return f.eval(args, b.Len)
}

// Logical is AND or OR of two or more booleans.
type Logical struct {
	Or   bool
	Args []Expr
}

// Type is boolean.
func (*Logical) Type() value.Type { return value.BooleanType }

// Eval goes from left to right and evaluates an argument that can fail only for the rows that the ones
// before it left open, so that x <> 0 AND 1/x > 2 is safe.
func (l *Logical) Eval(b *value.Batch) (*value.Vec, error) {
	out := value.NewVec(value.BooleanType, b.Len)
	if !l.Or {
		for i := range out.I64 {
			out.I64[i] = 1
		}
	}
	done := int64(0) // the value that decides
	if l.Or {
		done = 1
	}
	for k, a := range l.Args {
		sub, sel := b, []int32(nil)
		if k > 0 {
			open := 0
			for i := range b.Len {
				if out.I64[i] != done {
					open++
				}
			}
			if open == 0 {
				break
			}
			if open < b.Len && (open < b.Len/4 || CanFail(a)) {
				sel = make([]int32, 0, open)
				for i := range b.Len {
					if out.I64[i] != done {
						sel = append(sel, int32(i))
					}
				}
				sub = gatherUsed(b, a, sel)
			}
		}
		v, err := a.Eval(sub)
		if err != nil {
			return nil, err
		}
		for j := range v.Len {
			i := j
			if sel != nil {
				i = int(sel[j])
			}
			switch {
			case v.IsNull(j):
				if out.I64[i] != done || out.IsNull(i) {
					out.I64[i] = 1 - done
					out.SetNull(i)
				}
			case v.I64[j] == done:
				out.I64[i] = done
				if out.IsNull(i) {
					out.Nulls[i>>6] &^= 1 << (uint(i) & 63)
				}
			}
		}
	}
	if out.Nulls != nil {
		for i := range b.Len {
			if out.IsNull(i) {
				out.I64[i] = 0
			}
		}
	}
	return out, nil
}

// gatherUsed gathers only the columns that e reads.
func gatherUsed(b *value.Batch, e Expr, sel []int32) *value.Batch {
	o := &value.Batch{Cols: make([]*value.Vec, len(b.Cols)), Len: len(sel)}
	Walk(e, func(x Expr) {
		if c, ok := x.(*Col); ok && o.Cols[c.Index] == nil {
			o.Cols[c.Index] = b.Cols[c.Index].Gather(sel)
		}
	})
	return o
}

// Case is CASE WHEN …; every branch is evaluated only for its rows.
type Case struct {
	T     value.Type
	Conds []Expr
	Thens []Expr
	Else  Expr // nil: NULL
}

// Type gives the common type of the branches.
func (c *Case) Type() value.Type { return c.T }

// Eval chooses and evaluates branches.
func (c *Case) Eval(b *value.Batch) (*value.Vec, error) {
	out := value.NewVec(c.T, b.Len)
	open := make([]int32, b.Len)
	for i := range open {
		open[i] = int32(i)
	}
	put := func(e Expr, sel []int32) error {
		if len(sel) == 0 {
			return nil
		}
		v, err := e.Eval(gatherUsed(b, e, sel))
		if err != nil {
			return err
		}
		for j, i := range sel {
			if v.IsNull(j) {
				out.SetNull(int(i))
				continue
			}
			switch c.T.Store() {
			case value.StoreI64:
				out.I64[i] = v.I64[j]
			case value.StoreF64:
				out.F64[i] = v.F64[j]
			case value.StoreDec:
				out.Dec[i] = v.Dec[j]
			case value.StoreStr:
				out.Str[i] = v.Str[j]
			case value.StoreAny:
				out.Any[i] = v.Any[j]
			}
		}
		return nil
	}
	for k, cond := range c.Conds {
		if len(open) == 0 {
			return out, nil
		}
		v, err := cond.Eval(gatherUsed(b, cond, open))
		if err != nil {
			return nil, err
		}
		var hit, rest []int32
		for j, i := range open {
			if !v.IsNull(j) && v.I64[j] != 0 {
				hit = append(hit, i)
			} else {
				rest = append(rest, i)
			}
		}
		if err := put(c.Thens[k], hit); err != nil {
			return nil, err
		}
		open = rest
	}
	if c.Else == nil {
		for _, i := range open {
			out.SetNull(int(i))
		}
		return out, nil
	}
	return out, put(c.Else, open)
}

// Try is TRY(x): NULL where x fails on the row's values.
type Try struct{ X Expr }

// Type gives the type of x.
func (t *Try) Type() value.Type { return t.X.Type() }

// Eval evaluates the batch at once, and row by row if that fails.
func (t *Try) Eval(b *value.Batch) (*value.Vec, error) {
	v, err := t.X.Eval(b)
	if err == nil {
		return v, nil
	}
	out := value.NewVec(t.Type(), 0)
	for i := range b.Len {
		v, err := t.X.Eval(b.Slice(i, i+1))
		switch {
		case err == nil:
			out.AppendFrom(v, 0)
		case tryable(err):
			out.AppendNull()
		default:
			return nil, err
		}
	}
	return out, nil
}

func tryable(err error) bool {
	switch sqlerr.From(err).Code {
	case sqlerr.DivisionByZero, sqlerr.InvalidCastArg, sqlerr.InvalidFunctionArg, sqlerr.NumericOutOfRange:
		return true
	}
	return false
}

// Children gives the expressions that e is made of.
func Children(e Expr) []Expr {
	switch e := e.(type) {
	case *Func:
		return e.Args
	case *Logical:
		return e.Args
	case *Case:
		cs := append(append([]Expr(nil), e.Conds...), e.Thens...)
		if e.Else != nil {
			cs = append(cs, e.Else)
		}
		return cs
	case *Try:
		return []Expr{e.X}
	case *LateSet:
		return []Expr{e.X}
	}
	return nil
}

// Walk visits e and all that it is made of.
func Walk(e Expr, visit func(Expr)) {
	visit(e)
	for _, c := range Children(e) {
		Walk(c, visit)
	}
}

// Map rebuilds e with each Col replaced.
func Map(e Expr, col func(*Col) Expr) Expr {
	list := func(es []Expr) []Expr {
		out := make([]Expr, len(es))
		for i, x := range es {
			out[i] = Map(x, col)
		}
		return out
	}
	switch e := e.(type) {
	case *Col:
		return col(e)
	case *Func:
		f := *e
		f.Args = list(e.Args)
		return &f
	case *Logical:
		return &Logical{Or: e.Or, Args: list(e.Args)}
	case *Case:
		c := &Case{T: e.T, Conds: list(e.Conds), Thens: list(e.Thens)}
		if e.Else != nil {
			c.Else = Map(e.Else, col)
		}
		return c
	case *Try:
		return &Try{Map(e.X, col)}
	case *LateSet:
		return &LateSet{X: Map(e.X, col), Not: e.Not, Set: e.Set}
	}
	return e
}

// String writes e so that two expressions that are written alike give the same values for the same row.
func String(e Expr) string {
	var b strings.Builder
	write(&b, e)
	return b.String()
}

func write(b *strings.Builder, e Expr) {
	list := func(es []Expr) {
		for i, x := range es {
			if i > 0 {
				b.WriteString(", ")
			}
			write(b, x)
		}
	}
	switch e := e.(type) {
	case *Col:
		fmt.Fprintf(b, "#%d", e.Index)
	case *Const:
		if s, ok := e.Val.(string); ok {
			fmt.Fprintf(b, "%q", s)
		} else {
			b.Write(value.AppendText(nil, e.T, e.Val))
		}
		if e.T.Kind != value.Varchar && e.T.Kind != value.Integer {
			b.WriteString("::" + e.T.String())
		}
	case *Func:
		switch {
		case e.Name == "cast":
			b.WriteString("cast(")
			list(e.Args)
			b.WriteString(" as " + e.T.String() + ")")
		case len(e.Args) == 2 && (len(e.Name) <= 2 || strings.HasPrefix(e.Name, "IS ") || e.Name == "LIKE"):
			b.WriteByte('(')
			write(b, e.Args[0])
			b.WriteString(" " + e.Name + " ")
			write(b, e.Args[1])
			b.WriteByte(')')
		default:
			b.WriteString(e.Name + "(")
			list(e.Args)
			b.WriteByte(')')
		}
	case *Logical:
		op := " AND "
		if e.Or {
			op = " OR "
		}
		b.WriteByte('(')
		for i, x := range e.Args {
			if i > 0 {
				b.WriteString(op)
			}
			write(b, x)
		}
		b.WriteByte(')')
	case *Case:
		b.WriteString("case")
		for i, c := range e.Conds {
			b.WriteString(" when ")
			write(b, c)
			b.WriteString(" then ")
			write(b, e.Thens[i])
		}
		if e.Else != nil {
			b.WriteString(" else ")
			write(b, e.Else)
		}
		b.WriteString(" end")
	case *Try:
		b.WriteString("try(")
		write(b, e.X)
		b.WriteByte(')')
	case *Late:
		fmt.Fprintf(b, "subquery@%p", e)
	case *LateSet:
		write(b, e.X)
		if e.Not {
			b.WriteString(" not")
		}
		fmt.Fprintf(b, " in set@%p", e.Set)
	}
}

// CanFail reports whether evaluation may give an error for some values.
func CanFail(e Expr) bool {
	fail := false
	Walk(e, func(x Expr) {
		if f, ok := x.(*Func); ok && f.CanFail {
			fail = true
		}
	})
	return fail
}

// IsConst reports whether e has one value whatever the row; Late counts as not constant.
func IsConst(e Expr) bool {
	c := true
	Walk(e, func(x Expr) {
		switch x := x.(type) {
		case *Col, *Late, *LateSet:
			c = false
		case *Func:
			if x.Name == "random" || x.Name == "uuid" {
				c = false
			}
		}
	})
	return c
}

// Fold evaluates a constant expression; one that fails is left to fail when it runs.
func Fold(e Expr) Expr {
	if _, ok := e.(*Const); ok || !IsConst(e) {
		return e
	}
	v, err := e.Eval(&value.Batch{Len: 1})
	if err != nil {
		return e
	}
	return NewConst(e.Type(), v.Get(0))
}

// Bool evaluates a condition and gives the rows for which it is true.
func Bool(e Expr, b *value.Batch, sel []int32) ([]int32, error) {
	v, err := e.Eval(b)
	if err != nil {
		return nil, err
	}
	sel = sel[:0]
	if v.Nulls == nil {
		for i, x := range v.I64 {
			if x != 0 {
				sel = append(sel, int32(i))
			}
		}
		return sel, nil
	}
	for i, x := range v.I64 {
		if x != 0 && !v.IsNull(i) {
			sel = append(sel, int32(i))
		}
	}
	return sel, nil
}

func unionNulls(args []*value.Vec, n int) []uint64 {
	var out []uint64
	owned := false
	for _, a := range args {
		if a.Nulls == nil {
			continue
		}
		if out == nil {
			out = a.Nulls
			continue
		}
		if !owned {
			out = append(make([]uint64, 0, (n+63)/64), out...)
			owned = true
		}
		for len(out) < len(a.Nulls) {
			out = append(out, 0)
		}
		for i, w := range a.Nulls {
			out[i] |= w
		}
	}
	if out != nil && !owned {
		out = append([]uint64(nil), out...)
	}
	return out
}
