package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/query/catalog"
	"github.com/daybook/daybook/query/engine"
	"github.com/daybook/daybook/query/internal/querytest"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

var noon = time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)

// fill makes the topics that the test files query.
func fill(t *querytest.Topics) {
	ns := catalog.DefaultSchema
	t.Add(ns, "orders", 0, querytest.JSONSchema("id", "long", "merchant", "string", "amount", "double", "status", "string",
		"ts", `["null",{"type":"long","logicalType":"timestamp-millis"}]`, "qty", "int"))
	orders := []string{
		`{"id":1,"merchant":"anna","amount":10.5,"status":"x","ts":1714996800000,"qty":2}`,
		`{"id":2,"merchant":"bert","amount":20,"status":"y","ts":1714996860000,"qty":null}`,
		`{"id":3,"merchant":"anna","amount":0.25,"status":"x","qty":5}`,
		`{"id":4,"merchant":"cleo","amount":null,"status":"x","ts":1715083200000,"qty":0}`,
		`{"id":5,"merchant":null,"amount":7,"status":"z","ts":1715083200001,"qty":1}`,
		`{"qty":7,"ts":1715169600000,"status":"y","amount":1e2,"merchant":"b\u00fcrger","id":6}`,
	}
	for i, o := range orders {
		t.Publish(ns, "orders", 0, message.Header{ProducerName: "p-1", PublishTime: noon.UnixMilli() + int64(i)*1000},
			message.Outgoing{SequenceID: uint64(i), Key: "k" + string(rune('0'+i%2)), HasKey: true, Value: []byte(o), EventTime: int64(i) * 1000,
				Properties: []message.Property{{Key: "n", Value: fmt.Sprint(i)}}})
		if i == 2 {
			t.Roll(ns, "orders", 0)
		}
	}
	t.Add(ns, "Visits", 3, querytest.JSONSchema("who", "string", "n", "int"))
	for i := range 9 {
		var ms []message.Outgoing
		for k := range 2 {
			ms = append(ms, message.Outgoing{SequenceID: uint64(i*2 + k), Value: fmt.Appendf(nil, `{"who":"%c","n":%d}`, 'a'+rune(i%3), i*2+k)})
		}
		h := message.Header{ProducerName: "p-2", PublishTime: noon.UnixMilli() + int64(i)*60_000, Compression: []message.Compression{message.None, message.LZ4, message.ZStd}[i%3]}
		t.PublishBatch(ns, "Visits", i%3, h, ms)
	}
	t.Add(ns, "words", 0, &catalog.Schema{Type: "STRING"})
	for _, w := range []string{"Hello", "wörld", "", "it's \"quoted\"", "a\tb"} {
		t.Publish(ns, "words", 0, message.Header{ProducerName: "p", PublishTime: noon.UnixMilli()}, message.Outgoing{Value: []byte(w)})
	}
	t.Add(ns, "raw", 0, nil)
	t.Publish(ns, "raw", 0, message.Header{ProducerName: "p", PublishTime: noon.UnixMilli()}, message.Outgoing{Value: []byte{0xca, 0xfe}})
	t.Publish(ns, "raw", 0, message.Header{ProducerName: "p", PublishTime: noon.UnixMilli()}, message.Outgoing{Null: true})
	t.Add(ns, "empty", 2, querytest.JSONSchema("a", "int"))
	t.Add(ns, "dirty", 0, querytest.JSONSchema("a", "int", "b", "string"))
	for _, v := range []string{`{"a":1,"b":"x"}`, `not json`, `{"a":"wrong","b":"y"}`, `{"a":2}`, `{"a":3,"b":"z"`, `[]`} {
		t.Publish(ns, "dirty", 0, message.Header{ProducerName: "p", PublishTime: noon.UnixMilli()}, message.Outgoing{Value: []byte(v)})
	}
	t.Publish(ns, "dirty", 0, message.Header{ProducerName: "m", PublishTime: noon.UnixMilli(), MarkerType: message.MarkerTxnCommit}, message.Outgoing{})
	t.Append(ns, "dirty", 0, []byte("garbage"), 1)
	t.Add("acme/prod", "nested", 0, querytest.JSONSchema("o", `{"type":"record","name":"O","fields":[{"name":"city","type":"string"},{"name":"geo","type":{"type":"record","name":"G","fields":[{"name":"lat","type":"double"}]}}]}`,
		"tags", `{"type":"array","items":"string"}`, "props", `{"type":"map","values":"int"}`))
	t.Publish("acme/prod", "nested", 0, message.Header{ProducerName: "p", PublishTime: noon.UnixMilli()},
		message.Outgoing{Value: []byte(`{"o":{"city":"Wien","geo":{"lat":48.2}},"tags":["a","b"],"props":{"x":1,"y":2}}`)})
	t.Add(ns, "numbers", 0, &catalog.Schema{Type: "INT32"})
	for i := range 5000 {
		t.Publish(ns, "numbers", 0, message.Header{ProducerName: "p", PublishTime: noon.UnixMilli() + int64(i)},
			message.Outgoing{Value: []byte{0, 0, byte(i >> 8), byte(i)}})
	}
}

func newEngine(t *querytest.Topics) *engine.Engine {
	return engine.New(engine.Config{Catalog: t, Topics: t, Version: "1.2.3", Now: func() time.Time { return noon }})
}

// ask runs a statement and writes its result as text.
func ask(e *engine.Engine, s engine.Session, sql string) (string, error) {
	r, err := e.Execute(context.Background(), s, sql)
	if err != nil {
		return "", err
	}
	defer r.Close()
	var b strings.Builder
	for i, c := range r.Columns {
		if i > 0 {
			b.WriteString(" | ")
		}
		fmt.Fprintf(&b, "%s %s", c.Name, c.Type)
	}
	if len(r.Columns) > 0 {
		b.WriteByte('\n')
	}
	for {
		batch, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return b.String(), err
		}
		for i := range batch.Len {
			for k, c := range batch.Cols {
				if k > 0 {
					b.WriteString(" | ")
				}
				if c.Type.Kind == value.Varbinary && !c.IsNull(i) {
					fmt.Fprintf(&b, "%X", c.Str[i])
					continue
				}
				b.Write(value.AppendText(nil, c.Type, c.Get(i)))
			}
			b.WriteByte('\n')
		}
	}
	for _, w := range r.Warnings() {
		b.WriteString("warning: " + w + "\n")
	}
	if r.UpdateType != "" {
		fmt.Fprintf(&b, "%s %+v\n", r.UpdateType, r.Changes)
	}
	return b.String(), nil
}

// TestStatements runs the statements of testdata, several of a file one block each, and compares their rows.
func TestStatements(t *testing.T) {
	topics := querytest.New()
	fill(topics)
	e := newEngine(topics)
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var s engine.Session
			for _, a := range d.CmdArgs {
				switch a.Key {
				case "schema":
					s.Schema = a.Vals[0]
				case "zone":
					s.TimeZone = a.Vals[0]
				case "prepared":
					s.Prepared = map[string]string{"p": "SELECT id, ? FROM orders WHERE id > ? ORDER BY id LIMIT 2"}
				}
			}
			out, err := ask(e, s, d.Input)
			if err != nil {
				se := sqlerr.From(err)
				out += fmt.Sprintf("%s: %v\n", se.Code.Name, se)
			}
			return out
		})
	})
}
