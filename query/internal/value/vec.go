package value

import (
	"fmt"
	"math"
	"strings"
)

// A Vec is a column of one batch. One of the slices, chosen by Type.Store, has Len values; the value of a
// null row is the zero value. Strings may alias the buffers of messages: whoever keeps one longer than
// its batch clones it. A Vec is immutable once handed on; results of operators may share vectors.
type Vec struct {
	Type  Type
	Len   int
	Nulls []uint64 // bit i set: row i is null; nil: no nulls
	I64   []int64
	F64   []float64
	Dec   []Int128
	Str   []string
	Any   []any // []any for arrays and rows, Pairs for maps
}

// Pairs is a value of a map type, in the order of the source.
type Pairs []Pair

// A Pair is one entry of a map value.
type Pair struct{ Key, Value any }

// NewVec makes a column of n zero values, none null.
func NewVec(t Type, n int) *Vec {
	v := &Vec{Type: t, Len: n}
	switch t.Store() {
	case StoreI64:
		v.I64 = make([]int64, n)
	case StoreF64:
		v.F64 = make([]float64, n)
	case StoreDec:
		v.Dec = make([]Int128, n)
	case StoreStr:
		v.Str = make([]string, n)
	case StoreAny:
		v.Any = make([]any, n)
	}
	return v
}

// IsNull reports whether row i is null.
func (v *Vec) IsNull(i int) bool { return v.Nulls != nil && v.Nulls[uint(i)>>6]&(1<<(uint(i)&63)) != 0 }

// SetNull makes row i null. Only the maker of the vector may call it.
func (v *Vec) SetNull(i int) {
	if v.Nulls == nil {
		v.Nulls = make([]uint64, (max(v.Len, i+1)+63)/64)
	}
	for len(v.Nulls) <= i>>6 {
		v.Nulls = append(v.Nulls, 0)
	}
	v.Nulls[uint(i)>>6] |= 1 << (uint(i) & 63)
}

// HasNulls reports whether any row is null.
func (v *Vec) HasNulls() bool {
	for _, w := range v.Nulls {
		if w != 0 {
			return true
		}
	}
	return false
}

// grow appends one zero value, not null; the maker sets it.
func (v *Vec) grow() {
	switch v.Type.Store() {
	case StoreI64:
		v.I64 = append(v.I64, 0)
	case StoreF64:
		v.F64 = append(v.F64, 0)
	case StoreDec:
		v.Dec = append(v.Dec, Int128{})
	case StoreStr:
		v.Str = append(v.Str, "")
	case StoreAny:
		v.Any = append(v.Any, nil)
	}
	v.appended()
}

// AppendNull appends a null row.
func (v *Vec) AppendNull() { v.grow(); v.SetNull(v.Len - 1) }

// AppendFrom appends row i of o, which has the same store.
func (v *Vec) AppendFrom(o *Vec, i int) {
	if o.IsNull(i) {
		v.AppendNull()
		return
	}
	switch v.Type.Store() {
	case StoreI64:
		v.I64 = append(v.I64, o.I64[i])
	case StoreF64:
		v.F64 = append(v.F64, o.F64[i])
	case StoreDec:
		v.Dec = append(v.Dec, o.Dec[i])
	case StoreStr:
		v.Str = append(v.Str, o.Str[i])
	case StoreAny:
		v.Any = append(v.Any, o.Any[i])
	}
	v.appended()
}

// CloneStrings makes the rows from row from on own their bytes.
func (v *Vec) CloneStrings(from int) {
	for i := from; i < len(v.Str); i++ {
		v.Str[i] = strings.Clone(v.Str[i])
	}
	for i := from; i < len(v.Any); i++ {
		v.Any[i] = cloneAny(v.Any[i])
	}
}

func cloneAny(a any) any {
	switch a := a.(type) {
	case string:
		return strings.Clone(a)
	case []any:
		out := make([]any, len(a))
		for i, e := range a {
			out[i] = cloneAny(e)
		}
		return out
	case Pairs:
		out := make(Pairs, len(a))
		for i, e := range a {
			out[i] = Pair{cloneAny(e.Key), cloneAny(e.Value)}
		}
		return out
	}
	return a
}

// Append appends a boxed value as Get gives it.
func (v *Vec) Append(a any) {
	v.grow()
	v.Set(v.Len-1, a)
}

// AppendInt appends a value to a column whose store is StoreI64.
func (v *Vec) AppendInt(x int64) {
	v.I64 = append(v.I64, x)
	v.appended()
}

// AppendString appends a value to a column whose store is StoreStr.
func (v *Vec) AppendString(s string) {
	v.Str = append(v.Str, s)
	v.appended()
}

// AppendFloat appends a value to a column whose store is StoreF64.
func (v *Vec) AppendFloat(x float64) {
	v.F64 = append(v.F64, x)
	v.appended()
}

func (v *Vec) appended() {
	v.Len++
	if v.Nulls != nil && len(v.Nulls)*64 < v.Len {
		v.Nulls = append(v.Nulls, 0)
	}
}

// Set stores a boxed value as Get gives it: nil, bool, int64, float64, Int128, string, []any or Pairs.
func (v *Vec) Set(i int, a any) {
	switch a := a.(type) {
	case nil:
		v.SetNull(i)
	case bool:
		if a {
			v.I64[i] = 1
		}
	case int64:
		v.I64[i] = a
	case float64:
		v.F64[i] = a
	case Int128:
		v.Dec[i] = a
	case string:
		v.Str[i] = a
	default:
		v.Any[i] = a
	}
}

