package scan

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daybook/daybook/query/catalog"
	"github.com/daybook/daybook/query/internal/value"
)

func jsonLayout(t testing.TB, fields string) *layout {
	t.Helper()
	l, err := layoutOf(&catalog.Schema{Type: "JSON", Data: []byte(`{"type":"record","name":"R","fields":[` + fields + `]}`)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const testFields = `{"name":"i","type":["null","long"]},{"name":"s","type":["null","string"]},{"name":"d","type":"double"},{"name":"b","type":["null","boolean"]},` +
	`{"name":"n","type":"int"},{"name":"a","type":{"type":"array","items":["null","int"]}}`

func newCols(fields []*node) []*value.Vec {
	var out []*value.Vec
	for _, f := range fields {
		out = append(out, value.NewVec(f.typ, 0))
	}
	return out
}

// project gives one message's values through a new projector.
func projectOne(p projector, fields []*node, msg string) ([]any, error) {
	cols := newCols(fields)
	err := p.project([]byte(msg), cols)
	var out []any
	for _, c := range cols {
		if c.Len != 1 {
			return nil, fmt.Errorf("column has %d rows", c.Len)
		}
		out = append(out, c.Get(0))
	}
	return out, err
}

func TestProjectorTakesWantedFields(t *testing.T) {
	l := jsonLayout(t, testFields)
	p := newJSONProjector(l.fields)
	for _, c := range []struct {
		msg  string
		want string
		bad  bool
	}{
		{`{"i":1,"s":"x","d":1.5,"b":true,"n":-3,"a":[1,null]}`, `[1 x 1.5 true -3 [1 <nil>]]`, false},
		{`{"a":[],"n":0,"b":false,"d":-0.25e2,"s":"","i":-9223372036854775808}`, `[-9223372036854775808  -25 false 0 []]`, false},
		{" { \"i\" : 7 ,\n\t\"zz\" : { \"i\" : 8, \"y\" : [ { } , \"}\" ] } } \r\n", `[7 <nil> <nil> <nil> <nil> <nil>]`, false},
		{`{}`, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, false},
		{`{"i":null,"s":null,"d":null}`, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, false},
		{`{"s":"a\"b\\c\u00e4\ud83d\ude00\n"}`, "[<nil> a\"b\\cä😀\n <nil> <nil> <nil> <nil>]", false},
		{`{"\u0069":5}`, `[5 <nil> <nil> <nil> <nil> <nil>]`, false},
		{`{"i":1,"i":2}`, `[2 <nil> <nil> <nil> <nil> <nil>]`, false},
		{`{"i":1.0,"n":1e3}`, `[1 <nil> <nil> <nil> 1000 <nil>]`, false},
		{`{"s":"日本語 😀 und noch etwas mehr Text"}`, `[<nil> 日本語 😀 und noch etwas mehr Text <nil> <nil> <nil> <nil>]`, false},
		{`{"d":"NaN"}`, `[<nil> <nil> NaN <nil> <nil> <nil>]`, false},
		// Fields that do not fit are null, the others stay.
		{`{"i":"x","s":5,"d":true,"b":1,"n":3000000000,"a":7}`, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
		{`{"i":1.5,"s":"ok"}`, `[<nil> ok <nil> <nil> <nil> <nil>]`, true},
		{"{\"s\":\"\xff\",\"i\":1}", `[1 <nil> <nil> <nil> <nil> <nil>]`, true},
		// What is no JSON object gives nothing at all.
		{`{"i":1`, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
		{`{"i":1,}`, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
		{`{"i":1}x`, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
		{`{"i":01}`, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
		{`{"i":1,"x":{"y":[1,2}}`, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
		{"{\"i\":1,\"s\":\"a\nb\"}", `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
		{`{"i":1,"s":"a\x"}`, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
		{`[]`, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
		{``, `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
		{`{"x":` + strings.Repeat("[", 10_000), `[<nil> <nil> <nil> <nil> <nil> <nil>]`, true},
	} {
		got, err := projectOne(p, l.fields, c.msg)
		if s := fmt.Sprint(got); s != c.want || (err != nil) != c.bad {
			t.Errorf("%.60q: %s %v, want %s", c.msg, s, err, c.want)
		}
	}
}

// On any input the projector agrees with encoding/json about what is an object, and on the values of the fields.
func checkProjector(t interface {
	Fatalf(string, ...any)
}, p projector, l *layout, msg []byte) {
	got, err := projectOne(p, l.fields, string(msg))
	var want map[string]json.RawMessage
	ok := json.Unmarshal(msg, &want) == nil && want != nil
	if (err == errJSON) == ok {
		// encoding/json nests deeper than we do.
		if !(ok && strings.Count(string(msg), "[")+strings.Count(string(msg), "{") > maxJSONDepth) {
			t.Fatalf("%q: projector says %v, encoding/json %v", msg, err, ok)
		}
		return
	}
	if !ok {
		return
	}
	var f struct {
		S *string  `json:"s"`
		D *float64 `json:"d"`
		B *bool    `json:"b"`
	}
	if s, ok := got[1].(string); ok {
		raw := want["s"]
		if json.Unmarshal(raw, &f.S) != nil || f.S == nil || *f.S != s {
			t.Fatalf("%q: s is %q", msg, s)
		}
	}
	if d, ok := got[2].(float64); ok && !math.IsNaN(d) && !math.IsInf(d, 0) {
		if json.Unmarshal(want["d"], &f.D) != nil || f.D == nil || *f.D != d {
			t.Fatalf("%q: d is %v", msg, d)
		}
	}
	if b, ok := got[3].(bool); ok {
		if json.Unmarshal(want["b"], &f.B) != nil || f.B == nil || *f.B != b {
			t.Fatalf("%q: b is %v", msg, b)
		}
	}
}

func TestProjectorAgreesWithEncodingJSON(t *testing.T) {
	l := jsonLayout(t, testFields)
	rapid.Check(t, func(t *rapid.T) {
		p := newJSONProjector(l.fields)
		for range 3 {
			m := map[string]any{}
			for _, k := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"i", "s", "d", "b", "n", "x", "long name \"quoted\""}), rapid.ID[string]).Draw(t, "keys") {
				m[k] = rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.Int64(), func(i int64) any { return i }), rapid.Map(rapid.String(), func(s string) any { return s }),
					rapid.Map(rapid.Float64(), func(f float64) any { return f }), rapid.Map(rapid.Bool(), func(b bool) any { return b }),
					rapid.Just[any](map[string]any{"i": 1, "s": []any{"}", 1.5}})).Draw(t, "value")
			}
			b, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "damage") {
				i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
				b[i] = rapid.Byte().Draw(t, "byte")
			}
			checkProjector(t, p, l, b)
		}
	})
}

func FuzzJSONProjector(f *testing.F) {
	f.Add([]byte(`{"i":1,"s":"x","d":1.5,"b":true,"n":-3,"a":[1,null]}`))
	f.Add([]byte(`{"s":"a\"b\\cä","x":{"y":[{}]}}`))
	f.Add([]byte(" { } "))
	l := jsonLayout(f, testFields)
	f.Fuzz(func(t *testing.T, msg []byte) { checkProjector(t, newJSONProjector(l.fields), l, msg) })
}

const avroDefinition = `{"type":"record","name":"R","fields":[{"name":"i","type":["null","long"]},{"name":"s","type":"string"},{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}},` +
	`{"name":"l","type":{"type":"array","items":"int"}},{"name":"m","type":{"type":"map","values":"double"}},{"name":"dec","type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}},` +
	`{"name":"r","type":{"type":"record","name":"In","fields":[{"name":"f","type":"float"},{"name":"b","type":"boolean"}]}},{"name":"d","type":{"type":"int","logicalType":"date"}}]}`

// A value written by hand from the specification: varints are zigzag, blocks end with 0.
var avroValue = []byte{2, 14 /* i: branch 1, 7 */, 6, 'a', 'b', 'c', 2 /* B */, 4, 2, 3, 0 /* [1,-2] */, 2, 2, 'k', 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0, /* {k:1.5} */
	4, 0xff, 0x38 /* -200: -2.00 */, 0, 0, 0, 0x40, 1 /* 2.0, true */, 0xc8, 1 /* 100 days */}

func avroLayout(t testing.TB, def string) *layout {
	t.Helper()
	l, err := layoutOf(&catalog.Schema{Type: "AVRO", Data: []byte(def)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestAvroValuesAreDecoded(t *testing.T) {
	l := avroLayout(t, avroDefinition)
	got, err := projectOne(newAvroProjector(l.root, l.fields), l.fields, string(avroValue))
	want := `[7 abc B [1 -2] [{k 1.5}] {-1 18446744073709551416} [2 true] 100]`
	if s := fmt.Sprint(got); err != nil || s != want {
		t.Errorf("%s %v, want %s", s, err, want)
	}
	// Only some fields, in another order than they were written in.
	some := []*node{l.fields[7], l.fields[1]}
	if got, err = projectOne(newAvroProjector(l.root, some), some, string(avroValue)); err != nil || fmt.Sprint(got) != "[100 abc]" {
		t.Errorf("%v %v", got, err)
	}
	// A field that the writer did not know is null.
	old := avroLayout(t, `{"type":"record","name":"R","fields":[{"name":"s","type":"string"}]}`)
	if got, err = projectOne(newAvroProjector(old.root, l.fields[:2]), l.fields[:2], "\x06abc"); err != nil || fmt.Sprint(got) != "[<nil> abc]" {
		t.Errorf("%v %v", got, err)
	}
	for n := range len(avroValue) - 1 {
		if got, err := projectOne(newAvroProjector(l.root, l.fields), l.fields, string(avroValue[:n])); err == nil {
			t.Errorf("%d bytes of it: %v", n, got)
		}
	}
}

func FuzzAvroProjector(f *testing.F) {
	f.Add(avroValue)
	f.Add([]byte{2, 14, 6, 'a', 'b', 'c', 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	l := avroLayout(f, avroDefinition)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := projectOne(newAvroProjector(l.root, l.fields), l.fields, string(b)); err != nil && err != errAvro {
			t.Fatal(err)
		}
	})
}

func TestSchemasThatCannotBeShownAreRefused(t *testing.T) {
	for def, want := range map[string]string{
		`{"type":"record","name":"R","fields":[{"name":"r","type":["null","R"]}]}`: "contains itself",
		`{"type":"record","name":"R","fields":[{"name":"r","type":"Missing"}]}`:    "not defined",
		`{"type":"record","name":"R","fields":[{"type":"int"}]}`:                   "without a name",
		`{`: "cannot be read",
		`5`: "is no type",
	} {
		if _, err := layoutOf(&catalog.Schema{Type: "AVRO", Data: []byte(def)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", def, err)
		}
	}
	if _, err := layoutOf(&catalog.Schema{Type: "PROTOBUF"}); err == nil {
		t.Error("PROTOBUF is shown")
	}
}

func BenchmarkJSONProjector(b *testing.B) {
	l := jsonLayout(b, `{"name":"id","type":"long"},{"name":"merchant","type":"string"},{"name":"amount","type":"double"},{"name":"ts","type":"long"},{"name":"status","type":"string"}`)
	fields := []*node{l.fields[1], l.fields[2], l.fields[4]}
	msg := []byte(`{"id":12345678,"merchant":"merchant-05254","amount":2816.68,"ts":1714996800000,"status":"x"}`)
	p := newJSONProjector(fields)
	cols := newCols(fields)
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		if cols[0].Len == value.BatchSize {
			for _, c := range cols {
				c.Str, c.F64, c.Len = c.Str[:0], c.F64[:0], 0
			}
		}
		if err := p.project(msg, cols); err != nil {
			b.Fatal(err)
		}
	}
}
