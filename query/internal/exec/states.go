package exec

import (
	"hash/maphash"
	"math"
	"math/bits"
	"slices"

	"github.com/daybook/daybook/query/internal/plan"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// A state is one aggregate's state of all groups.
type state interface {
	grow(n int)
	// update takes rows into their groups and gives the bytes that it holds in addition to size a group.
	update(ids []int32, args []*value.Vec) (int64, error)
	// merge takes the groups of another state of the same aggregate; m maps its groups to ours.
	merge(o state, m []int32) error
	result(n int) (*value.Vec, error)
	size() int64 // bytes a group
}

func newState(a *plan.Agg) state {
	switch a.Name {
	case "count":
		return &count{star: len(a.Args) == 0}
	case "count_if":
		return &count{cond: true}
	case "sum", "avg":
		switch t := a.Args[0].Type(); t.Store() {
		case value.StoreF64:
			return &sumFloat{t: a.T, avg: a.Name == "avg"}
		case value.StoreDec:
			return &sumDec{t: a.T, avg: a.Name == "avg"}
		default:
			return &sumInt{t: a.T, avg: a.Name == "avg"}
		}
	case "min", "max":
		return &extreme{t: a.T, max: a.Name == "max"}
	case "arbitrary":
		return &extreme{t: a.T, any: true}
	case "min_by", "max_by":
		return &extremeBy{t: a.T, key: extreme{t: a.Args[1].Type(), max: a.Name == "max_by"}}
	case "bool_and", "bool_or":
		return &extreme{t: a.T, max: a.Name == "bool_or"}
	case "approx_distinct":
		return &hll{}
	case "array_agg":
		return &arrayAgg{t: a.T}
	case "approx_percentile":
		return &percentile{t: a.T}
	}
	return &moments{name: a.Name}
}

func grown[T any](s []T, n int) []T {
	if n <= len(s) {
		return s
	}
	return append(s, make([]T, n-len(s))...)
}

type count struct {
	star, cond bool
	n          []int64
}

func (c *count) grow(n int)  { c.n = grown(c.n, n) }
func (c *count) size() int64 { return 8 }

func (c *count) update(ids []int32, args []*value.Vec) (int64, error) {
	switch {
	case c.star || !c.cond && args[0].Nulls == nil:
		for _, g := range ids {
			c.n[g]++
		}
	default:
		v := args[0]
		for i, g := range ids {
			if !v.IsNull(i) && (!c.cond || v.I64[i] != 0) {
				c.n[g]++
			}
		}
	}
	return 0, nil
}

func (c *count) merge(o state, m []int32) error {
	for i, n := range o.(*count).n[:len(m)] {
		c.n[m[i]] += n
	}
	return nil
}

func (c *count) result(n int) (*value.Vec, error) {
	return &value.Vec{Type: value.BigIntType, Len: n, I64: grown(c.n, n)}, nil
}

type sumInt struct {
	t   value.Type
	avg bool
	s   []int64
	f   []float64 // avg: it does not overflow
	n   []int64
}

func (s *sumInt) grow(n int) {
	s.s, s.n = grown(s.s, n), grown(s.n, n)
	if s.avg {
		s.f = grown(s.f, n)
	}
}

func (s *sumInt) size() int64 { return 24 }

func (s *sumInt) add(g int32, v int64) error {
	r := s.s[g] + v
	if (s.s[g]^r)&(v^r) < 0 {
		return sqlerr.NumericOutOfRange.Errorf("bigint addition overflow: %d + %d", s.s[g], v)
	}
	s.s[g] = r
	return nil
}

func (s *sumInt) update(ids []int32, args []*value.Vec) (int64, error) {
	v := args[0]
	for i, g := range ids {
		if v.IsNull(i) {
			continue
		}
		s.n[g]++
		if s.avg {
			s.f[g] += float64(v.I64[i])
		} else if err := s.add(g, v.I64[i]); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func (s *sumInt) merge(o state, m []int32) error {
	x := o.(*sumInt)
	for i, g := range m {
		s.n[g] += x.n[i]
		if s.avg {
			s.f[g] += x.f[i]
		} else if err := s.add(g, x.s[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *sumInt) result(n int) (*value.Vec, error) {
	s.grow(n)
	out := value.NewVec(s.t, n)
	for g := range n {
		switch {
		case s.n[g] == 0:
			out.SetNull(g)
		case s.avg:
			out.F64[g] = s.f[g] / float64(s.n[g])
		default:
			out.I64[g] = s.s[g]
		}
	}
	return out, nil
}

type sumFloat struct {
	t   value.Type
	avg bool
	s   []float64
	n   []int64
}

func (s *sumFloat) grow(n int)  { s.s, s.n = grown(s.s, n), grown(s.n, n) }
func (s *sumFloat) size() int64 { return 16 }

func (s *sumFloat) update(ids []int32, args []*value.Vec) (int64, error) {
	v := args[0]
	if v.Nulls == nil {
		for i, g := range ids {
			s.n[g]++
			s.s[g] += v.F64[i]
		}
		return 0, nil
	}
	for i, g := range ids {
		if !v.IsNull(i) {
			s.n[g]++
			s.s[g] += v.F64[i]
		}
	}
	return 0, nil
}

func (s *sumFloat) merge(o state, m []int32) error {
	x := o.(*sumFloat)
	for i, g := range m {
		s.n[g] += x.n[i]
		s.s[g] += x.s[i]
	}
	return nil
}

func (s *sumFloat) result(n int) (*value.Vec, error) {
	s.grow(n)
	out := value.NewVec(s.t, n)
	for g := range n {
		if s.n[g] == 0 {
			out.SetNull(g)
			continue
		}
		out.F64[g] = s.s[g]
		if s.avg {
			out.F64[g] /= float64(s.n[g])
		}
		if s.t.Kind == value.Real {
			out.F64[g] = float64(float32(out.F64[g]))
		}
	}
	return out, nil
}

type sumDec struct {
	t   value.Type
	avg bool
	s   []value.Int128
	n   []int64
}

func (s *sumDec) grow(n int)  { s.s, s.n = grown(s.s, n), grown(s.n, n) }
func (s *sumDec) size() int64 { return 24 }

func (s *sumDec) add(g int32, v value.Int128) error {
	r, ok := s.s[g].Add(v)
	if !ok || !r.Fits(value.MaxPrecision) {
		return sqlerr.NumericOutOfRange.Errorf("Decimal overflow")
	}
	s.s[g] = r
	return nil
}

func (s *sumDec) update(ids []int32, args []*value.Vec) (int64, error) {
	v := args[0]
	for i, g := range ids {
		if v.IsNull(i) {
			continue
		}
		s.n[g]++
		if err := s.add(g, v.Dec[i]); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func (s *sumDec) merge(o state, m []int32) error {
	x := o.(*sumDec)
	for i, g := range m {
		s.n[g] += x.n[i]
		if err := s.add(g, x.s[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *sumDec) result(n int) (*value.Vec, error) {
	s.grow(n)
	out := value.NewVec(s.t, n)
	for g := range n {
		switch {
		case s.n[g] == 0:
			out.SetNull(g)
		case s.avg:
			out.Dec[g], _ = value.DecimalDiv(s.s[g], value.Int128From(s.n[g]), s.t.Scale, 0, s.t.Scale)
		default:
			out.Dec[g] = s.s[g]
		}
	}
	return out, nil
}

// extreme is min, max, arbitrary, bool_and (the least) and bool_or (the greatest). NaN loses against numbers.
type extreme struct {
	t        value.Type
	max, any bool
	v        *value.Vec
	has      []bool
}

func (e *extreme) grow(n int) {
	if e.v == nil {
		e.v = value.NewVec(e.t, 0)
	}
	e.has = grown(e.has, n)
	switch e.t.Store() {
	case value.StoreI64:
		e.v.I64 = grown(e.v.I64, n)
	case value.StoreF64:
		e.v.F64 = grown(e.v.F64, n)
	case value.StoreDec:
		e.v.Dec = grown(e.v.Dec, n)
	case value.StoreStr:
		e.v.Str = grown(e.v.Str, n)
	case value.StoreAny:
		e.v.Any = grown(e.v.Any, n)
	}
	e.v.Len = max(e.v.Len, n)
}

func (e *extreme) size() int64 { return 17 }

// better reports whether row i of v replaces what group g has.
func (e *extreme) better(v *value.Vec, i int, g int32) bool {
	if !e.has[g] {
		return true
	}
	if e.any {
		return false
	}
	if e.t.IsFloat() {
		switch x, y := v.F64[i], e.v.F64[g]; {
		case math.IsNaN(x):
			return false
		case math.IsNaN(y):
			return true
		}
	}
	c := value.CompareAt(v, i, e.v, int(g))
	return e.max && c > 0 || !e.max && c < 0
}

func (e *extreme) set(v *value.Vec, i int, g int32) int64 {
	e.has[g] = true
	switch e.t.Store() {
	case value.StoreI64:
		e.v.I64[g] = v.I64[i]
	case value.StoreF64:
		e.v.F64[g] = v.F64[i]
	case value.StoreDec:
		e.v.Dec[g] = v.Dec[i]
	default:
		one := v.Gather([]int32{int32(i)})
		one.CloneStrings(0)
		old := int64(0)
		if e.t.Store() == value.StoreStr {
			old = int64(len(e.v.Str[g]))
			e.v.Str[g] = one.Str[0]
			return int64(len(one.Str[0])) - old
		}
		e.v.Any[g] = one.Any[0]
		return one.Bytes()
	}
	return 0
}

func (e *extreme) update(ids []int32, args []*value.Vec) (int64, error) {
	v, held := args[0], int64(0)
	for i, g := range ids {
		if !v.IsNull(i) && e.better(v, i, g) {
			held += e.set(v, i, g)
		}
	}
	return held, nil
}

func (e *extreme) merge(o state, m []int32) error {
	x := o.(*extreme)
	for i, g := range m {
		if x.has[i] && e.better(x.v, i, g) {
			e.set(x.v, i, g)
		}
	}
	return nil
}

func (e *extreme) result(n int) (*value.Vec, error) {
	e.grow(n)
	out := *e.v
	for g := range n {
		if !e.has[g] {
			out.SetNull(g)
		}
	}
	return &out, nil
}

// extremeBy is min_by and max_by: the value that stands beside the extreme of another.
type extremeBy struct {
	t   value.Type
	key extreme
	val []any
}

func (e *extremeBy) grow(n int)  { e.key.grow(n); e.val = grown(e.val, n) }
func (e *extremeBy) size() int64 { return 40 }

func (e *extremeBy) update(ids []int32, args []*value.Vec) (int64, error) {
	held := int64(0)
	for i, g := range ids {
		if !args[1].IsNull(i) && e.key.better(args[1], i, g) {
			held += e.key.set(args[1], i, g)
			one := args[0].Gather([]int32{int32(i)})
			one.CloneStrings(0)
			e.val[g] = one.Get(0)
			if e.t.Store() >= value.StoreStr {
				held += one.Bytes()
			}
		}
	}
	return held, nil
}

func (e *extremeBy) merge(o state, m []int32) error {
	x := o.(*extremeBy)
	for i, g := range m {
		if x.key.has[i] && e.key.better(x.key.v, i, g) {
			e.key.set(x.key.v, i, g)
			e.val[g] = x.val[i]
		}
	}
	return nil
}

func (e *extremeBy) result(n int) (*value.Vec, error) {
	e.grow(n)
	out := value.NewVec(e.t, n)
	for g := range n {
		out.Set(g, e.val[g])
	}
	return out, nil
}

// moments is variance and standard deviation, by Welford's and Chan's formulas.
type moments struct {
	name string
	n    []float64
	mean []float64
	m2   []float64
}

func (s *moments) grow(n int)  { s.n, s.mean, s.m2 = grown(s.n, n), grown(s.mean, n), grown(s.m2, n) }
func (s *moments) size() int64 { return 24 }

func (s *moments) update(ids []int32, args []*value.Vec) (int64, error) {
	v := args[0]
	for i, g := range ids {
		if v.IsNull(i) {
			continue
		}
		x := v.F64[i]
		s.n[g]++
		d := x - s.mean[g]
		s.mean[g] += d / s.n[g]
		s.m2[g] += d * (x - s.mean[g])
	}
	return 0, nil
}

func (s *moments) merge(o state, m []int32) error {
	x := o.(*moments)
	for i, g := range m {
		if x.n[i] == 0 {
			continue
		}
		n := s.n[g] + x.n[i]
		d := x.mean[i] - s.mean[g]
		s.m2[g] += x.m2[i] + d*d*s.n[g]*x.n[i]/n
		s.mean[g] += d * x.n[i] / n
		s.n[g] = n
	}
	return nil
}

func (s *moments) result(n int) (*value.Vec, error) {
	s.grow(n)
	out := value.NewVec(value.DoubleType, n)
	for g := range n {
		d := s.n[g]
		if s.name == "var_samp" || s.name == "stddev_samp" {
			d--
		}
		if d <= 0 {
			out.SetNull(g)
			continue
		}
		out.F64[g] = s.m2[g] / d
		if s.name == "stddev_samp" || s.name == "stddev_pop" {
			out.F64[g] = math.Sqrt(out.F64[g])
		}
	}
	return out, nil
}

// hll is approx_distinct: HyperLogLog with 2048 registers, standard error 2.3 %.
type hll struct{ reg [][]uint8 }

const hllBits = 11

var hllSeed = maphash.MakeSeed()

func (h *hll) grow(n int)  { h.reg = grown(h.reg, n) }
func (h *hll) size() int64 { return 24 }

func (h *hll) update(ids []int32, args []*value.Vec) (int64, error) {
	held := int64(0)
	var key []byte
	for i, g := range ids {
		if args[0].IsNull(i) {
			continue
		}
		key = value.AppendKey(key[:0], args[0], i)
		x := maphash.Bytes(hllSeed, key)
		if h.reg[g] == nil {
			h.reg[g] = make([]uint8, 1<<hllBits)
			held += 1 << hllBits
		}
		r := &h.reg[g][x>>(64-hllBits)]
		*r = max(*r, uint8(bits.LeadingZeros64(x<<hllBits|1<<(hllBits-1)))+1)
	}
	return held, nil
}

func (h *hll) merge(o state, m []int32) error {
	x := o.(*hll)
	for i, g := range m {
		switch {
		case x.reg[i] == nil:
		case h.reg[g] == nil:
			h.reg[g] = x.reg[i]
		default:
			for k, r := range x.reg[i] {
				h.reg[g][k] = max(h.reg[g][k], r)
			}
		}
	}
	return nil
}

func (h *hll) result(n int) (*value.Vec, error) {
	h.grow(n)
	out := value.NewVec(value.BigIntType, n)
	for g := range n {
		if h.reg[g] == nil {
			continue
		}
		const k = 1 << hllBits
		sum, zero := 0.0, 0
		for _, r := range h.reg[g] {
			sum += 1 / float64(uint64(1)<<r)
			if r == 0 {
				zero++
			}
		}
		est := 0.7213 / (1 + 1.079/k) * k * k / sum
		if est <= 2.5*k && zero > 0 {
			est = k * math.Log(k/float64(zero))
		}
		out.I64[g] = int64(est + 0.5)
	}
	return out, nil
}

type arrayAgg struct {
	t value.Type
	v [][]any
}

func (a *arrayAgg) grow(n int)  { a.v = grown(a.v, n) }
func (a *arrayAgg) size() int64 { return 24 }

func (a *arrayAgg) update(ids []int32, args []*value.Vec) (int64, error) {
	one := args[0].Slice(0, args[0].Len)
	held := int64(0)
	for i, g := range ids {
		c := one.Gather([]int32{int32(i)})
		c.CloneStrings(0)
		a.v[g] = append(a.v[g], c.Get(0))
		held += 24 + c.Bytes()
	}
	return held, nil
}

func (a *arrayAgg) merge(o state, m []int32) error {
	for i, g := range m {
		a.v[g] = append(a.v[g], o.(*arrayAgg).v[i]...)
	}
	return nil
}

func (a *arrayAgg) result(n int) (*value.Vec, error) {
	a.grow(n)
	out := value.NewVec(a.t, n)
	for g := range n {
		if a.v[g] == nil {
			out.SetNull(g)
		} else {
			out.Any[g] = a.v[g]
		}
	}
	return out, nil
}

// percentile is approx_percentile; it is exact, and holds every value.
type percentile struct {
	t value.Type
	v [][]float64
	p []float64
}

func (s *percentile) grow(n int)  { s.v, s.p = grown(s.v, n), grown(s.p, n) }
func (s *percentile) size() int64 { return 32 }

func (s *percentile) update(ids []int32, args []*value.Vec) (int64, error) {
	held := int64(0)
	for i, g := range ids {
		if args[0].IsNull(i) || args[1].IsNull(i) {
			continue
		}
		p := args[1].F64[i]
		if !(p >= 0 && p <= 1) {
			return 0, sqlerr.InvalidFunctionArg.Errorf("Percentile must be between 0 and 1")
		}
		s.p[g] = p
		s.v[g] = append(s.v[g], args[0].F64[i])
		held += 8
	}
	return held, nil
}

func (s *percentile) merge(o state, m []int32) error {
	x := o.(*percentile)
	for i, g := range m {
		if len(x.v[i]) > 0 {
			s.v[g] = append(s.v[g], x.v[i]...)
			s.p[g] = x.p[i]
		}
	}
	return nil
}

func (s *percentile) result(n int) (*value.Vec, error) {
	s.grow(n)
	out := value.NewVec(s.t, n)
	for g := range n {
		if len(s.v[g]) == 0 {
			out.SetNull(g)
			continue
		}
		slices.Sort(s.v[g])
		k := min(max(int(math.Ceil(s.p[g]*float64(len(s.v[g]))))-1, 0), len(s.v[g])-1)
		if s.t.Store() == value.StoreF64 {
			out.F64[g] = s.v[g][k]
		} else {
			out.I64[g] = int64(math.Round(s.v[g][k]))
		}
	}
	return out, nil
}
