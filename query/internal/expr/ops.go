package expr

import (
	"cmp"
	"math"
	"math/bits"
	"time"

	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// Common gives the type to which both types convert without being asked, and whether there is one.
func Common(a, b value.Type) (value.Type, bool) {
	switch {
	case a.Equal(b), b.Kind == value.Unknown:
		return a, true
	case a.Kind == value.Unknown:
		return b, true
	case a.IsNumeric() && b.IsNumeric():
		if a.IsFloat() || b.IsFloat() {
			if a.Kind == value.Double || b.Kind == value.Double {
				return value.DoubleType, true
			}
			return value.RealType, true
		}
		if a.Kind == value.Decimal || b.Kind == value.Decimal {
			a, b = asDecimal(a), asDecimal(b)
			s := max(a.Scale, b.Scale)
			return value.DecimalType(max(a.Precision-a.Scale, b.Precision-b.Scale)+s, s), true
		}
		if a.Kind > b.Kind {
			return a, true
		}
		return b, true
	case a.Kind >= value.Date && a.Kind <= value.TimestampTZ && b.Kind >= value.Date && b.Kind <= value.TimestampTZ:
		if a.Kind == value.Time || b.Kind == value.Time {
			return value.Type{}, false
		}
		if a.Kind > b.Kind {
			return a, true
		}
		return b, true
	case a.Kind == value.Array && b.Kind == value.Array:
		e, ok := Common(*a.Elem, *b.Elem)
		return value.ArrayOf(e), ok
	}
	return value.Type{}, false
}

func asDecimal(t value.Type) value.Type {
	if t.IsInteger() {
		return value.DecimalType(t.IntDigits(), 0)
	}
	return t
}

// Coerce converts e to t if that is done without being asked.
func Coerce(e Expr, t value.Type) (Expr, bool) {
	if e.Type().Equal(t) {
		return e, true
	}
	c, ok := Common(e.Type(), t)
	if !ok || !c.Equal(t) {
		return nil, false
	}
	x, err := Cast(e, t, false)
	return x, err == nil
}

// Unify converts all to their common type.
func Unify(what string, es []Expr) ([]Expr, value.Type, error) {
	t := value.UnknownType
	for _, e := range es {
		c, ok := Common(t, e.Type())
		if !ok {
			return nil, t, sqlerr.TypeMismatch.Errorf("%s must be of the same type: %s, %s", what, t, e.Type())
		}
		t = c
	}
	out := make([]Expr, len(es))
	for i, e := range es {
		x, ok := Coerce(e, t)
		if !ok {
			return nil, t, sqlerr.TypeMismatch.Errorf("%s must be of the same type: %s, %s", what, t, e.Type())
		}
		out[i] = x
	}
	return out, t, nil
}

func mismatch(op string, a, b value.Type) error {
	return sqlerr.TypeMismatch.Errorf("Cannot apply operator: %s %s %s", a, op, b)
}

// Compare builds =, <>, <, <=, >, >=, IS DISTINCT FROM and IS NOT DISTINCT FROM.
func Compare(op string, l, r Expr) (Expr, error) {
	t, ok := Common(l.Type(), r.Type())
	if !ok {
		return nil, mismatch(op, l.Type(), r.Type())
	}
	if (t.Kind == value.Map || t.Kind == value.Row) && (op == "<" || op == ">" || op == "<=" || op == ">=") {
		return nil, mismatch(op, l.Type(), r.Type())
	}
	a, ok1 := Coerce(l, t)
	b, ok2 := Coerce(r, t)
	if !ok1 || !ok2 {
		return nil, mismatch(op, l.Type(), r.Type())
	}
	f := &Func{Name: op, T: value.BooleanType, Args: []Expr{a, b}}
	if op == "IS DISTINCT FROM" || op == "IS NOT DISTINCT FROM" {
		not := op == "IS NOT DISTINCT FROM"
		f.eval = func(args []*value.Vec, n int) (*value.Vec, error) {
			out := value.NewVec(value.BooleanType, n)
			x, y := args[0], args[1]
			for i := range n {
				same := x.IsNull(i) == y.IsNull(i) && (x.IsNull(i) || value.CompareAt(x, i, y, i) == 0)
				if same == not {
					out.I64[i] = 1
				}
			}
			return out, nil
		}
		return f, nil
	}
	lt, eq, gt := int64(0), int64(0), int64(0)
	switch op {
	case "=":
		eq = 1
	case "<>":
		lt, gt = 1, 1
	case "<":
		lt = 1
	case "<=":
		lt, eq = 1, 1
	case ">":
		gt = 1
	case ">=":
		gt, eq = 1, 1
	}
	f.eval = func(args []*value.Vec, n int) (*value.Vec, error) {
		x, y := args[0], args[1]
		out := value.NewVec(value.BooleanType, n)
		out.Nulls = unionNulls(args, n)
		o := out.I64
		switch x.Type.Store() {
		case value.StoreI64:
			compareOrdered(o, x.I64, y.I64, lt, eq, gt)
		case value.StoreF64:
			nan := int64(0)
			if op == "<>" {
				nan = 1
			}
			for i := range o {
				a, b := x.F64[i], y.F64[i]
				switch {
				case a < b:
					o[i] = lt
				case a > b:
					o[i] = gt
				case a == b:
					o[i] = eq
				default:
					o[i] = nan
				}
			}
		case value.StoreStr:
			switch op {
			case "=":
				for i := range o {
					if x.Str[i] == y.Str[i] {
						o[i] = 1
					}
				}
			case "<>":
				for i := range o {
					if x.Str[i] != y.Str[i] {
						o[i] = 1
					}
				}
			default:
				compareOrdered(o, x.Str, y.Str, lt, eq, gt)
			}
		case value.StoreDec:
			for i := range o {
				o[i] = pick(x.Dec[i].Cmp(y.Dec[i]), lt, eq, gt)
			}
		default:
			for i := range o {
				if !out.IsNull(i) {
					o[i] = pick(value.Compare(x.Any[i], y.Any[i]), lt, eq, gt)
				}
			}
		}
		return out, nil
	}
	return f, nil
}

func pick(c int, lt, eq, gt int64) int64 {
	switch {
	case c < 0:
		return lt
	case c > 0:
		return gt
	}
	return eq
}

func compareOrdered[T cmp.Ordered](o []int64, x, y []T, lt, eq, gt int64) {
	for i := range o {
		a, b := x[i], y[i]
		switch {
		case a < b:
			o[i] = lt
		case a > b:
			o[i] = gt
		default:
			o[i] = eq
		}
	}
}

// Not builds NOT x.
func Not(x Expr) (Expr, error) {
	x, ok := Coerce(x, value.BooleanType)
	if !ok {
		return nil, sqlerr.TypeMismatch.Errorf("Value of logical NOT expression must evaluate to a boolean")
	}
	return &Func{Name: "NOT", T: value.BooleanType, Args: []Expr{x}, eval: func(args []*value.Vec, n int) (*value.Vec, error) {
		out := value.NewVec(value.BooleanType, n)
		out.Nulls = unionNulls(args, n)
		for i := range n {
			out.I64[i] = 1 - args[0].I64[i]
		}
		return out, nil
	}}, nil
}

// And builds AND (or OR) of booleans.
func And(or bool, args []Expr) (Expr, error) {
	out := make([]Expr, len(args))
	for i, a := range args {
		x, ok := Coerce(a, value.BooleanType)
		if !ok {
			return nil, sqlerr.TypeMismatch.Errorf("Logical expression term must evaluate to a boolean: %s", a.Type())
		}
		out[i] = x
	}
	if len(out) == 1 {
		return out[0], nil
	}
	return &Logical{Or: or, Args: out}, nil
}

// IsNull builds IS [NOT] NULL.
func IsNull(x Expr, not bool) Expr {
	yes := int64(1)
	if not {
		yes = 0
	}
	name := "IS NULL"
	if not {
		name = "IS NOT NULL"
	}
	return &Func{Name: name, T: value.BooleanType, Args: []Expr{x}, eval: func(args []*value.Vec, n int) (*value.Vec, error) {
		out := value.NewVec(value.BooleanType, n)
		for i := range n {
			if args[0].IsNull(i) {
				out.I64[i] = yes
			} else {
				out.I64[i] = 1 - yes
			}
		}
		return out, nil
	}}
}

// IsBool builds IS [NOT] TRUE and IS [NOT] FALSE.
func IsBool(x Expr, want, not bool) (Expr, error) {
	x, ok := Coerce(x, value.BooleanType)
	if !ok {
		return nil, sqlerr.TypeMismatch.Errorf("IS TRUE and IS FALSE need a boolean")
	}
	w, name := int64(0), "is false"
	if want {
		w, name = 1, "is true"
	}
	if not {
		name = "not " + name
	}
	return &Func{Name: name, T: value.BooleanType, Args: []Expr{x}, eval: func(args []*value.Vec, n int) (*value.Vec, error) {
		out := value.NewVec(value.BooleanType, n)
		for i := range n {
			if (!args[0].IsNull(i) && args[0].I64[i] == w) != not {
				out.I64[i] = 1
			}
		}
		return out, nil
	}}, nil
}

// In builds x [NOT] IN (list).
func In(x Expr, list []Expr, not bool) (Expr, error) {
	all, t, err := Unify("IN value and list items", append([]Expr{x}, list...))
	if err != nil {
		return nil, err
	}
	consts := len(list) > 3
	for _, e := range all[1:] {
		if _, ok := Fold(e).(*Const); !ok {
			consts = false
		}
	}
	if consts {
		s := &LateSet{X: all[0], Not: not, Set: &Set{Keys: map[string]struct{}{}}}
		for _, e := range all[1:] {
			c := Fold(e).(*Const)
			if c.Val == nil {
				s.HasNull = true
			} else {
				s.Keys[string(value.AppendKey(nil, value.Constant(t, c.Val, 1), 0))] = struct{}{}
			}
		}
		return s, nil
	}
	var terms []Expr
	for _, e := range all[1:] {
		eq, err := Compare("=", all[0], e)
		if err != nil {
			return nil, err
		}
		terms = append(terms, eq)
	}
	or, err := And(true, terms)
	if err != nil || !not {
		return or, err
	}
	return Not(or)
}

// Arith builds + - * / % over numbers, dates, times and intervals.
func Arith(op string, l, r Expr) (Expr, error) {
	lt, rt := l.Type(), r.Type()
	if lt.Kind == value.Unknown && rt.Kind == value.Unknown {
		return NewConst(value.IntegerType, nil), nil
	}
	if lt.Kind == value.Unknown && rt.IsNumeric() {
		l, _ = Coerce(l, rt)
		lt = rt
	}
	if rt.Kind == value.Unknown && lt.IsNumeric() {
		r, _ = Coerce(r, lt)
		rt = lt
	}
	if !lt.IsNumeric() || !rt.IsNumeric() {
		return temporal(op, l, r)
	}
	switch {
	case lt.IsInteger() && rt.IsInteger(), lt.IsFloat() || rt.IsFloat():
		t, _ := Common(lt, rt)
		a, _ := Coerce(l, t)
		b, _ := Coerce(r, t)
		if t.IsInteger() {
			return intArith(op, t, a, b), nil
		}
		return floatArith(op, t, a, b), nil
	}
	return decimalArith(op, l, r)
}

func intArith(op string, t value.Type, a, b Expr) Expr {
	lo, hi := t.IntRange()
	name := map[string]string{"+": "addition", "-": "subtraction", "*": "multiplication", "/": "division", "%": "modulus"}[op]
	return &Func{Name: op, T: t, Args: []Expr{a, b}, CanFail: true, eval: func(args []*value.Vec, n int) (*value.Vec, error) {
		out := value.NewVec(t, n)
		out.Nulls = unionNulls(args, n)
		x, y, o := args[0].I64[:n], args[1].I64[:n], out.I64
		bad := -1
		switch op {
		case "+":
			for i := range o {
				a, b := x[i], y[i]
				s := a + b
				if (a^s)&(b^s) < 0 || s < lo || s > hi {
					if !out.IsNull(i) {
						bad = i
						break
					}
					s = 0
				}
				o[i] = s
			}
		case "-":
			for i := range o {
				a, b := x[i], y[i]
				s := a - b
				if (a^b)&(a^s) < 0 || s < lo || s > hi {
					if !out.IsNull(i) {
						bad = i
						break
					}
					s = 0
				}
				o[i] = s
			}
		case "*":
			for i := range o {
				s, ok := mul64(x[i], y[i])
				if !ok || s < lo || s > hi {
					if !out.IsNull(i) {
						bad = i
						break
					}
					s = 0
				}
				o[i] = s
			}
		default:
			for i := range o {
				if out.IsNull(i) {
					continue
				}
				a, b := x[i], y[i]
				if b == 0 {
					return nil, sqlerr.DivisionByZero.Errorf("Division by zero")
				}
				if op == "%" {
					if b != -1 {
						o[i] = a % b
					}
					continue
				}
				if b == -1 && a == lo {
					bad = i
					break
				}
				o[i] = a / b
			}
		}
		if bad >= 0 {
			return nil, sqlerr.NumericOutOfRange.Errorf("%s %s overflow: %d %s %d", t, name, x[bad], op, y[bad])
		}
		return out, nil
	}}
}

func mul64(a, b int64) (int64, bool) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	h := int64(hi)
	if a < 0 {
		h -= b
	}
	if b < 0 {
		h -= a
	}
	return int64(lo), h == int64(lo)>>63
}

