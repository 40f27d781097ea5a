package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/query/catalog"
	"github.com/daybook/daybook/query/client"
	"github.com/daybook/daybook/query/engine"
	"github.com/daybook/daybook/query/internal/querytest"
	"github.com/daybook/daybook/query/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// topics makes a topic "big" of n JSON messages in batches of 100, and "dirty" with one bad message.
func topics(n int) *querytest.Topics {
	t := querytest.New()
	ns := catalog.DefaultSchema
	t.Add(ns, "big", 0, querytest.JSONSchema("i", "long", "s", "string"))
	for i := 0; i < n; i += 100 {
		var ms []message.Outgoing
		for k := i; k < min(i+100, n); k++ {
			ms = append(ms, message.Outgoing{Value: fmt.Appendf(nil, `{"i":%d,"s":"row \"%d\" %s"}`, k, k, strings.Repeat("x", 40))})
		}
		t.PublishBatch(ns, "big", 0, message.Header{ProducerName: "p", PublishTime: 1}, ms)
	}
	t.Add(ns, "dirty", 0, querytest.JSONSchema("i", "long"))
	t.Publish(ns, "dirty", 0, message.Header{ProducerName: "p", PublishTime: 1}, message.Outgoing{Value: []byte("{")})
	return t
}

func start(t *testing.T, tp *querytest.Topics, cfg server.Config) (*httptest.Server, *client.Client) {
	t.Helper()
	cfg.Engine = engine.New(engine.Config{Catalog: tp, Topics: tp, Version: "9"})
	s := server.New(cfg)
	h := httptest.NewServer(s)
	t.Cleanup(func() { h.Close(); s.Close() })
	return h, &client.Client{Server: h.URL, HTTP: h.Client(), User: "ann"}
}

func all(t *testing.T, c *client.Client, sql string) [][]any {
	t.Helper()
	r, err := c.Execute(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer r.Close()
	var out [][]any
	for {
		row, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		out = append(out, row)
	}
}

func TestRowsComeInPages(t *testing.T) {
	t.Parallel()
	_, c := start(t, topics(50_000), server.Config{})
	rows := all(t, c, "SELECT i, s FROM big")
	if len(rows) != 50_000 {
		t.Fatalf("%d rows", len(rows))
	}
	for i, r := range rows {
		if r[0].(json.Number).String() != fmt.Sprint(i) || !strings.HasPrefix(r[1].(string), fmt.Sprintf(`row "%d" x`, i)) {
			t.Fatalf("row %d: %v", i, r)
		}
	}
}

func TestTypesAreEncodedAsTrinoDoes(t *testing.T) {
	t.Parallel()
	h, c := start(t, topics(0), server.Config{})
	r, err := c.Execute(t.Context(), `SELECT 1, 1.50, 2.5e0, nan(), 'ä"', X'CAFE', true, NULL, DATE '2024-02-29', TIMESTAMP '2024-02-29 01:02:03.004',
		ARRAY[1, NULL], ROW(1, 'x'), TIMESTAMP '2024-01-01 00:00:00 UTC', CAST(1 AS bigint)`)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	row, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(row)
	want := `[1,"1.50",2.5,"NaN","ä\"","yv4=",true,null,"2024-02-29","2024-02-29 01:02:03.004",[1,null],[1,"x"],"2024-01-01 00:00:00.000 UTC",1]`
	if string(got) != want {
		t.Errorf("row\n %s, want\n %s", got, want)
	}
	var types []string
	for _, col := range r.Columns() {
		types = append(types, col.Type)
	}
	if s := strings.Join(types, " "); s != "integer decimal(3,2) double double varchar varbinary boolean unknown date timestamp(3) array(integer) row(integer, varchar) timestamp(3) with time zone bigint" {
		t.Errorf("types %s", s)
	}
	// The signature that drivers go by.
	p := step(t, h, post(t, h, `SELECT CAST(1.5 AS decimal(10,2)), 'x'`).NextURI)
	b, _ := json.Marshal(p.Columns)
	if want := `[{"name":"_col0","type":"decimal(10,2)","typeSignature":{"arguments":[{"kind":"LONG","value":10},{"kind":"LONG","value":2}],"rawType":"decimal"}},` +
		`{"name":"_col1","type":"varchar","typeSignature":{"arguments":[{"kind":"LONG","value":2147483647}],"rawType":"varchar"}}]`; string(b) != want {
		t.Errorf("columns %s", b)
	}
}

type page struct {
	ID      string           `json:"id"`
	NextURI string           `json:"nextUri"`
	Columns []map[string]any `json:"columns"`
	Data    [][]any          `json:"data"`
	Error   *struct {
		Message, ErrorName, ErrorType string
		ErrorCode                     int
		ErrorLocation                 struct{ LineNumber, ColumnNumber int }
	} `json:"error"`
	Stats struct{ State string } `json:"stats"`
}

func do(t *testing.T, h *httptest.Server, method, url, body string, headers ...string) (*http.Response, page) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := h.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p page
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(b, &p); err != nil {
			t.Fatalf("%s %s: %v in %s", method, url, err, b)
		}
	}
	return resp, p
}

