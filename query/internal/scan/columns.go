package scan

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/daybook/daybook/query/catalog"
	"github.com/daybook/daybook/query/internal/plan"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// ValueColumn is the name of the value of a topic whose schema has no fields.
const ValueColumn = "__value__"

// internalColumns stand behind the columns of the value in every table.
var internalColumns = []plan.TableColumn{
	{Col: plan.Col{Name: "__partition__", Type: value.IntegerType}, Comment: "The partition number the message is in, -1 if the topic has none"},
	{Col: plan.Col{Name: "__event_time__", Type: value.TimestampType}, Comment: "The time the producer's application gave the message"},
	{Col: plan.Col{Name: "__publish_time__", Type: value.TimestampType}, Comment: "The time the message was published"},
	{Col: plan.Col{Name: "__message_id__", Type: value.VarcharType}, Comment: "The message id: (ledger,entry,batch index)"},
	{Col: plan.Col{Name: "__sequence_id__", Type: value.BigIntType}, Comment: "The producer's sequence id of the message"},
	{Col: plan.Col{Name: "__producer_name__", Type: value.VarcharType}, Comment: "The name of the producer"},
	{Col: plan.Col{Name: "__key__", Type: value.VarcharType}, Comment: "The partition key of the message"},
	{Col: plan.Col{Name: "__properties__", Type: value.VarcharType}, Comment: "The properties of the message, as JSON"},
}

// The internal columns, counted from the first.
const (
	colPartition = iota
	colEventTime
	colPublishTime
	colMessageID
	colSequenceID
	colProducer
	colKey
	colProperties
)

// A form is how values are written.
type form uint8

const (
	formBytes form = iota // as they are
	formText
	formBool
	formInt8
	formInt16
	formInt32
	formInt64
	formFloat
	formDouble
	formMillis // 8 bytes of ms: DATE, TIME, TIMESTAMP
	formJSON
	formAvro
)

// A layout is what a topic's schema says: the form of values and the columns they give.
type layout struct {
	form    form
	columns []plan.TableColumn
	fields  []*node // of formJSON and formAvro, one a column
	root    *node   // of formAvro: the whole record
}

// A node is a part of an Avro definition.
type node struct {
	name     string // of a field
	kind     nodeKind
	typ      value.Type
	fields   []*node  // record
	elem     *node    // array, map
	branches []*node  // union
	main     int      // union: the branch that is shown
	symbols  []string // enum
	size     int      // fixed
	logical  string
}

type nodeKind uint8

const (
	nNull nodeKind = iota
	nBoolean
	nInt
	nLong
	nFloat
	nDouble
	nBytes
	nString
	nRecord
	nEnum
	nArray
	nMap
	nFixed
	nUnion
)

// layoutOf reads a topic's schema; nil is a topic without one.
func layoutOf(s *catalog.Schema) (*layout, error) {
	single := func(f form, t value.Type) (*layout, error) {
		return &layout{form: f, columns: []plan.TableColumn{{Col: plan.Col{Name: ValueColumn, Type: t}, Comment: "The value of the message"}}}, nil
	}
	if s == nil {
		return single(formBytes, value.VarbinaryType)
	}
	switch strings.ToUpper(s.Type) {
	case "NONE", "BYTES":
		return single(formBytes, value.VarbinaryType)
	case "STRING":
		return single(formText, value.VarcharType)
	case "BOOLEAN":
		return single(formBool, value.BooleanType)
	case "INT8":
		return single(formInt8, value.TinyIntType)
	case "INT16":
		return single(formInt16, value.SmallIntType)
	case "INT32":
		return single(formInt32, value.IntegerType)
	case "INT64":
		return single(formInt64, value.BigIntType)
	case "FLOAT":
		return single(formFloat, value.RealType)
	case "DOUBLE":
		return single(formDouble, value.DoubleType)
	case "DATE":
		return single(formMillis, value.DateType)
	case "TIME":
		return single(formMillis, value.TimeType)
	case "TIMESTAMP":
		return single(formMillis, value.TimestampType)
	case "JSON", "AVRO":
	default:
		return nil, sqlerr.NotSupported.Errorf("topics with a schema of type %s are not supported in SQL", s.Type)
	}
	f := formJSON
	if strings.EqualFold(s.Type, "AVRO") {
		f = formAvro
	}
	if len(strings.TrimSpace(string(s.Data))) == 0 && f == formJSON { // says nothing of its fields
		return single(formText, value.VarcharType)
	}
	var def any
	d := json.NewDecoder(strings.NewReader(string(s.Data)))
	d.UseNumber()
	if err := d.Decode(&def); err != nil {
		return nil, sqlerr.NotSupported.Errorf("the topic's schema cannot be read: %v", err)
	}
	p := &definition{json: f == formJSON, names: map[string]*node{}, open: map[string]bool{}}
	root, err := p.parse(def, 0)
	if err != nil {
		return nil, sqlerr.NotSupported.Errorf("the topic's schema cannot be shown as a table: %v", err)
	}
	l := &layout{form: f, root: root}
	if root.kind != nRecord {
		root.name = ValueColumn
		l.fields = []*node{root}
		if f == formJSON {
			return single(formText, value.VarcharType)
		}
	} else {
		l.fields = root.fields
	}
	for _, n := range l.fields {
		l.columns = append(l.columns, plan.TableColumn{Col: plan.Col{Name: n.name, Type: n.typ}})
	}
	return l, nil
}

