package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/query/catalog"
	"github.com/daybook/daybook/query/engine"
	"github.com/daybook/daybook/query/internal/querytest"
	"github.com/daybook/daybook/query/internal/sqlerr"
)

const ns = catalog.DefaultSchema

// rowsOf runs a statement and gives its rows as text, without the header.
func rowsOf(t testing.TB, e *engine.Engine, sql string) []string {
	t.Helper()
	out, err := ask(e, engine.Session{}, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n")[1:]
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return sqlerr.From(err).Code.Name
}

// Chunks of two messages, interleaved, over several ledgers and between many other messages: however the
// topic is split, each message comes once and whole.
func TestChunkedMessagesAreWholeInAnySplit(t *testing.T) {
	tp := querytest.New()
	tp.Add(ns, "chunked", 0, &catalog.Schema{Type: "STRING"})
	chunk := func(uuid string, id, of int, part string, total int) {
		tp.Publish(ns, "chunked", 0, message.Header{ProducerName: uuid, PublishTime: 1, UUID: uuid, NumChunks: of, ChunkID: id, TotalChunkSize: total},
			message.Outgoing{Value: []byte(part)})
	}
	plain := func(n int) {
		for range n {
			tp.Publish(ns, "chunked", 0, message.Header{ProducerName: "p", PublishTime: 1}, message.Outgoing{Value: []byte("-")})
		}
	}
	plain(300)
	for i := range 40 {
		a, b := fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i)
		chunk(a, 0, 3, "one", 11)
		plain(i * 3)
		chunk(b, 0, 2, "uno", 6)
		if i%10 == 5 {
			tp.Roll(ns, "chunked", 0)
		}
		chunk(a, 1, 3, "two", 11)
		plain(20)
		chunk(b, 1, 2, "due", 6)
		chunk(a, 2, 3, "three", 11)
	}
	chunk("never", 0, 2, "half", 8)
	n := 300 + 40*20 + 3*(39*40/2)
	for _, workers := range []int{1, 2, 8} {
		e := engine.New(engine.Config{Catalog: tp, Topics: tp, Workers: workers})
		got := rowsOf(t, e, "SELECT __value__, count(*) FROM chunked GROUP BY 1 ORDER BY 1")
		want := []string{fmt.Sprintf("- | %d", n), "onetwothree | 40", "unodue | 40"}
		if !slices.Equal(got, want) {
			t.Errorf("%d workers: %v, want %v", workers, got, want)
		}
		if got := rowsOf(t, e, "SELECT count(*) FROM chunked"); got[0] != fmt.Sprint(n+80) {
			t.Errorf("%d workers: count %v, want %d", workers, got, n+80)
		}
	}
}

// A statement sees what was there when it began, in both of its scans.
func TestStatementReadsOneSnapshot(t *testing.T) {
	tp := querytest.New()
	fill(tp)
	e := newEngine(tp)
	r, err := e.Execute(context.Background(), engine.Session{}, "SELECT a.c, b.c FROM (SELECT count(*) c FROM numbers) a, (SELECT count(__value__) c FROM numbers) b")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 100 {
		tp.Publish(ns, "numbers", 0, message.Header{ProducerName: "p", PublishTime: 1}, message.Outgoing{Value: []byte{0, 0, 0, 1}})
	}
	b, err := r.Next()
	if err != nil || b.Cols[0].I64[0] != 5000 || b.Cols[1].I64[0] != 5000 {
		t.Fatalf("%v %v", b, err)
	}
	if got := rowsOf(t, e, "SELECT count(*) FROM numbers"); got[0] != "5100" {
		t.Errorf("the next statement counts %v", got)
	}
}

// LIMIT stops reading, and counting reads no values: values that cannot be decoded do not matter.
func TestLimitStopsReading(t *testing.T) {
	tp := querytest.New()
	fill(tp)
	var reads atomic.Int64
	tp.Fail = func() error { reads.Add(1); return nil }
	e := newEngine(tp)
	if got := rowsOf(t, e, "SELECT __value__ FROM numbers LIMIT 3"); !slices.Equal(got, []string{"0", "1", "2"}) {
		t.Errorf("%v", got)
	}
	if n := reads.Load(); n > 200 { // 5000 entries are 313 reads
		t.Errorf("%d reads for three rows", n)
	}
	out, err := ask(e, engine.Session{}, "SELECT count(*) FROM dirty")
	if err != nil || !strings.Contains(out, "1 messages could not be decoded") { // the one that is not even an entry
		t.Errorf("%s %v", out, err)
	}
}

