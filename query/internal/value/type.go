// Package value is the engine's data: types, columns of values in batches, exact decimals, dates and
// times, and the text forms that casts and protocols need. Pure: no I/O, no clock.
package value

import (
	"fmt"
	"strconv"
	"strings"
)

// BatchSize is the number of rows that operators aim at in one batch.
const BatchSize = 2048

// Kind is the family of a type.
type Kind uint8

// The kinds. Unknown is the type of a bare NULL.
const (
	Unknown Kind = iota
	Boolean
	TinyInt
	SmallInt
	Integer
	BigInt
	Real
	Double
	Decimal
	Varchar
	Varbinary
	Date
	Time
	Timestamp
	TimestampTZ
	IntervalDay   // milliseconds
	IntervalMonth // months
	Array
	Map
	Row
)

// A Type is a SQL type. Types are compared with Equal.
type Type struct {
	Kind      Kind
	Precision int     // Decimal: digits; Timestamp: always 3
	Scale     int     // Decimal: digits after the point
	Elem      *Type   // Array: element; Map: value
	Key       *Type   // Map: key
	Fields    []Field // Row
	Zone      string  // TimestampTZ: the zone that values are shown in; "" is UTC. Not part of equality
}

// A Field is one field of a row type.
type Field struct {
	Name string
	Type Type
}

// The types without parameters.
var (
	UnknownType       = Type{Kind: Unknown}
	BooleanType       = Type{Kind: Boolean}
	TinyIntType       = Type{Kind: TinyInt}
	SmallIntType      = Type{Kind: SmallInt}
	IntegerType       = Type{Kind: Integer}
	BigIntType        = Type{Kind: BigInt}
	RealType          = Type{Kind: Real}
	DoubleType        = Type{Kind: Double}
	VarcharType       = Type{Kind: Varchar}
	VarbinaryType     = Type{Kind: Varbinary}
	DateType          = Type{Kind: Date}
	TimeType          = Type{Kind: Time, Precision: 3}
	TimestampType     = Type{Kind: Timestamp, Precision: 3}
	TimestampTZType   = Type{Kind: TimestampTZ, Precision: 3}
	IntervalDayType   = Type{Kind: IntervalDay}
	IntervalMonthType = Type{Kind: IntervalMonth}
)

// MaxPrecision is the most digits of a decimal.
const MaxPrecision = 38

// DecimalType makes a decimal type; precision is cut to 38 digits.
func DecimalType(precision, scale int) Type {
	return Type{Kind: Decimal, Precision: min(precision, MaxPrecision), Scale: min(scale, MaxPrecision)}
}

// ArrayOf makes an array type.
func ArrayOf(elem Type) Type { return Type{Kind: Array, Elem: &elem} }

// MapOf makes a map type.
func MapOf(key, elem Type) Type { return Type{Kind: Map, Key: &key, Elem: &elem} }

// RowOf makes a row type.
func RowOf(fields ...Field) Type { return Type{Kind: Row, Fields: fields} }

var kindNames = [...]string{"unknown", "boolean", "tinyint", "smallint", "integer", "bigint", "real", "double", "decimal",
	"varchar", "varbinary", "date", "time", "timestamp", "timestamp with time zone", "interval day to second",
	"interval year to month", "array", "map", "row"}

// Name is the raw name of the type, without parameters, as in Trino's type signatures.
func (t Type) Name() string { return kindNames[t.Kind] }

// String is the type as SQL writes it.
func (t Type) String() string {
	switch t.Kind {
	case Decimal:
		return "decimal(" + strconv.Itoa(t.Precision) + "," + strconv.Itoa(t.Scale) + ")"
	case Time:
		return "time(3)"
	case Timestamp:
		return "timestamp(3)"
	case TimestampTZ:
		return "timestamp(3) with time zone"
	case Array:
		return "array(" + t.Elem.String() + ")"
	case Map:
		return "map(" + t.Key.String() + ", " + t.Elem.String() + ")"
	case Row:
		var b strings.Builder
		b.WriteString("row(")
		for i, f := range t.Fields {
			if i > 0 {
				b.WriteString(", ")
			}
			if f.Name != "" {
				fmt.Fprintf(&b, "%q ", f.Name)
			}
			b.WriteString(f.Type.String())
		}
		b.WriteByte(')')
		return b.String()
	}
	return kindNames[t.Kind]
}

// Equal reports whether two types are the same, parameters included. Names of row fields do not count.
func (t Type) Equal(o Type) bool {
	if t.Kind != o.Kind {
		return false
	}
	switch t.Kind {
	case Decimal:
		return t.Precision == o.Precision && t.Scale == o.Scale
	case Array:
		return t.Elem.Equal(*o.Elem)
	case Map:
		return t.Key.Equal(*o.Key) && t.Elem.Equal(*o.Elem)
	case Row:
		if len(t.Fields) != len(o.Fields) {
			return false
		}
		for i := range t.Fields {
			if !t.Fields[i].Type.Equal(o.Fields[i].Type) {
				return false
			}
		}
	}
	return true
}

// IsInteger reports whether values are whole numbers kept in Vec.I64.
func (t Type) IsInteger() bool { return t.Kind >= TinyInt && t.Kind <= BigInt }

// IsFloat reports whether values are kept in Vec.F64.
func (t Type) IsFloat() bool { return t.Kind == Real || t.Kind == Double }

// IsNumeric reports whether arithmetic applies.
func (t Type) IsNumeric() bool { return t.Kind >= TinyInt && t.Kind <= Decimal }

// IsNested reports whether values are kept in Vec.Any.
func (t Type) IsNested() bool { return t.Kind >= Array }

// Store is where a Vec keeps values of a type.
type Store uint8

// The stores.
const (
	StoreI64 Store = iota
	StoreF64
	StoreDec
	StoreStr
	StoreAny
)

// Store gives the store of the type's values.
func (t Type) Store() Store {
	switch t.Kind {
	case Real, Double:
		return StoreF64
	case Decimal:
		return StoreDec
	case Varchar, Varbinary:
		return StoreStr
	case Array, Map, Row:
		return StoreAny
	}
	return StoreI64
}

// IntRange gives the least and greatest value of an integer type.
func (t Type) IntRange() (lo, hi int64) {
	switch t.Kind {
	case TinyInt:
		return -1 << 7, 1<<7 - 1
	case SmallInt:
		return -1 << 15, 1<<15 - 1
	case Integer:
		return -1 << 31, 1<<31 - 1
	}
	return -1 << 63, 1<<63 - 1
}

// IntDigits is the precision of the decimal that holds every value of an integer type.
func (t Type) IntDigits() int {
	switch t.Kind {
	case TinyInt:
		return 3
	case SmallInt:
		return 5
	case Integer:
		return 10
	}
	return 19
}
