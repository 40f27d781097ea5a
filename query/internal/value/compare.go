package value

import (
	"cmp"
	"encoding/binary"
	"math"
	"strings"
)

// CompareAt orders two values that are not null and of one type. Doubles order NaN last and equal to
// itself, as ORDER BY needs; the operators of SQL treat NaN on their own.
func CompareAt(a *Vec, i int, b *Vec, j int) int {
	switch a.Type.Store() {
	case StoreI64:
		return cmp.Compare(a.I64[i], b.I64[j])
	case StoreF64:
		return compareFloat(a.F64[i], b.F64[j])
	case StoreDec:
		return a.Dec[i].Cmp(b.Dec[j])
	case StoreStr:
		return strings.Compare(a.Str[i], b.Str[j])
	}
	return Compare(a.Any[i], b.Any[j])
}

func compareFloat(x, y float64) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	case x == y:
		return 0
	case math.IsNaN(x) && math.IsNaN(y):
		return 0
	case math.IsNaN(x):
		return 1
	}
	return -1
}

// Compare orders two boxed values of one type; nil orders last.
func Compare(a, b any) int {
	if a == nil || b == nil {
		switch {
		case a == nil && b == nil:
			return 0
		case a == nil:
			return 1
		}
		return -1
	}
	switch a := a.(type) {
	case bool:
		b := b.(bool)
		switch {
		case a == b:
			return 0
		case b:
			return -1
		}
		return 1
	case int64:
		return cmp.Compare(a, b.(int64))
	case float64:
		return compareFloat(a, b.(float64))
	case Int128:
		return a.Cmp(b.(Int128))
	case string:
		return strings.Compare(a, b.(string))
	case []any:
		b := b.([]any)
		for i := range min(len(a), len(b)) {
			if c := Compare(a[i], b[i]); c != 0 {
				return c
			}
		}
		return cmp.Compare(len(a), len(b))
	case Pairs:
		b := b.(Pairs)
		if c := cmp.Compare(len(a), len(b)); c != 0 {
			return c
		}
		for i := range a {
			if c := Compare(a[i].Key, b[i].Key); c != 0 {
				return c
			}
			if c := Compare(a[i].Value, b[i].Value); c != 0 {
				return c
			}
		}
	}
	return 0
}

// AppendKey appends an encoding of row i such that two rows of one type have the same encoding exactly if
// they are not distinct (NULL equals NULL, NaN equals NaN, -0 equals 0). It is self-delimiting.
func AppendKey(dst []byte, v *Vec, i int) []byte {
	if v.IsNull(i) {
		return append(dst, 0)
	}
	dst = append(dst, 1)
	switch v.Type.Store() {
	case StoreI64:
		return binary.LittleEndian.AppendUint64(dst, uint64(v.I64[i]))
	case StoreF64:
		return binary.LittleEndian.AppendUint64(dst, FloatKey(v.F64[i]))
	case StoreDec:
		dst = binary.LittleEndian.AppendUint64(dst, uint64(v.Dec[i].Hi))
		return binary.LittleEndian.AppendUint64(dst, v.Dec[i].Lo)
	case StoreStr:
		dst = binary.AppendUvarint(dst, uint64(len(v.Str[i])))
		return append(dst, v.Str[i]...)
	}
	return appendAnyKey(dst, v.Any[i])
}

// FloatKey maps doubles that are not distinct to one bit pattern.
func FloatKey(f float64) uint64 {
	switch {
	case f == 0:
		return 0
	case f != f:
		return 0x7ff8000000000000
	}
	return math.Float64bits(f)
}

func appendAnyKey(dst []byte, a any) []byte {
	switch a := a.(type) {
	case nil:
		return append(dst, 0)
	case bool:
		if a {
			return append(dst, 1, 1)
		}
		return append(dst, 1, 0)
	case int64:
		return binary.LittleEndian.AppendUint64(append(dst, 2), uint64(a))
	case float64:
		return binary.LittleEndian.AppendUint64(append(dst, 3), FloatKey(a))
	case Int128:
		dst = binary.LittleEndian.AppendUint64(append(dst, 4), uint64(a.Hi))
		return binary.LittleEndian.AppendUint64(dst, a.Lo)
	case string:
		dst = binary.AppendUvarint(append(dst, 5), uint64(len(a)))
		return append(dst, a...)
	case []any:
		dst = binary.AppendUvarint(append(dst, 6), uint64(len(a)))
		for _, e := range a {
			dst = appendAnyKey(dst, e)
		}
	case Pairs:
		dst = binary.AppendUvarint(append(dst, 7), uint64(len(a)))
		for _, e := range a {
			dst = appendAnyKey(appendAnyKey(dst, e.Key), e.Value)
		}
	}
	return dst
}