func TestFailedReadFailsTheStatement(t *testing.T) {
	tp := querytest.New()
	fill(tp)
	boom := errors.New("bookie is gone")
	tp.Fail = func() error { return boom }
	for _, q := range []string{"SELECT * FROM numbers", "SELECT sum(__value__) FROM numbers", "SELECT count(*) FROM numbers n JOIN orders o ON n.__value__ = o.id",
		"SELECT * FROM numbers ORDER BY 1"} {
		if _, err := ask(newEngine(tp), engine.Session{}, q); code(err) != "PULSAR_READ_ERROR" || !errors.Is(err, boom) {
			t.Errorf("%s: %v", q, err)
		}
	}
}

func TestCancelEndsAStatement(t *testing.T) {
	tp := querytest.New()
	fill(tp)
	ctx, cancel := context.WithCancel(context.Background())
	tp.Fail = func() error { cancel(); return nil } // in the midst of reading
	for _, q := range []string{"SELECT count(DISTINCT __value__) FROM numbers", "SELECT a.__value__ FROM numbers a CROSS JOIN numbers b ORDER BY 1"} {
		r, err := newEngine(tp).Execute(ctx, engine.Session{}, q)
		if err == nil {
			_, err = r.Next()
			r.Close()
		}
		if code(err) != "USER_CANCELED" {
			t.Errorf("%s: %v", q, err)
		}
	}
}

func TestMemoryIsLimited(t *testing.T) {
	tp := querytest.New()
	fill(tp)
	e := engine.New(engine.Config{Catalog: tp, Topics: tp, MemoryLimit: 192 << 10})
	for _, q := range []string{"SELECT __value__, __message_id__, count(*) FROM numbers GROUP BY 1, 2", "SELECT a.*, b.* FROM numbers a, numbers b WHERE a.__value__ = b.__value__",
		"SELECT * FROM numbers ORDER BY __message_id__", "SELECT DISTINCT __message_id__ FROM numbers", "SELECT array_agg(__message_id__) FROM numbers",
		"SELECT count(DISTINCT __message_id__) FROM numbers", "SELECT 1 WHERE '(1)' IN (SELECT __message_id__ FROM numbers)",
		"SELECT __message_id__ FROM numbers EXCEPT SELECT __message_id__ FROM numbers"} {
		if _, err := ask(e, engine.Session{}, q); code(err) != "EXCEEDED_LOCAL_MEMORY_LIMIT" {
			t.Errorf("%s: %v", q, err)
		}
	}
	// What fits after cutting fits.
	if got := rowsOf(t, e, "SELECT __value__ FROM numbers ORDER BY __value__ DESC LIMIT 2"); !slices.Equal(got, []string{"4999", "4998"}) {
		t.Errorf("%v", got)
	}
}

// Neither large messages nor functions that make large texts fill the memory: batches are cut by bytes, and
// what a function makes for one batch is bounded.
func TestLargeTextsAreBounded(t *testing.T) {
	tp := querytest.New()
	tp.Add(ns, "large", 0, &catalog.Schema{Type: "STRING"})
	for range 40 {
		tp.Publish(ns, "large", 0, message.Header{ProducerName: "p", PublishTime: 1}, message.Outgoing{Value: make([]byte, 1<<20)})
	}
	e := newEngine(tp)
	r, err := e.Execute(context.Background(), engine.Session{}, "SELECT __value__ FROM large")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rows := 0
	for {
		b, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if rows += b.Len; b.Len > 5 {
			t.Fatalf("a batch of %d MiB", b.Len)
		}
	}
	if rows != 40 {
		t.Errorf("%d rows", rows)
	}
	fill(tp)
	if _, err := ask(e, engine.Session{}, "SELECT length(repeat(CAST(__value__ AS varchar), 300000)) FROM numbers"); code(err) != "EXCEEDED_LOCAL_MEMORY_LIMIT" {
		t.Errorf("%v", err)
	}
}