func post(t *testing.T, h *httptest.Server, sql string) page {
	t.Helper()
	resp, p := do(t, h, http.MethodPost, h.URL+"/v1/statement", sql, "X-Trino-User", "ann")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s", resp.Status)
	}
	return p
}

// step asks until there are columns, an error or the end.
func step(t *testing.T, h *httptest.Server, url string) page {
	t.Helper()
	for {
		resp, p := do(t, h, http.MethodGet, url, "")
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s", resp.Status)
		}
		if p.Columns != nil || p.Error != nil || p.NextURI == "" {
			return p
		}
		url = p.NextURI
	}
}

func TestTokenIsIdempotentUntilTheNext(t *testing.T) {
	t.Parallel()
	h, _ := start(t, topics(50_000), server.Config{})
	first := post(t, h, "SELECT * FROM big")
	_, a := do(t, h, http.MethodGet, first.NextURI, "")
	_, b := do(t, h, http.MethodGet, first.NextURI, "")
	if len(a.Data) == 0 || len(a.Data) != len(b.Data) || fmt.Sprint(a.Data[0]) != fmt.Sprint(b.Data[0]) || a.NextURI != b.NextURI {
		t.Fatalf("pages of one token differ: %d and %d rows", len(a.Data), len(b.Data))
	}
	_, c := do(t, h, http.MethodGet, a.NextURI, "")
	if len(c.Data) == 0 || fmt.Sprint(c.Data[0]) == fmt.Sprint(a.Data[0]) {
		t.Fatal("second page repeats the first")
	}
	if resp, _ := do(t, h, http.MethodGet, first.NextURI, ""); resp.StatusCode != http.StatusGone {
		t.Errorf("old token: %s", resp.Status)
	}
	if resp, _ := do(t, h, http.MethodGet, c.NextURI+"9", ""); resp.StatusCode != http.StatusGone {
		t.Errorf("token far ahead: %s", resp.Status)
	}
	if resp, _ := do(t, h, http.MethodGet, strings.Replace(c.NextURI, first.ID, "nope", 1), ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown query: %s", resp.Status)
	}
	if resp, _ := do(t, h, http.MethodDelete, c.NextURI, ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("delete: %s", resp.Status)
	}
	if resp, _ := do(t, h, http.MethodGet, c.NextURI, ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("after delete: %s", resp.Status)
	}
}

// Clients from before Trino had precisions get the plain names.
func TestTimesAreNamedAsTheClientKnowsThem(t *testing.T) {
	t.Parallel()
	h, _ := start(t, topics(0), server.Config{})
	const sql = "SELECT TIMESTAMP '2024-01-01 00:00:00'"
	if p := step(t, h, post(t, h, sql).NextURI); p.Columns[0]["type"] != "timestamp" {
		t.Errorf("%v", p.Columns)
	}
	_, p := do(t, h, http.MethodPost, h.URL+"/v1/statement", sql, "X-Trino-User", "ann", "X-Trino-Client-Capabilities", "PATH,PARAMETRIC_DATETIME")
	if p = step(t, h, p.NextURI); p.Columns[0]["type"] != "timestamp(3)" {
		t.Errorf("%v", p.Columns)
	}
}