func floatArith(op string, t value.Type, a, b Expr) Expr {
	return &Func{Name: op, T: t, Args: []Expr{a, b}, eval: func(args []*value.Vec, n int) (*value.Vec, error) {
		out := value.NewVec(t, n)
		out.Nulls = unionNulls(args, n)
		x, y, o := args[0].F64[:n], args[1].F64[:n], out.F64
		switch op {
		case "+":
			for i := range o {
				o[i] = x[i] + y[i]
			}
		case "-":
			for i := range o {
				o[i] = x[i] - y[i]
			}
		case "*":
			for i := range o {
				o[i] = x[i] * y[i]
			}
		case "/":
			for i := range o {
				o[i] = x[i] / y[i]
			}
		case "%":
			for i := range o {
				o[i] = math.Mod(x[i], y[i])
			}
		}
		if t.Kind == value.Real {
			for i := range o {
				o[i] = float64(float32(o[i]))
			}
		}
		return out, nil
	}}
}

func decimalArith(op string, l, r Expr) (Expr, error) {
	lt, rt := asDecimal(l.Type()), asDecimal(r.Type())
	a, err := Cast(l, lt, false)
	if err != nil {
		return nil, err
	}
	b, err := Cast(r, rt, false)
	if err != nil {
		return nil, err
	}
	p1, s1, p2, s2 := lt.Precision, lt.Scale, rt.Precision, rt.Scale
	var t value.Type
	switch op {
	case "+", "-":
		s := max(s1, s2)
		t = value.DecimalType(max(p1-s1, p2-s2)+s+1, s)
	case "*":
		if s1+s2 > value.MaxPrecision {
			return nil, sqlerr.NumericOutOfRange.Errorf("DECIMAL scale must be in range [0, precision (38)]: %d", s1+s2)
		}
		t = value.DecimalType(p1+p2, s1+s2)
	case "/":
		t = value.DecimalType(p1+s2+max(s2-s1, 0), max(s1, s2))
	case "%":
		s := max(s1, s2)
		t = value.DecimalType(min(p1-s1, p2-s2)+s, s)
	default:
		return nil, mismatch(op, lt, rt)
	}
	return &Func{Name: op, T: t, Args: []Expr{a, b}, CanFail: true, eval: func(args []*value.Vec, n int) (*value.Vec, error) {
		out := value.NewVec(t, n)
		out.Nulls = unionNulls(args, n)
		for i := range n {
			if out.IsNull(i) {
				continue
			}
			x, y := args[0].Dec[i], args[1].Dec[i]
			var z value.Int128
			ok := true
			switch op {
			case "+", "-":
				var ok1, ok2, ok3 bool
				x, ok1 = x.Rescale(s1, t.Scale)
				y, ok2 = y.Rescale(s2, t.Scale)
				if op == "-" {
					y = y.Neg()
				}
				z, ok3 = x.Add(y)
				ok = ok1 && ok2 && ok3
			case "*":
				z, ok = x.Mul(y)
			default:
				if y.Sign() == 0 {
					return nil, sqlerr.DivisionByZero.Errorf("Division by zero")
				}
				if op == "/" {
					z, ok = value.DecimalDiv(x, y, s1, s2, t.Scale)
				} else {
					z, ok = value.DecimalMod(x, y, s1, s2)
				}
			}
			if !ok || !z.Fits(value.MaxPrecision) {
				return nil, sqlerr.NumericOutOfRange.Errorf("Decimal overflow")
			}
			out.Dec[i] = z
		}
		return out, nil
	}}, nil
}