// More rows than are sorted at once: what is cut away on the way never belonged to the first rows.
func TestTopOfManyRows(t *testing.T) {
	tp := querytest.New()
	tp.Add(ns, "many", 2, querytest.JSONSchema("a", "int", "b", "long"))
	type row struct {
		a *int
		b int
	}
	var rows []row
	for i := 0; i < 30_000; i += 500 {
		var ms []message.Outgoing
		for k := i; k < i+500; k++ {
			x := uint64(k) * 0x9E3779B97F4A7C15 >> 20
			r := row{b: int(x % 1_000_003)}
			js := fmt.Sprintf(`{"b":%d}`, r.b)
			if x%97 != 0 {
				a := int(x / 7 % 50)
				r.a = &a
				js = fmt.Sprintf(`{"a":%d,"b":%d}`, a, r.b)
			}
			rows = append(rows, r)
			ms = append(ms, message.Outgoing{Value: []byte(js)})
		}
		tp.PublishBatch(ns, "many", i/500%2, message.Header{ProducerName: "p", PublishTime: 1}, ms)
	}
	for order, less := range map[string]func(x, y row) int{
		"a DESC NULLS FIRST, b": func(x, y row) int {
			switch {
			case (x.a == nil) != (y.a == nil):
				return map[bool]int{true: -1, false: 1}[x.a == nil]
			case x.a != nil && *x.a != *y.a:
				return *y.a - *x.a
			}
			return x.b - y.b
		},
		"b DESC, a": func(x, y row) int {
			switch {
			case x.b != y.b:
				return y.b - x.b
			case (x.a == nil) != (y.a == nil):
				return map[bool]int{true: 1, false: -1}[x.a == nil]
			case x.a != nil:
				return *x.a - *y.a
			}
			return 0
		},
	} {
		want := slices.Clone(rows)
		slices.SortFunc(want, less)
		var text []string
		for _, r := range want[100:400] {
			a := "NULL"
			if r.a != nil {
				a = fmt.Sprint(*r.a)
			}
			text = append(text, fmt.Sprintf("%s | %d", a, r.b))
		}
		if got := rowsOf(t, newEngine(tp), "SELECT a, b FROM many ORDER BY "+order+" OFFSET 100 LIMIT 300"); !slices.Equal(got, text) {
			t.Errorf("%s: %v, want %v", order, got[:5], text[:5])
		}
	}
	if got := rowsOf(t, newEngine(tp), "SELECT count(*), count(DISTINCT b) FROM (SELECT b FROM many ORDER BY b)"); !strings.HasPrefix(got[0], "30000 | ") {
		t.Errorf("%v", got)
	}
}

type only string

func (o only) CanRead(_ context.Context, user, topic string) (bool, error) {
	return user == string(o) && topic == "persistent://public/default/orders", nil
}

func TestAuthorizerIsAsked(t *testing.T) {
	tp := querytest.New()
	fill(tp)
	e := engine.New(engine.Config{Catalog: tp, Topics: tp, Authorizer: only("ann")})
	if _, err := ask(e, engine.Session{User: "bob"}, "SELECT * FROM orders"); code(err) != "PERMISSION_DENIED" {
		t.Errorf("bob: %v", err)
	}
	if _, err := ask(e, engine.Session{User: "ann"}, "SELECT * FROM orders"); err != nil {
		t.Errorf("ann: %v", err)
	}
	if _, err := ask(e, engine.Session{User: "ann"}, "SELECT * FROM orders o JOIN words w ON w.__value__ = o.merchant"); code(err) != "PERMISSION_DENIED" {
		t.Errorf("ann joins words: %v", err)
	}
}

// Avro messages are read with the schema they were written with, and shown with the last one.
func TestAvroSchemaEvolves(t *testing.T) {
	tp := querytest.New()
	avro := func(fields string) *catalog.Schema {
		return &catalog.Schema{Type: "AVRO", Data: []byte(`{"type":"record","name":"R","fields":[` + fields + `]}`)}
	}
	tp.Add(ns, "avro", 0, avro(`{"name":"a","type":"int"}`))
	tp.Evolve(ns, "avro", avro(`{"name":"b","type":"string"},{"name":"a","type":"int"}`))
	pub := func(version byte, v []byte) {
		tp.Publish(ns, "avro", 0, message.Header{ProducerName: "p", PublishTime: 1, SchemaVersion: []byte{0, 0, 0, 0, 0, 0, 0, version}}, message.Outgoing{Value: v})
	}
	pub(0, []byte{2})
	pub(1, []byte{2, 'x', 4})
	pub(1, []byte{200})
	out, err := ask(newEngine(tp), engine.Session{}, "SELECT a, b FROM avro")
	if want := "a integer | b varchar\n1 | NULL\n2 | x\nNULL | NULL\nwarning: 1 messages could not be decoded"; err != nil || !strings.HasPrefix(out, want) {
		t.Errorf("%s %v", out, err)
	}
}

