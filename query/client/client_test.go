package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Whatever a server answers, each row has a value for each column, and an error ends the statement.
func FuzzPage(f *testing.F) {
	f.Add(`{"id":"q1","nextUri":"http://h/v1/q1/2","columns":[{"name":"a","type":"bigint"}],"data":[[1],[null]],"stats":{}}`, "a=b", "x")
	f.Add(`{"id":"q1","columns":[{"name":"a","type":"bigint"}],"data":[[1,2]]}`, "time_zone_id=UTC", "")
	f.Add(`{"id":"q1","data":[[1]]}`, "%zz=%", "")
	f.Add(`{"id":"q1","nextUri":"http://h/","error":{"message":"no","errorName":"SYNTAX_ERROR"},"warnings":[{"message":"w"}]}`, "=", "c")
	f.Add(`{"id":""}`, "", "")
	f.Add(`[`, "", "")
	f.Fuzz(func(t *testing.T, body, session, catalog string) {
		r := &Rows{c: &Client{}, ctx: context.Background()}
		h := http.Header{"X-Trino-Set-Session": {session}, "X-Trino-Clear-Session": {session}, "X-Trino-Added-Prepare": {session}, "X-Trino-Set-Catalog": {catalog}}
		err := r.take(h, []byte(body))
		if err != nil && r.next != "" {
			t.Fatalf("%q: goes on after %v", body, err)
		}
		r.next = "" // the next page is not asked for here
		for err == nil {
			var row []any
			if row, err = r.Next(); err == nil && len(row) != len(r.Columns()) {
				t.Fatalf("%q: row %v for columns %v", body, row, r.Columns())
			}
		}
	})
}

func TestPagesAreFollowedToTheEnd(t *testing.T) {
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page := map[string]string{
			"/v1/statement": `{"id":"q","nextUri":"URL/1"}`,
			"/1":            `{"id":"q","nextUri":"URL/2","columns":[{"name":"a","type":"varchar"}]}`,
			"/2":            `{"id":"q","nextUri":"URL/3","columns":[{"name":"a","type":"varchar"}],"data":[["x"],["y"]]}`,
			"/3":            `{"id":"q","data":[["z"]]}`,
		}[r.URL.Path]
		io.WriteString(w, strings.ReplaceAll(page, "URL", s.URL))
	}))
	defer s.Close()
	rows, err := (&Client{Server: s.URL}).Execute(t.Context(), "SELECT a")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got string
	for {
		row, err := rows.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got += row[0].(string)
	}
	if got != "xyz" {
		t.Errorf("rows are %q", got)
	}
}