// Negate builds -x.
func Negate(x Expr) (Expr, error) {
	t := x.Type()
	switch {
	case t.Kind == value.Unknown:
		return x, nil
	case t.IsInteger():
		return intArith("-", t, NewConst(t, int64(0)), x), nil
	case t.IsFloat(), t.Kind == value.Decimal, t.Kind == value.IntervalDay, t.Kind == value.IntervalMonth:
		return &Func{Name: "-", T: t, Args: []Expr{x}, eval: func(args []*value.Vec, n int) (*value.Vec, error) {
			out := value.NewVec(t, n)
			out.Nulls = unionNulls(args, n)
			for i := range out.F64 {
				out.F64[i] = -args[0].F64[i]
			}
			for i := range out.Dec {
				out.Dec[i] = args[0].Dec[i].Neg()
			}
			for i := range out.I64 {
				out.I64[i] = -args[0].I64[i]
			}
			return out, nil
		}}, nil
	}
	return nil, sqlerr.TypeMismatch.Errorf("Cannot negate %s", t)
}

const dayMillis = 86_400_000

// temporal builds arithmetic of dates, timestamps and intervals.
func temporal(op string, l, r Expr) (Expr, error) {
	lt, rt := l.Type(), r.Type()
	isTime := func(t value.Type) bool { return t.Kind >= value.Date && t.Kind <= value.TimestampTZ }
	isIv := func(t value.Type) bool { return t.Kind == value.IntervalDay || t.Kind == value.IntervalMonth }
	if op == "+" && isIv(lt) && isTime(rt) {
		l, r, lt, rt = r, l, rt, lt
	}
	row := func(t value.Type, f func(a, b int64) (int64, error)) (Expr, error) {
		return &Func{Name: op, T: t, Args: []Expr{l, r}, CanFail: true, eval: func(args []*value.Vec, n int) (*value.Vec, error) {
			out := value.NewVec(t, n)
			out.Nulls = unionNulls(args, n)
			for i := range n {
				if !out.IsNull(i) {
					v, err := f(args[0].I64[i], args[1].I64[i])
					if err != nil {
						return nil, err
					}
					out.I64[i] = v
				}
			}
			return out, nil
		}}, nil
	}
	sign := int64(1)
	if op == "-" {
		sign = -1
	}
	switch {
	case (op == "+" || op == "-") && isTime(lt) && isIv(rt):
		switch {
		case lt.Kind == value.Date && rt.Kind == value.IntervalDay:
			return row(lt, func(a, b int64) (int64, error) {
				if b%dayMillis != 0 {
					return 0, sqlerr.InvalidFunctionArg.Errorf("Cannot add hour, minutes or seconds to a date")
				}
				return a + sign*b/dayMillis, nil
			})
		case lt.Kind == value.Date:
			return row(lt, func(a, b int64) (int64, error) { return addMonths(a*dayMillis, sign*b) / dayMillis, nil })
		case lt.Kind == value.Time && rt.Kind == value.IntervalDay:
			return row(lt, func(a, b int64) (int64, error) {
				return ((a+sign*b)%dayMillis + dayMillis) % dayMillis, nil
			})
		case rt.Kind == value.IntervalDay:
			return row(lt, func(a, b int64) (int64, error) { return a + sign*b, nil })
		case lt.Kind != value.Time:
			return row(lt, func(a, b int64) (int64, error) { return addMonths(a, sign*b), nil })
		}
	case (op == "+" || op == "-") && isIv(lt) && lt.Kind == rt.Kind:
		return row(lt, func(a, b int64) (int64, error) { return a + sign*b, nil })
	case op == "-" && isTime(lt) && isTime(rt):
		t, ok := Common(lt, rt)
		if !ok {
			break
		}
		var ok1, ok2 bool
		l, ok1 = Coerce(l, t)
		r, ok2 = Coerce(r, t)
		if !ok1 || !ok2 {
			break
		}
		unit := int64(1)
		if t.Kind == value.Date {
			unit = dayMillis
		}
		return row(value.IntervalDayType, func(a, b int64) (int64, error) { return (a - b) * unit, nil })
	case op == "*" && isIv(lt) && rt.IsInteger():
		return row(lt, func(a, b int64) (int64, error) { return a * b, nil })
	case op == "*" && lt.IsInteger() && isIv(rt):
		return row(rt, func(a, b int64) (int64, error) { return a * b, nil })
	case op == "/" && isIv(lt) && rt.IsInteger():
		return row(lt, func(a, b int64) (int64, error) {
			if b == 0 {
				return 0, sqlerr.DivisionByZero.Errorf("Division by zero")
			}
			return a / b, nil
		})
	}
	return nil, mismatch(op, lt, rt)
}

// addMonths adds calendar months to milliseconds; the day is cut to the month's last.
func addMonths(ms, months int64) int64 {
	t := time.UnixMilli(ms).UTC()
	first := time.Date(t.Year(), t.Month()+time.Month(months), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(t.Day(), last)-1).UnixMilli()
}