// Aggregates, grouping, ordering and limits agree with an obvious model, in one or several workers.
func TestAggregatesAgreeWithAModel(t *testing.T) {
	type rec struct {
		g *string
		n *int64
		d *float64
	}
	rapid.Check(t, func(t *rapid.T) {
		tp := querytest.New()
		parts := rapid.IntRange(1, 3).Draw(t, "partitions")
		tp.Add(ns, "t", parts, querytest.JSONSchema("g", "string", "n", "long", "d", "double"))
		recs := make([]rec, rapid.IntRange(0, 400).Draw(t, "rows"))
		var batch []message.Outgoing
		flush := func() {
			if len(batch) > 0 {
				tp.PublishBatch(ns, "t", rapid.IntRange(0, parts-1).Draw(t, "partition"), message.Header{ProducerName: "p", PublishTime: 1,
					Compression: message.Compression(rapid.IntRange(0, 4).Draw(t, "compression"))}, batch)
				batch = nil
			}
		}
		seed := rapid.Int64().Draw(t, "seed")
		for i := range recs {
			x := uint64(seed) + uint64(i)*0x9E3779B97F4A7C15
			x ^= x >> 31
			js := "{"
			if x%11 != 0 {
				g := fmt.Sprintf("g%d", x/11%7)
				recs[i].g = &g
				js += fmt.Sprintf(`"g":%q`, g)
			} else {
				js += `"g":null`
			}
			if x%5 != 0 {
				n := int64(x/77%2000) - 1000
				recs[i].n = &n
				js += fmt.Sprintf(`,"n":%d`, n)
			}
			if x%7 != 0 {
				d := float64(int64(x/1001%4000)-2000) / 4 // exact in any order of addition
				recs[i].d = &d
				js += fmt.Sprintf(`,"d":%v`, d)
			}
			batch = append(batch, message.Outgoing{Value: []byte(js + "}")})
			if len(batch) == 3 {
				flush()
			}
		}
		flush()
		type agg struct {
			rows, cnt, sum, lo, hi int64
			dsum                   float64
			dcnt                   int64
			set                    map[int64]bool
		}
		model := map[string]*agg{}
		var all []int64
		for _, r := range recs {
			k := "NULL"
			if r.g != nil {
				k = *r.g
			}
			a := model[k]
			if a == nil {
				a = &agg{lo: math.MaxInt64, hi: math.MinInt64, set: map[int64]bool{}}
				model[k] = a
			}
			a.rows++
			if r.n != nil {
				a.cnt++
				a.sum += *r.n
				a.lo, a.hi = min(a.lo, *r.n), max(a.hi, *r.n)
				a.set[*r.n] = true
				all = append(all, *r.n)
			}
			if r.d != nil {
				a.dsum += *r.d
				a.dcnt++
			}
		}
		var want []string
		for k, a := range model {
			n := "NULL | NULL | NULL"
			if a.cnt > 0 {
				n = fmt.Sprintf("%d | %d | %d", a.sum, a.lo, a.hi)
			}
			d := "NULL"
			if a.dcnt > 0 {
				d = fmt.Sprint(a.dsum * 4)
			}
			want = append(want, fmt.Sprintf("%s | %d | %d | %s | %s | %d", k, a.rows, a.cnt, n, d, len(a.set)))
		}
		sort.Slice(want, func(i, j int) bool {
			a, b := strings.SplitN(want[i], " ", 2)[0], strings.SplitN(want[j], " ", 2)[0]
			return a != "NULL" && (b == "NULL" || a < b)
		})
		sort.Slice(all, func(i, j int) bool { return all[i] > all[j] })
		skip, take := rapid.IntRange(0, 20).Draw(t, "offset"), rapid.IntRange(0, 20).Draw(t, "limit")
		var top []string
		for _, n := range all[min(skip, len(all)):min(skip+take, len(all))] {
			top = append(top, fmt.Sprint(n))
		}
		for _, workers := range []int{1, 3} {
			e := engine.New(engine.Config{Catalog: tp, Topics: tp, Workers: workers})
			for _, distinct := range []string{"count(DISTINCT n)", "cardinality(array_agg(DISTINCT n))"} {
				if distinct[0] == 'c' && distinct[1] == 'a' {
					distinct = "coalesce(" + distinct + ", 0)"
				}
				out, err := ask(e, engine.Session{}, "SELECT g, count(*), count(n), sum(n), min(n), max(n), CAST(sum(d) * 4 AS bigint), "+distinct+" FROM t GROUP BY g ORDER BY g")
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")[1:]; !slices.Equal(got, want) {
					t.Fatalf("%d workers\n%s\nwant\n%s", workers, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
			out, err := ask(e, engine.Session{}, fmt.Sprintf("SELECT n FROM t WHERE n IS NOT NULL ORDER BY n DESC OFFSET %d LIMIT %d", skip, take))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")[1:]; !slices.Equal(got, top) {
				t.Fatalf("top: %v, want %v", got, top)
			}
		}
	})
}

// Joins agree with nested loops over the same rows.
func TestJoinsAgreeWithAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		side := func(name string) []*int {
			var out []*int
			for range rapid.IntRange(1, 12).Draw(t, name) {
				if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
					out = append(out, nil)
				} else {
					v := rapid.IntRange(0, 4).Draw(t, "v")
					out = append(out, &v)
				}
			}
			return out
		}
		text := func(v *int) string {
			if v == nil {
				return "NULL"
			}
			return fmt.Sprint(*v)
		}
		values := func(vs []*int) string {
			var s []string
			for _, v := range vs {
				s = append(s, "CAST("+text(v)+" AS integer)")
			}
			return "(VALUES " + strings.Join(s, ", ") + ")"
		}
		l, r := side("left"), side("right")
		residual := rapid.Bool().Draw(t, "residual")
		match := func(a, b *int) bool { return a != nil && b != nil && *a == *b && (!residual || *a+*b > 4) }
		e := engine.New(engine.Config{Catalog: querytest.New(), Topics: querytest.New()})
		for _, kind := range []string{"INNER", "LEFT", "RIGHT", "FULL"} {
			var want []string
			usedR := make([]bool, len(r))
			for _, a := range l {
				used := false
				for k, b := range r {
					if match(a, b) {
						want = append(want, text(a)+" | "+text(b))
						used, usedR[k] = true, true
					}
				}
				if !used && (kind == "LEFT" || kind == "FULL") {
					want = append(want, text(a)+" | NULL")
				}
			}
			for k, b := range r {
				if !usedR[k] && (kind == "RIGHT" || kind == "FULL") {
					want = append(want, "NULL | "+text(b))
				}
			}
			on := "a.x = b.x"
			if residual {
				on += " AND a.x + b.x > 4"
			}
			for _, cond := range []string{on, strings.Replace(on, "a.x = b.x", "(a.x <= b.x AND a.x >= b.x)", 1)} { // with keys, and without
				out, err := ask(e, engine.Session{}, "SELECT a.x, b.x FROM "+values(l)+" a(x) "+kind+" JOIN "+values(r)+" b(x) ON "+cond)
				if err != nil {
					t.Fatal(err)
				}
				got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")[1:]
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("%s JOIN ON %s of %s and %s\n%v, want\n%v", kind, cond, values(l), values(r), got, want)
				}
			}
		}
	})
}