// Get gives row i boxed: nil, bool, int64 (integers, dates in days, times and timestamps in milliseconds,
// intervals), float64, Int128 (the unscaled decimal), string (text or bytes), []any or Pairs.
func (v *Vec) Get(i int) any {
	if v.IsNull(i) {
		return nil
	}
	switch v.Type.Store() {
	case StoreF64:
		return v.F64[i]
	case StoreDec:
		return v.Dec[i]
	case StoreStr:
		return v.Str[i]
	case StoreAny:
		return v.Any[i]
	}
	if v.Type.Kind == Boolean {
		return v.I64[i] != 0
	}
	return v.I64[i]
}

// Constant makes a column of n copies of a boxed value.
func Constant(t Type, a any, n int) *Vec {
	v := NewVec(t, n)
	if a == nil {
		v.Nulls = AllNull(n)
		return v
	}
	for i := range n {
		v.Set(i, a)
	}
	return v
}

// AllNull makes a bitmap of n nulls.
func AllNull(n int) []uint64 {
	w := make([]uint64, (n+63)/64)
	for i := range w {
		w[i] = math.MaxUint64
	}
	if r := n & 63; r != 0 && len(w) > 0 {
		w[len(w)-1] = 1<<uint(r) - 1
	}
	return w
}

// Gather makes the column of the rows that sel names; -1 makes a null.
func (v *Vec) Gather(sel []int32) *Vec {
	o := NewVec(v.Type, len(sel))
	switch v.Type.Store() {
	case StoreI64:
		gather(o.I64, v.I64, sel)
	case StoreF64:
		gather(o.F64, v.F64, sel)
	case StoreDec:
		gather(o.Dec, v.Dec, sel)
	case StoreStr:
		gather(o.Str, v.Str, sel)
	case StoreAny:
		gather(o.Any, v.Any, sel)
	}
	for i, s := range sel {
		if s < 0 || v.IsNull(int(s)) {
			o.SetNull(i)
		}
	}
	return o
}

func gather[T any](dst, src []T, sel []int32) {
	for i, s := range sel {
		if s >= 0 {
			dst[i] = src[s]
		}
	}
}

// Slice gives rows [from, to) sharing memory where it can.
func (v *Vec) Slice(from, to int) *Vec {
	if from == 0 && to == v.Len {
		return v
	}
	o := &Vec{Type: v.Type, Len: to - from}
	switch v.Type.Store() {
	case StoreI64:
		o.I64 = v.I64[from:to:to]
	case StoreF64:
		o.F64 = v.F64[from:to:to]
	case StoreDec:
		o.Dec = v.Dec[from:to:to]
	case StoreStr:
		o.Str = v.Str[from:to:to]
	case StoreAny:
		o.Any = v.Any[from:to:to]
	}
	if v.Nulls != nil {
		for i := from; i < to; i++ {
			if v.IsNull(i) {
				o.SetNull(i - from)
			}
		}
	}
	return o
}

// Retype gives the same values under another type with the same store.
func (v *Vec) Retype(t Type) *Vec {
	if v.Type.Store() != t.Store() {
		panic(fmt.Sprintf("value: retype %s as %s", v.Type, t))
	}
	o := *v
	o.Type = t
	return &o
}

// Bytes estimates the memory that the column holds.
func (v *Vec) Bytes() int64 {
	n := int64(len(v.Nulls))*8 + int64(cap(v.I64))*8 + int64(cap(v.F64))*8 + int64(cap(v.Dec))*16 + int64(cap(v.Str))*16
	for _, s := range v.Str {
		n += int64(len(s))
	}
	for _, a := range v.Any {
		n += 16 + anyBytes(a)
	}
	return n
}

func anyBytes(a any) int64 {
	switch a := a.(type) {
	case string:
		return 16 + int64(len(a))
	case []any:
		n := int64(24)
		for _, e := range a {
			n += 16 + anyBytes(e)
		}
		return n
	case Pairs:
		n := int64(24)
		for _, e := range a {
			n += 32 + anyBytes(e.Key) + anyBytes(e.Value)
		}
		return n
	}
	return 8
}

// A Batch is some rows of a table: columns of equal length. Len counts also when there are no columns.
type Batch struct {
	Cols []*Vec
	Len  int
}

// Gather makes the batch of the rows that sel names.
func (b *Batch) Gather(sel []int32) *Batch {
	o := &Batch{Cols: make([]*Vec, len(b.Cols)), Len: len(sel)}
	for i, c := range b.Cols {
		if c != nil {
			o.Cols[i] = c.Gather(sel)
		}
	}
	return o
}

// Slice gives rows [from, to).
func (b *Batch) Slice(from, to int) *Batch {
	if from == 0 && to == b.Len {
		return b
	}
	o := &Batch{Cols: make([]*Vec, len(b.Cols)), Len: to - from}
	for i, c := range b.Cols {
		if c != nil {
			o.Cols[i] = c.Slice(from, to)
		}
	}
	return o
}

// Bytes estimates the memory that the batch holds.
func (b *Batch) Bytes() int64 {
	var n int64
	for _, c := range b.Cols {
		if c != nil {
			n += c.Bytes()
		}
	}
	return n
}