func TestErrorsCarryNameCodeAndPlace(t *testing.T) {
	t.Parallel()
	h, c := start(t, topics(10), server.Config{})
	p := step(t, h, post(t, h, "SELECT i,\n  nope FROM big").NextURI)
	e := p.Error
	if e == nil || e.ErrorName != "COLUMN_NOT_FOUND" || e.ErrorCode != 47 || e.ErrorType != "USER_ERROR" || e.ErrorLocation.LineNumber != 2 || e.ErrorLocation.ColumnNumber != 3 {
		t.Fatalf("%+v", e)
	}
	_, err := c.Execute(t.Context(), "SELEC 1")
	if ce, ok := errors.AsType[*client.Error](err); !ok || ce.Name != "SYNTAX_ERROR" || ce.Location.Column != 1 {
		t.Errorf("%v", err)
	}
	// A failure in the middle.
	r, err := c.Execute(t.Context(), "SELECT 1 / (i - 5) FROM big")
	if err == nil {
		_, err = r.Next()
	}
	if ce, ok := errors.AsType[*client.Error](err); !ok || ce.Name != "DIVISION_BY_ZERO" {
		t.Errorf("%v", err)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	h, _ := start(t, topics(0), server.Config{})
	for name, c := range map[string]struct {
		body   string
		header []string
		want   int
	}{
		"no user":      {"SELECT 1", nil, 400},
		"empty":        {" ", []string{"X-Trino-User", "a"}, 400},
		"too long":     {strings.Repeat("x", 1<<20+1), []string{"X-Trino-User", "a"}, 413},
		"bad session":  {"SELECT 1", []string{"X-Trino-User", "a", "X-Trino-Session", "x"}, 400},
		"presto names": {"SELECT 1", []string{"X-Presto-User", "a"}, 200},
	} {
		if resp, _ := do(t, h, http.MethodPost, h.URL+"/v1/statement", c.body, c.header...); resp.StatusCode != c.want {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
}

func TestSessionIsKeptByTheClient(t *testing.T) {
	t.Parallel()
	tp := topics(10)
	tp.Add("acme/prod", "only", 0, nil)
	_, c := start(t, tp, server.Config{})
	all(t, c, `USE pulsar."acme/prod"`)
	if rows := all(t, c, "SHOW TABLES"); len(rows) != 1 || rows[0][0] != "only" {
		t.Errorf("tables %v", rows)
	}
	all(t, c, `USE "public/default"`)
	all(t, c, "PREPARE p FROM SELECT i FROM big WHERE i > ? ORDER BY i")
	if rows := all(t, c, "EXECUTE p USING 7"); len(rows) != 2 {
		t.Errorf("prepared: %v", rows)
	}
	all(t, c, "DEALLOCATE PREPARE p")
	if _, err := c.Execute(t.Context(), "EXECUTE p USING 7"); err == nil {
		t.Error("deallocated statement runs")
	}
	all(t, c, "SET TIME ZONE 'Europe/Vienna'")
	if rows := all(t, c, "SELECT current_timezone()"); rows[0][0] != "Europe/Vienna" {
		t.Errorf("zone %v", rows)
	}
	all(t, c, "SET SESSION query_max_run_time = '1h'")
	if rows := all(t, c, "SHOW SESSION"); rows[0][1] != "1h" {
		t.Errorf("session %v", rows)
	}
}

func TestWarningsReachTheClient(t *testing.T) {
	t.Parallel()
	_, c := start(t, topics(0), server.Config{})
	r, err := c.Execute(t.Context(), "SELECT i FROM dirty")
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
	}
	if w := r.Warnings(); err != io.EOF || len(w) != 1 || !strings.Contains(w[0], "1 messages could not be decoded") {
		t.Errorf("%v %v", err, w)
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	h, _ := start(t, topics(0), server.Config{})
	for path, want := range map[string]string{"/v1/info": `"coordinator":true`, "/v1/info/state": `"ACTIVE"`} {
		resp, err := h.Client().Get(h.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(b), want) {
			t.Errorf("%s: %s", path, b)
		}
	}
}

func TestTooManyQueriesAreRefused(t *testing.T) {
	t.Parallel()
	h, _ := start(t, topics(50_000), server.Config{MaxQueries: 1})
	p := post(t, h, "SELECT * FROM big")
	if resp, _ := do(t, h, http.MethodPost, h.URL+"/v1/statement", "SELECT 1", "X-Trino-User", "a"); resp.StatusCode != 503 {
		t.Errorf("second query: %s", resp.Status)
	}
	if resp, _ := do(t, h, http.MethodDelete, h.URL+"/v1/query/"+p.ID, ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("kill: %s", resp.Status)
	}
	// Statements that have ended hold no place.
	for range 50 {
		if p := step(t, h, post(t, h, "SELECT 1").NextURI); len(p.Data) != 1 {
			t.Fatalf("%+v", p)
		}
	}
}

// A client that goes away leaves nothing behind: the query ends, and its place is free again.
func TestAbandonedQueryEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := topics(50_000)
		s := server.New(server.Config{Engine: engine.New(engine.Config{Catalog: tp, Topics: tp}), MaxQueries: 1, Abandon: time.Minute})
		defer s.Close()
		ask := func(sql string) int {
			r := httptest.NewRequest(http.MethodPost, "/v1/statement", strings.NewReader(sql))
			r.Header.Set("X-Trino-User", "a")
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			return w.Code
		}
		if c := ask("SELECT * FROM big"); c != 200 {
			t.Fatal(c)
		}
		synctest.Wait() // it waits for its client now, two pages ahead
		if c := ask("SELECT 1"); c != 503 {
			t.Fatalf("place is free at once: %d", c)
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if c := ask("SELECT 1"); c != 200 {
			t.Fatalf("abandoned query still holds its place: %d", c)
		}
	})
}

func TestClosingTheServerEndsQueries(t *testing.T) {
	t.Parallel()
	tp := topics(50_000)
	s := server.New(server.Config{Engine: engine.New(engine.Config{Catalog: tp, Topics: tp})})
	h := httptest.NewServer(s)
	defer h.Close()
	p := post(t, h, "SELECT * FROM big")
	s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for url := p.NextURI; url != "" && ctx.Err() == nil; {
		resp, n := do(t, h, http.MethodGet, url, "")
		if resp.StatusCode != 200 || n.Error != nil {
			return
		}
		url = n.NextURI
	}
	t.Error("query went on to its end")
}