// The truth tables of three-valued logic, over columns and not only over constants.
func TestThreeValuedLogic(t *testing.T) {
	e := engine.New(engine.Config{Catalog: querytest.New(), Topics: querytest.New()})
	vals := []string{"TRUE", "FALSE", "NULL"}
	and := func(a, b string) string {
		switch {
		case a == "FALSE" || b == "FALSE":
			return "false"
		case a == "NULL" || b == "NULL":
			return "NULL"
		}
		return "true"
	}
	neg := map[string]string{"TRUE": "FALSE", "FALSE": "TRUE", "NULL": "NULL"}
	not := map[string]string{"true": "false", "false": "true", "NULL": "NULL"}
	var rows, want []string
	for _, a := range vals {
		for _, b := range vals {
			rows = append(rows, "(CAST("+a+" AS boolean), CAST("+b+" AS boolean))")
			want = append(want, strings.Join([]string{and(a, b), not[and(neg[a], neg[b])], strings.ToLower(neg[a])}, " | "))
		}
	}
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "null", "NULL")
	}
	got := rowsOf(t, e, "SELECT a AND b, a OR b, NOT a FROM (VALUES "+strings.Join(rows, ", ")+") t(a, b)")
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	// A condition that is NULL keeps no row, CASE takes no branch, HAVING no group.
	for q, want := range map[string]int{
		"SELECT 1 FROM (VALUES 1, NULL) t(x) WHERE x = 1":                1,
		"SELECT 1 FROM (VALUES 1, NULL) t(x) WHERE NOT x = 1":            0,
		"SELECT 1 FROM (VALUES 1, NULL) t(x) WHERE x IN (2, NULL)":       0,
		"SELECT 1 FROM (VALUES 1, 2) t(x) WHERE x NOT IN (2, NULL)":      0,
		"SELECT x FROM (VALUES 1, NULL) t(x) GROUP BY x HAVING x > 0":    1,
		"SELECT x FROM (VALUES 1, NULL, NULL) t(x) GROUP BY x":           2,
		"SELECT 1 FROM (VALUES 1, NULL) t(x) WHERE x IS DISTINCT FROM 1": 1,
	} {
		out, err := ask(e, engine.Session{}, q)
		if n := strings.Count(out, "\n") - 1; err != nil || n != want {
			t.Errorf("%s: %d rows, want %d (%v)", q, n, want, err)
		}
	}
}
