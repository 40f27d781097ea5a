package expr

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// Cast builds CAST(x AS t), or TRY_CAST.
func Cast(x Expr, t value.Type, try bool) (Expr, error) {
	from := x.Type()
	if from.Equal(t) {
		return x, nil
	}
	if from.Kind == value.Unknown {
		if c, ok := x.(*Const); ok && c.Val == nil {
			return NewConst(t, nil), nil
		}
		return &Func{Name: "cast", T: t, Args: []Expr{x}, eval: func(_ []*value.Vec, n int) (*value.Vec, error) {
			return value.Constant(t, nil, n), nil
		}}, nil
	}
	if from.IsInteger() && t.IsInteger() && t.Kind > from.Kind {
		return &Func{Name: "cast", T: t, Args: []Expr{x}, eval: func(a []*value.Vec, _ int) (*value.Vec, error) { return a[0].Retype(t), nil }}, nil
	}
	if from.IsInteger() && t.IsFloat() {
		return &Func{Name: "cast", T: t, Args: []Expr{x}, eval: func(a []*value.Vec, n int) (*value.Vec, error) {
			out := value.NewVec(t, n)
			out.Nulls = a[0].Nulls
			for i, v := range a[0].I64 {
				out.F64[i] = float64(v)
				if t.Kind == value.Real {
					out.F64[i] = float64(float32(v))
				}
			}
			return out, nil
		}}, nil
	}
	conv, ok := converter(from, t)
	if !ok {
		return nil, sqlerr.TypeMismatch.Errorf("Cannot cast %s to %s", from, t)
	}
	return &Func{Name: "cast", T: t, Args: []Expr{x}, CanFail: !try, eval: func(a []*value.Vec, n int) (*value.Vec, error) {
		out := value.NewVec(t, n)
		for i := range n {
			if a[0].IsNull(i) {
				out.SetNull(i)
				continue
			}
			v, ok := conv(a[0].Get(i))
			if !ok {
				if try {
					out.SetNull(i)
					continue
				}
				return nil, castError(a[0].Get(i), from, t)
			}
			out.Set(i, v)
		}
		return out, nil
	}}, nil
}

func castError(v any, from, to value.Type) error {
	text := string(value.AppendText(nil, from, v))
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	if from.Kind == value.Varchar {
		return sqlerr.InvalidCastArg.Errorf("Cannot cast '%s' to %s", text, to)
	}
	if to.IsNumeric() {
		return sqlerr.InvalidCastArg.Errorf("Cannot cast %s '%s' to %s: out of range", from, text, to)
	}
	return sqlerr.InvalidCastArg.Errorf("Cannot cast %s '%s' to %s", from, text, to)
}

func intIn(t value.Type, v int64) (any, bool) {
	lo, hi := t.IntRange()
	return v, v >= lo && v <= hi
}

func floatToInt(t value.Type, f float64) (any, bool) {
	r := math.Floor(math.Abs(f) + 0.5)
	if f < 0 {
		r = -r
	}
	if math.IsNaN(f) || r < -1<<63 || r >= 1<<63 {
		return nil, false
	}
	return intIn(t, int64(r))
}

