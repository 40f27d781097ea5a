package filetree_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/filetree/filetreetest"
)

// Whatever is asked of the service, the answer is of the protocol and the fault is the caller's.
func FuzzService(f *testing.F) {
	n := filetreetest.New()
	n.Topic(filetreetest.Name("t")).Publish("one")
	s := filetree.NewService(newTree(f, n))
	const path = "path=/public/default/t"
	f.Add("GET", "", "", []byte(nil))
	f.Add("GET", "v1/stat", path, []byte(nil))
	f.Add("GET", "v1/list", "path=/&limit=-1", []byte(nil))
	f.Add("GET", "v1/read", path+"&off=0&len=4", []byte(nil))
	f.Add("GET", "v1/read", path+"&off=9223372036854775807&len=99999999999", []byte(nil))
	f.Add("GET", "v1/attributes", path+"@/ndjson", []byte(nil))
	f.Add("GET", "v1/watch", "id=a", []byte(nil))
	f.Add("POST", "v1/watch", "id=a", []byte(`{"add":[{"path":"/public/default/t","end":-1}],"remove":[""]}`))
	f.Add("POST", "v1/create", "path=/public/default/new", []byte(nil))
	f.Add("POST", "v1/append", path, []byte("\x00\x00\x00\x01x\x00\x00\x00\x00"))
	f.Add("POST", "v1/append", path, []byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, method, call, query string, body []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		if method == http.MethodGet && strings.HasSuffix(call, "watch") {
			cancel() // else the stream has no end
		}
		defer cancel()
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, filetree.ServicePrefix, strings.NewReader(string(body)))
		r.Method, r.URL.Path, r.URL.RawQuery = method, filetree.ServicePrefix+call, query
		r.Header.Set(filetree.VersionHeader, "1")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != http.StatusServiceUnavailable && w.Code != http.StatusNotImplemented {
			t.Fatalf("%s %s?%s %q: %d %s", method, call, query, body, w.Code, w.Body)
		}
		if w.Code >= 400 {
			var e struct {
				Errno  string
				Reason string
			}
			if json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Errno == "" {
				t.Fatalf("%s %s?%s: %d without an errno: %s", method, call, query, w.Code, w.Body)
			}
		}
	})
}

// Whatever answers in a server's place, what the client hands out is well formed and within what was asked for.
func FuzzClient(f *testing.F) {
	const attr = `{"ino":7,"end":4,"gen":1,"mtime_ms":1}`
	f.Add(200, attr, []byte("abcd"))
	f.Add(200, `{"ino":0}`, []byte(attr))
	f.Add(200, `{"ino":7,"base":9,"end":4}`, []byte(`{"entries":[{"name":"../x"}]}`))
	f.Add(200, ``, []byte(`{"entries":[{"name":"a","dir":true}],"more":true}`))
	f.Add(404, ``, []byte(`{"errno":"ENOENT","reason":"no such topic"}`))
	f.Add(500, ``, []byte(`{"errno":"ENOSUCH"}`))
	f.Add(200, attr, []byte(`{"acked":-1}`))
	var answer atomic.Pointer[http.HandlerFunc]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == filetree.ServicePrefix {
			io.WriteString(w, `{"service":"daybook-fs","versions":[1],"max_read":4194304,"max_append":16777216}`)
			return
		}
		(*answer.Load())(w, r)
	}))
	defer s.Close()
	c, err := filetree.NewClient(filetree.ClientConfig{URL: s.URL, Log: quiet})
	if err != nil {
		f.Fatal(err)
	}
	defer c.Close()
	f.Fuzz(func(t *testing.T, status int, header string, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		respond := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Daybook-Fs-Attr", header)
			w.WriteHeader(status)
			w.Write(body)
		})
		answer.Store(&respond)
		a, err := c.Stat(t.Context(), "/public/default/t")
		if err == nil && (a.Ino == 0 || a.End < a.Base) {
			t.Fatalf("attributes %+v", a)
		}
		entries, _, err := c.List(t.Context(), "/", "", 10)
		for _, e := range entries {
			if e.Name == "" || strings.Contains(e.Name, "/") {
				t.Fatalf("name %q in a directory", e.Name)
			}
		}
		got, _, err := c.ReadAt(t.Context(), []byte("head"), "/public/default/t", 0, 0, 16)
		if !strings.HasPrefix(string(got), "head") && err == nil || len(got) > 4+16 {
			t.Fatalf("%d bytes where 16 were asked for", len(got))
		}
		acked, err := c.Append(t.Context(), "/public/default/t", [][]byte{[]byte("x"), []byte("y")})
		if acked < 0 || acked > 2 || err == nil && acked != 2 {
			t.Fatalf("%d of 2 records acknowledged, %v", acked, err)
		}
	})
}
