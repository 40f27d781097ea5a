// Package server speaks Trino's REST protocol over an engine: POST /v1/statement, GET and DELETE of
// nextUri, DELETE /v1/query/{id}, /v1/info and /v1/info/state, with X-Trino- or X-Presto- headers
// (https://trino.io/docs/current/develop/client-protocol.html). Pulsar SQL's own clients speak it.
//
// A token of nextUri may be asked for again until the next one has been: the same page comes again; older
// ones are 410 Gone. A page waits up to a second for rows and holds about a mebibyte of them.
//
// # Goroutines
//
// Each running query has one goroutine, which pulls rows and encodes pages; it is at most two pages ahead
// of its client. A query whose client has not asked for five minutes ends. Close ends all and waits.
package server

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/daybook/daybook/query/engine"
	"github.com/daybook/daybook/query/internal/sqlerr"
)

const (
	maxStatement = 1 << 20
	pageBytes    = 1 << 20
	pagesAhead   = 2
	keepDone     = 32
	longPoll     = time.Second
)

// Config says how a Server serves. Engine is needed.
type Config struct {
	Engine *engine.Engine
	// User decides who asks, from the request and the user that it names; nil takes the name as it is.
	User func(r *http.Request, named string) (string, error)
	// MaxQueries is how many queries may be open; 0: 100.
	MaxQueries int
	// Abandon is after how long without a request a query ends; 0: 5 minutes.
	Abandon time.Duration
}

// A Server is an http.Handler for the paths under /v1/.
type Server struct {
	cfg    Config
	mux    *http.ServeMux
	start  time.Time
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		queries map[string]*query
		active  int      // queries whose last page has not been given out
		done    []*query // the others, oldest first: their last page may be asked for again
		seq     int
		closed  bool
	}
}

// New makes a server; Close ends it.
func New(cfg Config) *Server {
	if cfg.MaxQueries <= 0 {
		cfg.MaxQueries = 100
	}
	if cfg.Abandon <= 0 {
		cfg.Abandon = 5 * time.Minute
	}
	s := &Server{cfg: cfg, mux: http.NewServeMux(), start: time.Now()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.queries = map[string]*query{}
	s.mux.HandleFunc("POST /v1/statement", s.post)
	s.mux.HandleFunc("GET /v1/statement/{phase}/{id}/{slug}/{token}", s.get)
	s.mux.HandleFunc("DELETE /v1/statement/{phase}/{id}/{slug}/{token}", s.delete)
	s.mux.HandleFunc("DELETE /v1/query/{id}", s.kill)
	s.mux.HandleFunc("GET /v1/info", s.info)
	s.mux.HandleFunc("GET /v1/info/state", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, "ACTIVE") })
	return s
}

// ServeHTTP serves a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Close cancels all queries and waits for them.
func (s *Server) Close() {
	s.mu.Lock()
	s.mu.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // an error here is the client's connection
}

func (s *Server) info(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{
		"nodeVersion": map[string]string{"version": s.cfg.Engine.Version()},
		"environment": "daybook", "coordinator": true, "starting": false,
		"uptime": fmt.Sprintf("%.2fs", time.Since(s.start).Seconds()),
	})
}

// header gives a protocol header under either of its names, with all its values joined by commas.
func header(r *http.Request, name string) string {
	for _, p := range []string{"X-Trino-", "X-Presto-"} {
		if v := r.Header.Values(p + name); len(v) > 0 {
			return strings.Join(v, ",")
		}
	}
	return ""
}

// pairs reads name=value,name=value with values encoded as in URLs.
func pairs(h string) (map[string]string, error) {
	out := map[string]string{}
	for kv := range strings.SplitSeq(h, ",") {
		if kv = strings.TrimSpace(kv); kv == "" {
			continue
		}
		k, v, ok := strings.Cut(kv, "=")
		name, err1 := url.QueryUnescape(strings.TrimSpace(k))
		val, err2 := url.QueryUnescape(strings.TrimSpace(v))
		if !ok || err1 != nil || err2 != nil {
			return nil, fmt.Errorf("invalid header value %q", kv)
		}
		out[name] = val
	}
	return out, nil
}

func (s *Server) session(r *http.Request) (engine.Session, error) {
	user := header(r, "User")
	if u, _, ok := r.BasicAuth(); ok && user == "" {
		user = u
	}
	if s.cfg.User != nil {
		var err error
		if user, err = s.cfg.User(r, user); err != nil {
			return engine.Session{}, err
		}
	}
	if user == "" {
		return engine.Session{}, errors.New("user must be set: header X-Trino-User")
	}
	props, err := pairs(header(r, "Session"))
	if err != nil {
		return engine.Session{}, err
	}
	prepared, err := pairs(header(r, "Prepared-Statement"))
	if err != nil {
		return engine.Session{}, err
	}
	zone := header(r, "Time-Zone")
	if z := props["time_zone_id"]; z != "" { // what SET TIME ZONE left in the session
		zone = z
	}
	return engine.Session{User: user, Catalog: strings.ToLower(header(r, "Catalog")), Schema: header(r, "Schema"), TimeZone: zone,
		Source: header(r, "Source"), Properties: props, Prepared: prepared}, nil
}