// converter gives the conversion of boxed values from one type to another, if SQL has one.
func converter(from, to value.Type) (func(any) (any, bool), bool) {
	loc := func(t value.Type) *time.Location {
		l, ok := value.Zone(t.Zone)
		if !ok {
			return time.UTC
		}
		return l
	}
	switch {
	case to.Kind == value.Varchar && from.Kind != value.Varbinary:
		return func(v any) (any, bool) { return string(value.AppendText(nil, from, v)), true }, true
	case from.Kind == value.Varchar:
		return textTo(to)
	case to.Kind == value.Boolean && from.IsNumeric():
		return func(v any) (any, bool) {
			switch v := v.(type) {
			case int64:
				return v != 0, true
			case float64:
				return v != 0, true
			case value.Int128:
				return v.Sign() != 0, true
			}
			return nil, false
		}, true
	case from.Kind == value.Boolean && to.IsNumeric():
		inner, _ := converter(value.BigIntType, to)
		return func(v any) (any, bool) {
			n := int64(0)
			if v.(bool) {
				n = 1
			}
			if to.IsInteger() {
				return n, true
			}
			return inner(n)
		}, true
	case from.IsInteger() && to.IsInteger():
		return func(v any) (any, bool) { return intIn(to, v.(int64)) }, true
	case from.IsInteger() && to.IsFloat():
		return func(v any) (any, bool) { return toFloat(to, float64(v.(int64))), true }, true
	case from.IsInteger() && to.Kind == value.Decimal:
		return func(v any) (any, bool) {
			d, ok := value.Int128From(v.(int64)).Rescale(0, to.Scale)
			return d, ok && d.Fits(to.Precision)
		}, true
	case from.IsFloat() && to.IsInteger():
		return func(v any) (any, bool) { return floatToInt(to, v.(float64)) }, true
	case from.IsFloat() && to.IsFloat():
		return func(v any) (any, bool) { return toFloat(to, v.(float64)), true }, true
	case from.IsFloat() && to.Kind == value.Decimal:
		return func(v any) (any, bool) { return anyOK(value.DecimalFromFloat(v.(float64), to.Precision, to.Scale)) }, true
	case from.Kind == value.Decimal && to.Kind == value.Decimal:
		return func(v any) (any, bool) {
			d, ok := v.(value.Int128).Rescale(from.Scale, to.Scale)
			return d, ok && d.Fits(to.Precision)
		}, true
	case from.Kind == value.Decimal && to.IsInteger():
		return func(v any) (any, bool) {
			d, ok := v.(value.Int128).Rescale(from.Scale, 0)
			n, ok2 := d.Int64()
			if !ok || !ok2 {
				return nil, false
			}
			return intIn(to, n)
		}, true
	case from.Kind == value.Decimal && to.IsFloat():
		return func(v any) (any, bool) { return toFloat(to, v.(value.Int128).Float64(from.Scale)), true }, true
	case from.Kind == value.Date && to.Kind == value.Timestamp:
		return func(v any) (any, bool) { return v.(int64) * dayMillis, true }, true
	case from.Kind == value.Date && to.Kind == value.TimestampTZ:
		l := loc(to)
		return func(v any) (any, bool) { return toInstant(v.(int64)*dayMillis, l), true }, true
	case from.Kind == value.Timestamp && to.Kind == value.Date:
		return func(v any) (any, bool) { return value.FloorDiv(v.(int64), dayMillis), true }, true
	case from.Kind == value.Timestamp && to.Kind == value.Time:
		return func(v any) (any, bool) { return v.(int64) - value.FloorDiv(v.(int64), dayMillis)*dayMillis, true }, true
	case from.Kind == value.Timestamp && to.Kind == value.TimestampTZ:
		l := loc(to)
		return func(v any) (any, bool) { return toInstant(v.(int64), l), true }, true
	case from.Kind == value.TimestampTZ && to.Kind == value.TimestampTZ:
		return func(v any) (any, bool) { return v, true }, true
	case from.Kind == value.TimestampTZ:
		l := loc(from)
		switch to.Kind {
		case value.Timestamp:
			return func(v any) (any, bool) { return toLocal(v.(int64), l), true }, true
		case value.Date:
			return func(v any) (any, bool) { return value.FloorDiv(toLocal(v.(int64), l), dayMillis), true }, true
		}
	case from.Kind == value.Array && to.Kind == value.Array:
		if from.Elem.Equal(*to.Elem) {
			return func(v any) (any, bool) { return v, true }, true
		}
		inner, ok := converter(*from.Elem, *to.Elem)
		if from.Elem.Kind == value.Unknown {
			inner, ok = func(any) (any, bool) { return nil, true }, true
		}
		return func(v any) (any, bool) {
			in := v.([]any)
			out := make([]any, len(in))
			for i, e := range in {
				if e == nil {
					continue
				}
				x, ok := inner(e)
				if !ok {
					return nil, false
				}
				out[i] = x
			}
			return out, true
		}, ok
	case from.Kind == value.Row && to.Kind == value.Row && from.Equal(to):
		return func(v any) (any, bool) { return v, true }, true
	}
	return nil, false
}

func anyOK[T any](v T, ok bool) (any, bool) { return v, ok }

func toFloat(t value.Type, f float64) any {
	if t.Kind == value.Real {
		return float64(float32(f))
	}
	return f
}

// toInstant reads milliseconds of a local clock in a zone; toLocal is the other way.
func toInstant(ms int64, l *time.Location) int64 {
	if l == time.UTC {
		return ms
	}
	t := time.UnixMilli(ms).UTC()
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), l).UnixMilli()
}

func toLocal(ms int64, l *time.Location) int64 {
	if l == time.UTC {
		return ms
	}
	_, off := time.UnixMilli(ms).In(l).Zone()
	return ms + int64(off)*1000
}

func textTo(to value.Type) (func(any) (any, bool), bool) {
	switch {
	case to.Kind == value.Boolean:
		return func(v any) (any, bool) {
			switch strings.ToLower(v.(string)) {
			case "true", "t", "1":
				return true, true
			case "false", "f", "0":
				return false, true
			}
			return nil, false
		}, true
	case to.IsInteger():
		return func(v any) (any, bool) {
			n, err := strconv.ParseInt(strings.TrimSpace(v.(string)), 10, 64)
			if err != nil {
				return nil, false
			}
			return intIn(to, n)
		}, true
	case to.IsFloat():
		return func(v any) (any, bool) {
			f, ok := value.ParseDouble(v.(string))
			return toFloat(to, f), ok
		}, true
	case to.Kind == value.Decimal:
		return func(v any) (any, bool) {
			d, _, s, ok := value.ParseDecimal(strings.TrimSpace(v.(string)))
			if !ok {
				return nil, false
			}
			d, ok = d.Rescale(s, to.Scale)
			return d, ok && d.Fits(to.Precision)
		}, true
	case to.Kind == value.Date:
		return func(v any) (any, bool) { return anyOK(value.ParseDate(v.(string))) }, true
	case to.Kind == value.Timestamp:
		return func(v any) (any, bool) {
			ms, zone, ok := value.ParseTimestamp(v.(string))
			if zone != "" {
				l, _ := value.Zone(zone)
				ms = toLocal(ms, l)
			}
			return ms, ok
		}, true
	case to.Kind == value.TimestampTZ:
		return func(v any) (any, bool) {
			ms, zone, ok := value.ParseTimestamp(v.(string))
			if zone == "" && ok {
				l, okz := value.Zone(to.Zone)
				if okz {
					ms = toInstant(ms, l)
				}
			}
			return ms, ok
		}, true
	case to.Kind == value.Time:
		return func(v any) (any, bool) {
			for _, l := range [...]string{"15:4:5", "15:4"} {
				if t, err := time.Parse(l, strings.TrimSpace(v.(string))); err == nil {
					return int64(t.Hour())*3_600_000 + int64(t.Minute())*60_000 + int64(t.Second())*1000 + int64(t.Nanosecond())/1_000_000, true
				}
			}
			return nil, false
		}, true
	}
	return nil, false
}