// definition parses an Avro definition, in which names may refer to what was defined before.
type definition struct {
	json  bool
	names map[string]*node
	open  map[string]bool
	nodes int
}

func (p *definition) parse(v any, depth int) (*node, error) {
	if p.nodes++; p.nodes > 20_000 || depth > 50 {
		return nil, fmt.Errorf("it is too large or too deep")
	}
	switch v := v.(type) {
	case string:
		return p.named(v)
	case []any:
		u := &node{kind: nUnion, main: -1}
		for i, b := range v {
			n, err := p.parse(b, depth+1)
			if err != nil {
				return nil, err
			}
			u.branches = append(u.branches, n)
			if u.main < 0 && n.kind != nNull {
				u.main = i
			}
		}
		u.typ = value.VarcharType
		if u.main >= 0 {
			u.typ = u.branches[u.main].typ
		}
		return u, nil
	case map[string]any:
		return p.object(v, depth)
	}
	return nil, fmt.Errorf("%T is no type", v)
}

var avroPrimitives = map[string]node{
	"null": {kind: nNull, typ: value.VarcharType}, "boolean": {kind: nBoolean, typ: value.BooleanType}, "int": {kind: nInt, typ: value.IntegerType},
	"long": {kind: nLong, typ: value.BigIntType}, "float": {kind: nFloat, typ: value.RealType}, "double": {kind: nDouble, typ: value.DoubleType},
	"bytes": {kind: nBytes, typ: value.VarbinaryType}, "string": {kind: nString, typ: value.VarcharType},
}

func (p *definition) named(name string) (*node, error) {
	if n, ok := avroPrimitives[name]; ok {
		return &n, nil
	}
	if p.open[name] {
		return nil, fmt.Errorf("type %q contains itself", name)
	}
	if n, ok := p.names[name]; ok {
		return n, nil
	}
	return nil, fmt.Errorf("type %q is not defined", name)
}

func (p *definition) object(v map[string]any, depth int) (*node, error) {
	kind, ok := v["type"].(string)
	if !ok {
		return p.parse(v["type"], depth+1)
	}
	full, _ := v["name"].(string)
	if ns, _ := v["namespace"].(string); ns != "" && full != "" && !strings.Contains(full, ".") {
		full = ns + "." + full
	}
	short := full[strings.LastIndexByte(full, '.')+1:]
	logical, _ := v["logicalType"].(string)
	num := func(key string) int {
		n, _ := v[key].(json.Number)
		i, _ := n.Int64()
		return int(i)
	}
	n := &node{logical: logical}
	switch kind {
	case "record", "error":
		n.kind = nRecord
		p.open[full], p.open[short] = true, true
		fields, _ := v["fields"].([]any)
		var fs []value.Field
		for _, f := range fields {
			o, ok := f.(map[string]any)
			name, _ := o["name"].(string)
			if !ok || name == "" {
				return nil, fmt.Errorf("record %q has a field without a name", full)
			}
			ft := o["type"]
			if lt, ok := o["logicalType"].(string); ok {
				if s, ok := ft.(string); ok {
					ft = map[string]any{"type": s, "logicalType": lt, "precision": o["precision"], "scale": o["scale"]}
				}
			}
			c, err := p.parse(ft, depth+1)
			if err != nil {
				return nil, fmt.Errorf("field %q: %w", name, err)
			}
			cc := *c
			cc.name = name
			n.fields = append(n.fields, &cc)
			fs = append(fs, value.Field{Name: name, Type: cc.typ})
		}
		delete(p.open, full)
		delete(p.open, short)
		n.typ = value.RowOf(fs...)
	case "enum":
		n.kind, n.typ = nEnum, value.VarcharType
		l, _ := v["symbols"].([]any)
		for _, s := range l {
			n.symbols = append(n.symbols, fmt.Sprint(s))
		}
	case "array":
		e, err := p.parse(v["items"], depth+1)
		if err != nil {
			return nil, err
		}
		n.kind, n.elem, n.typ = nArray, e, value.ArrayOf(e.typ)
	case "map":
		e, err := p.parse(v["values"], depth+1)
		if err != nil {
			return nil, err
		}
		n.kind, n.elem, n.typ = nMap, e, value.MapOf(value.VarcharType, e.typ)
	case "fixed":
		n.kind, n.typ, n.size = nFixed, value.VarbinaryType, num("size")
		if n.size < 0 {
			return nil, fmt.Errorf("fixed %q has a negative size", full)
		}
	default:
		b, err := p.named(kind)
		if err != nil {
			return nil, err
		}
		c := *b
		if logical != "" {
			c.logical = logical
		}
		n = &c
	}
	switch {
	case n.kind == nInt && logical == "date":
		n.typ = value.DateType
	case n.kind == nInt && logical == "time-millis":
		n.typ = value.TimeType
	case n.kind == nLong && logical == "timestamp-millis":
		n.typ = value.TimestampType
	case (n.kind == nBytes || n.kind == nFixed) && logical == "decimal":
		prec, scale := num("precision"), num("scale")
		if prec < 1 || prec > value.MaxPrecision || scale < 0 || scale > prec {
			return nil, fmt.Errorf("decimal(%d,%d) is not supported", prec, scale)
		}
		n.typ = value.DecimalType(prec, scale)
		if p.json {
			n.typ = value.VarcharType
		}
	}
	if full != "" && (kind == "record" || kind == "enum" || kind == "fixed" || kind == "error") {
		p.names[full], p.names[short] = n, n
	}
	return n, nil
}
