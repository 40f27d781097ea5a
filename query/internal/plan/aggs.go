package plan

import (
	"maps"
	"slices"

	"github.com/daybook/daybook/query/internal/expr"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// aggregates gives the result type and the arguments as the aggregate wants them.
var aggregates = map[string]func(args []expr.Expr) (value.Type, []expr.Expr, bool){
	"count": func(a []expr.Expr) (value.Type, []expr.Expr, bool) { return value.BigIntType, a, len(a) <= 1 },
	"count_if": func(a []expr.Expr) (value.Type, []expr.Expr, bool) {
		return one(a, value.BooleanType, value.BigIntType)
	},
	"sum": sumType, "avg": avgType, "min": same, "max": same, "arbitrary": same, "any_value": same,
	"bool_and": boolAgg, "bool_or": boolAgg, "every": boolAgg,
	"approx_distinct": func(a []expr.Expr) (value.Type, []expr.Expr, bool) {
		return value.BigIntType, a[:min(1, len(a))], len(a) == 1 || len(a) == 2
	},
	"stddev": double, "stddev_samp": double, "stddev_pop": double, "variance": double, "var_samp": double, "var_pop": double,
	"min_by": by, "max_by": by,
	"array_agg": func(a []expr.Expr) (value.Type, []expr.Expr, bool) {
		if len(a) != 1 {
			return value.Type{}, nil, false
		}
		return value.ArrayOf(a[0].Type()), a, true
	},
	"approx_percentile": func(a []expr.Expr) (value.Type, []expr.Expr, bool) {
		if len(a) != 2 || !a[0].Type().IsNumeric() || !a[1].Type().IsNumeric() {
			return value.Type{}, nil, false
		}
		x, err := expr.Cast(a[0], value.DoubleType, false)
		p, err2 := expr.Cast(a[1], value.DoubleType, false)
		t := a[0].Type()
		if t.Kind == value.Decimal {
			t = value.DoubleType
		}
		return t, []expr.Expr{x, p}, err == nil && err2 == nil
	},
}

// AggregateNames lists the aggregate functions.
func AggregateNames() []string { return slices.Sorted(maps.Keys(aggregates)) }

func one(a []expr.Expr, in, out value.Type) (value.Type, []expr.Expr, bool) {
	if len(a) != 1 {
		return out, nil, false
	}
	x, ok := expr.Coerce(a[0], in)
	return out, []expr.Expr{x}, ok
}

func boolAgg(a []expr.Expr) (value.Type, []expr.Expr, bool) {
	return one(a, value.BooleanType, value.BooleanType)
}

func double(a []expr.Expr) (value.Type, []expr.Expr, bool) {
	if len(a) != 1 || !a[0].Type().IsNumeric() {
		return value.DoubleType, nil, false
	}
	x, err := expr.Cast(a[0], value.DoubleType, false)
	return value.DoubleType, []expr.Expr{x}, err == nil
}

func same(a []expr.Expr) (value.Type, []expr.Expr, bool) {
	if len(a) != 1 {
		return value.Type{}, nil, false
	}
	return a[0].Type(), a, a[0].Type().Kind != value.Map
}

func by(a []expr.Expr) (value.Type, []expr.Expr, bool) {
	if len(a) != 2 {
		return value.Type{}, nil, false
	}
	return a[0].Type(), a, true
}

func sumType(a []expr.Expr) (value.Type, []expr.Expr, bool) {
	if len(a) != 1 {
		return value.Type{}, nil, false
	}
	switch t := a[0].Type(); {
	case t.IsInteger(), t.Kind == value.Unknown:
		return one(a, value.BigIntType, value.BigIntType)
	case t.IsFloat():
		return t, a, true
	case t.Kind == value.Decimal:
		return value.DecimalType(value.MaxPrecision, t.Scale), a, true
	case t.Kind == value.IntervalDay, t.Kind == value.IntervalMonth:
		return t, a, true
	}
	return value.Type{}, nil, false
}

func avgType(a []expr.Expr) (value.Type, []expr.Expr, bool) {
	if len(a) != 1 {
		return value.Type{}, nil, false
	}
	switch t := a[0].Type(); {
	case t.IsInteger(), t.Kind == value.Unknown:
		return one(a, value.BigIntType, value.DoubleType)
	case t.IsFloat(), t.Kind == value.Decimal:
		return t, a, true
	}
	return value.Type{}, nil, false
}

func newAgg(name string, args []expr.Expr, distinct bool, filter expr.Expr) (*Agg, error) {
	t, in, ok := aggregates[name](args)
	if !ok {
		var ts string
		for i, a := range args {
			if i > 0 {
				ts += ", "
			}
			ts += a.Type().String()
		}
		return nil, sqlerr.FunctionNotFound.Errorf("Unexpected parameters (%s) for function %s", ts, name)
	}
	switch name {
	case "any_value":
		name = "arbitrary"
	case "every":
		name = "bool_and"
	case "stddev":
		name = "stddev_samp"
	case "variance":
		name = "var_samp"
	}
	if name == "min" || name == "max" || name == "arbitrary" || name == "bool_and" || name == "bool_or" || name == "approx_distinct" || len(in) == 0 {
		distinct = false
	}
	return &Agg{Name: name, Args: in, Distinct: distinct, Filter: filter, T: t}, nil
}