func (s *Server) post(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxStatement))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			http.Error(w, fmt.Sprintf("statement is longer than %d bytes", maxStatement), http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "statement cannot be read", http.StatusBadRequest)
		return
	}
	if len(strings.TrimSpace(string(body))) == 0 {
		http.Error(w, "SQL statement is empty", http.StatusBadRequest)
		return
	}
	sess, err := s.session(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	q, err := s.open(sess, &query{text: string(body), base: base(r),
		parametric: strings.Contains(header(r, "Client-Capabilities"), "PARAMETRIC_DATETIME")})
	if err != nil {
		w.Header().Set("Retry-After", "1")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	p := &page{state: "QUEUED", next: 1}
	q.write(w, p, 0)
}

// base is the address that the client used.
func base(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	if p := r.Header.Get("X-Forwarded-Proto"); p == "http" || p == "https" {
		scheme = p
	}
	return scheme + "://" + r.Host
}

var errFull = errors.New("too many queries are open; try again")

// open starts a query.
func (s *Server) open(sess engine.Session, q *query) (*query, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, errors.New("server is shutting down")
	}
	if s.mu.active >= s.cfg.MaxQueries {
		return nil, errFull
	}
	s.mu.seq++
	var slug [12]byte
	rand.Read(slug[:])
	q.s, q.id, q.slug = s, fmt.Sprintf("%s_%05d_dbook", s.start.UTC().Format("20060102_150405"), s.mu.seq), hex.EncodeToString(slug[:])
	q.pages, q.begun = make(chan *page, pagesAhead), time.Now()
	ctx, cancel := context.WithCancelCause(s.ctx)
	q.cancel = cancel
	q.timer = time.AfterFunc(s.cfg.Abandon, func() {
		s.forget(q, sqlerr.AbandonedQuery.Errorf("Query %s was abandoned by its client", q.id))
	})
	s.mu.queries[q.id] = q
	s.mu.active++
	s.wg.Go(func() { q.run(ctx, sess) })
	return q, nil
}

// forget ends a query and drops what is kept of it.
func (s *Server) forget(q *query, why error) {
	q.cancel(why)
	q.timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(q)
}

func (s *Server) dropLocked(q *query) {
	if s.mu.queries[q.id] != q {
		return
	}
	delete(s.mu.queries, q.id)
	if i := slices.Index(s.mu.done, q); i >= 0 {
		s.mu.done = slices.Delete(s.mu.done, i, i+1)
	} else {
		s.mu.active--
	}
}

// finished frees the place of a query whose last page was given out. The page may have to be given once
// more: the query is kept for a short while, among the last few.
func (s *Server) finished(q *query) {
	q.timer.Reset(min(s.cfg.Abandon, 30*time.Second))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.queries[q.id] != q || slices.Contains(s.mu.done, q) {
		return
	}
	s.mu.active--
	s.mu.done = append(s.mu.done, q)
	if len(s.mu.done) > keepDone {
		old := s.mu.done[0]
		old.timer.Stop()
		old.cancel(context.Canceled)
		s.dropLocked(old)
	}
}

func (s *Server) find(id string) *query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.queries[id]
}

func (s *Server) lookup(w http.ResponseWriter, r *http.Request) (*query, int) {
	q := s.find(r.PathValue("id"))
	if q == nil || subtle.ConstantTimeCompare([]byte(q.slug), []byte(r.PathValue("slug"))) == 0 {
		http.Error(w, "Query not found", http.StatusNotFound)
		return nil, 0
	}
	token, err := strconv.Atoi(r.PathValue("token"))
	if err != nil || token < 0 {
		http.Error(w, "Query not found", http.StatusNotFound)
		return nil, 0
	}
	q.timer.Reset(s.cfg.Abandon)
	return q, token
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	q, token := s.lookup(w, r)
	if q == nil {
		return
	}
	wait := longPoll
	if d, err := time.ParseDuration(r.URL.Query().Get("maxWait")); err == nil && d > 0 && d < wait {
		wait = d
	}
	p, ok := q.page(r.Context(), token, wait)
	if !ok {
		http.Error(w, "Token is gone", http.StatusGone)
		return
	}
	if p == nil {
		return // the client has gone away
	}
	if p.last {
		s.finished(q)
	}
	q.write(w, p, token)
}

func (s *Server) delete(w http.ResponseWriter, r *http.Request) {
	if q, _ := s.lookup(w, r); q != nil {
		s.forget(q, context.Canceled)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) kill(w http.ResponseWriter, r *http.Request) {
	if q := s.find(r.PathValue("id")); q != nil {
		s.forget(q, context.Canceled)
	}
	w.WriteHeader(http.StatusNoContent)
}
