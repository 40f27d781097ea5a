package filetree

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// The service's place under a server's root, its versions and its limits.
const (
	ServicePrefix = "/daybook/fs/"
	// VersionHeader carries the version that a caller speaks. Every call that changes anything must have it, which
	// also keeps other sites' pages in a browser from making one.
	VersionHeader = "Daybook-Fs-Version"
	version1      = 1

	// MaxReadBytes is the most text of one read.
	MaxReadBytes = 4 << 20
	// MaxAppendBytes is the largest body of one append.
	MaxAppendBytes = 16 << 20
	maxWatchBody   = 4 << 20
	maxSessions    = 1024

	heartbeat    = 5 * time.Second
	writeTimeout = 15 * time.Second
)

// Headers of a read's answer.
const (
	attrHeader = "Daybook-Fs-Attr"
)

// The JSON forms of what the service says. They are version 1 of the protocol: fields are only added.
type (
	wireHello struct {
		Service   string `json:"service"`
		Versions  []int  `json:"versions"`
		MaxRead   int    `json:"max_read"`
		MaxAppend int    `json:"max_append"`
	}
	wireError struct {
		Errno  Errno  `json:"errno"`
		Reason string `json:"reason"`
	}
	wireAttr struct {
		Ino      uint64 `json:"ino"`
		Dir      bool   `json:"dir,omitempty"`
		Writable bool   `json:"writable,omitempty"`
		Base     int64  `json:"base,omitempty"`
		End      int64  `json:"end,omitempty"`
		Gen      uint64 `json:"gen,omitempty"`
		MtimeMS  int64  `json:"mtime_ms"`
		BtimeMS  int64  `json:"btime_ms"`
	}
	wireEntry struct {
		Name string `json:"name"`
		Dir  bool   `json:"dir,omitempty"`
	}
	wireList struct {
		Entries []wireEntry `json:"entries"`
		More    bool        `json:"more,omitempty"`
	}
	wireAppend struct {
		Acked int `json:"acked"`
		wireError
	}
	wireWatch struct {
		Path string `json:"path"`
		End  int64  `json:"end"`
		Gen  uint64 `json:"gen"`
	}
	wireWatchRequest struct {
		Add    []wireWatch `json:"add,omitempty"`
		Remove []string    `json:"remove,omitempty"`
	}
	wireWatchAnswer struct {
		Failed map[string]Errno `json:"failed,omitempty"`
	}
	// wireEvent is a line of the growth stream; one without a path is a sign of life.
	wireEvent struct {
		Path string    `json:"path,omitempty"`
		Gone bool      `json:"gone,omitempty"`
		Attr *wireAttr `json:"attr,omitempty"`
	}
)

func toWire(a Attr) wireAttr {
	return wireAttr{
		Ino: a.Ino, Dir: a.Dir, Writable: a.Writable, Base: a.Base, End: a.End, Gen: a.Gen,
		MtimeMS: a.Mtime.UnixMilli(), BtimeMS: a.Btime.UnixMilli(),
	}
}

// attr checks what came from a peer.
func (w *wireAttr) attr() (Attr, error) {
	if w.Ino == 0 || w.Base < 0 || w.End < w.Base {
		return Attr{}, fmt.Errorf("attributes with inode %d and text %d to %d: %w", w.Ino, w.Base, w.End, EPROTO)
	}
	return Attr{
		Ino: w.Ino, Dir: w.Dir, Writable: w.Writable, Base: w.Base, End: w.End, Gen: w.Gen,
		Mtime: time.UnixMilli(w.MtimeMS), Btime: time.UnixMilli(w.BtimeMS),
	}, nil
}

// httpStatus is for people and proxies; callers go by the errno.
func httpStatus(e Errno) int {
	switch e {
	case ENOENT:
		return http.StatusNotFound
	case EACCES, EPERM, EROFS:
		return http.StatusForbidden
	case EINVAL, EISDIR, ENOTDIR, EILSEQ, EPROTO:
		return http.StatusBadRequest
	case EFBIG, EMSGSIZE:
		return http.StatusRequestEntityTooLarge
	case ESTALE:
		return http.StatusGone
	case ETIMEDOUT:
		return http.StatusGatewayTimeout
	case EAGAIN, ENOTCONN, ECANCELED:
		return http.StatusServiceUnavailable
	case ENOSPC, EDQUOT:
		return http.StatusInsufficientStorage
	case EOPNOTSUPP:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// A Service serves a tree over HTTP, under ServicePrefix:
//
//	GET  /daybook/fs/                                     what is served: versions and limits
//	GET  …/v1/stat?path=P                                 attributes
//	GET  …/v1/list?path=P&after=NAME&limit=N              a directory, in pages
//	GET  …/v1/read?path=P&off=O&len=N[&gen=G]             text as it is; attributes in a header
//	GET  …/v1/attributes?path=P                           extended attributes
//	POST …/v1/create?path=P                               makes a topic
//	POST …/v1/append?path=P    (u32 length | record)*     publishes; answers how many records were acknowledged
//	GET  …/v1/watch?id=ID                                 growth: JSON lines, until the caller goes
//	POST …/v1/watch?id=ID      {"add":[…],"remove":[…]}   what that stream reports
//
// Errors are {"errno":"ENOENT","reason":"…"}. A Service is an http.Handler; it has no goroutines of its own.
type Service struct {
	tree *Tree
	log  *slog.Logger
	mux  *http.ServeMux

	mu struct {
		sync.Mutex
		sessions map[string]*Watcher
	}
}

// NewService serves the tree.
func NewService(tree *Tree) *Service {
	s := &Service{tree: tree, log: tree.log, mux: http.NewServeMux()}
	s.mu.sessions = map[string]*Watcher{}
	s.mux.HandleFunc("GET "+ServicePrefix+"{$}", s.hello)
	const v1 = ServicePrefix + "v1/"
	s.handle("GET "+v1+"stat", s.stat)
	s.handle("GET "+v1+"list", s.list)
	s.handle("GET "+v1+"read", s.read)
	s.handle("GET "+v1+"attributes", s.attributes)
	s.handle("GET "+v1+"watch", s.watch)
	s.handle("POST "+v1+"create", s.create)
	s.handle("POST "+v1+"append", s.append)
	s.handle("POST "+v1+"watch", s.change)
	s.mux.HandleFunc(ServicePrefix, func(w http.ResponseWriter, r *http.Request) {
		fail(w, fmt.Errorf("%s %s: no such call: %w", r.Method, r.URL.Path, EPROTO))
	})
	return s
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// handle registers a call: what it returns as an error is answered here, once.
func (s *Service) handle(pattern string, fn func(w http.ResponseWriter, r *http.Request) error) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(VersionHeader, strconv.Itoa(version1))
		if r.Method == http.MethodPost && r.Header.Get(VersionHeader) != strconv.Itoa(version1) {
			fail(w, fmt.Errorf("header %s is %q: %w", VersionHeader, r.Header.Get(VersionHeader), EPROTO))
			return
		}
		err := fn(w, r)
		if err == nil {
			return
		}
		if ErrnoOf(err) == EIO && r.Context().Err() == nil {
			s.log.Warn("file service", "call", r.URL.Path, "path", r.URL.Query().Get("path"), "err", err)
		}
		fail(w, err)
	})
}

func fail(w http.ResponseWriter, err error) {
	e := ErrnoOf(err)
	answer(w, httpStatus(e), wireError{Errno: e, Reason: err.Error()})
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // a bug: the types above always marshal
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // a caller that has gone is no error of ours
}

func (s *Service) hello(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, wireHello{
		Service: "daybook-fs", Versions: []int{version1}, MaxRead: MaxReadBytes, MaxAppend: MaxAppendBytes,
	})
}

func (s *Service) stat(w http.ResponseWriter, r *http.Request) error {
	a, err := s.tree.Stat(r.Context(), r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, toWire(a))
	return nil
}

func (s *Service) list(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit, err := number(q.Get("limit"), maxList, 1, maxList)
	if err != nil {
		return err
	}
	es, more, err := s.tree.List(r.Context(), q.Get("path"), q.Get("after"), int(limit))
	if err != nil {
		return err
	}
	out := wireList{Entries: make([]wireEntry, len(es)), More: more}
	for i, e := range es {
		out.Entries[i] = wireEntry(e)
	}
	answer(w, http.StatusOK, out)
	return nil
}

// readBuffers holds *[]byte of up to MaxReadBytes.
var readBuffers sync.Pool

func (s *Service) read(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	off, err1 := number(q.Get("off"), -1, 0, 1<<62)
	n, err2 := number(q.Get("len"), -1, 0, MaxReadBytes)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var gen uint64
	if g := q.Get("gen"); g != "" {
		var err error
		if gen, err = strconv.ParseUint(g, 10, 64); err != nil {
			return fmt.Errorf("gen %q: %w", g, EINVAL)
		}
	}
	buf, _ := readBuffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer func() { readBuffers.Put(buf) }()
	b, a, err := s.tree.ReadAt(r.Context(), (*buf)[:0], q.Get("path"), gen, off, int(n))
	*buf = b
	if err != nil {
		return err
	}
	attr, err := json.Marshal(toWire(a))
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set(attrHeader, string(attr))
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b)
	return nil
}

func (s *Service) attributes(w http.ResponseWriter, r *http.Request) error {
	m, err := s.tree.Attributes(r.Context(), r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	if m == nil {
		m = map[string]string{}
	}
	answer(w, http.StatusOK, m)
	return nil
}

func (s *Service) create(w http.ResponseWriter, r *http.Request) error {
	a, err := s.tree.Create(r.Context(), r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, toWire(a))
	return nil
}

func (s *Service) append(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r, MaxAppendBytes)
	if err != nil {
		return err
	}
	records, err := splitRecords(body)
	if err != nil {
		return err
	}
	acked, err := s.tree.Append(r.Context(), r.URL.Query().Get("path"), records)
	out := wireAppend{Acked: acked}
	if err != nil {
		out.wireError = wireError{Errno: ErrnoOf(err), Reason: err.Error()}
	}
	answer(w, http.StatusOK, out)
	return nil
}

// appendRecord and splitRecords are the form of an append's body: (u32 length, big-endian | record)*.
func appendRecord(dst, record []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(record))), record...)
}

// splitRecords returns slices of b.
func splitRecords(b []byte) ([][]byte, error) {
	var records [][]byte
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, fmt.Errorf("append: %d bytes where a record's length should be: %w", len(b), EINVAL)
		}
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			return nil, fmt.Errorf("append: record of %d bytes in %d: %w", n, len(b), EINVAL)
		}
		records = append(records, b[:n:n])
		b = b[n:]
	}
	return records, nil
}

func (s *Service) watch(w http.ResponseWriter, r *http.Request) error {
	id := r.URL.Query().Get("id")
	if len(id) < 16 || len(id) > 64 {
		return fmt.Errorf("watch id of %d bytes, want 16 to 64: %w", len(id), EINVAL)
	}
	watcher := s.tree.Watch()
	defer watcher.Close()
	s.mu.Lock()
	full, taken := len(s.mu.sessions) >= maxSessions, s.mu.sessions[id] != nil
	if !full && !taken {
		s.mu.sessions[id] = watcher
	}
	s.mu.Unlock()
	switch {
	case full:
		return fmt.Errorf("%d watches are open: %w", maxSessions, EAGAIN)
	case taken:
		return fmt.Errorf("watch %q: %w", id, EEXIST)
	}
	defer func() {
		s.mu.Lock()
		delete(s.mu.sessions, id)
		s.mu.Unlock()
	}()

	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	send := func(events ...wireEvent) bool {
		// The server's own deadlines are for answers that end.
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		enc := json.NewEncoder(w)
		for _, e := range events {
			if enc.Encode(e) != nil {
				return false
			}
		}
		return rc.Flush() == nil
	}
	_ = rc.SetReadDeadline(time.Time{})
	if !send(wireEvent{}) {
		return nil
	}
	for {
		ctx, cancel := context.WithTimeout(r.Context(), heartbeat)
		grown, err := watcher.Next(ctx)
		cancel()
		events := make([]wireEvent, 0, len(grown)+1)
		for _, g := range grown {
			e := wireEvent{Path: g.Path, Gone: g.Gone}
			if !g.Gone {
				a := toWire(g.Attr)
				e.Attr = &a
			}
			events = append(events, e)
		}
		switch {
		case r.Context().Err() != nil, err != nil && !errors.Is(err, context.DeadlineExceeded):
			return nil
		case err != nil:
			events = append(events, wireEvent{})
		}
		if !send(events...) {
			return nil
		}
	}
}

func (s *Service) change(w http.ResponseWriter, r *http.Request) error {
	id := r.URL.Query().Get("id")
	s.mu.Lock()
	watcher := s.mu.sessions[id]
	s.mu.Unlock()
	if watcher == nil {
		return fmt.Errorf("watch %q is not open: %w", id, ESTALE)
	}
	body, err := readBody(w, r, maxWatchBody)
	if err != nil {
		return err
	}
	var req wireWatchRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return fmt.Errorf("watch: %w: %w", EINVAL, err)
	}
	for _, p := range req.Remove {
		watcher.Remove(p)
	}
	var out wireWatchAnswer
	for _, a := range req.Add {
		if err := watcher.Add(r.Context(), a.Path, a.End, a.Gen); err != nil {
			if out.Failed == nil {
				out.Failed = map[string]Errno{}
			}
			out.Failed[a.Path] = ErrnoOf(err)
		}
	}
	answer(w, http.StatusOK, out)
	return nil
}

// readBody reads a body of at most limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, fmt.Errorf("body of %d bytes, limit %d: %w", r.ContentLength, limit, EFBIG)
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, fmt.Errorf("body above %d bytes: %w", limit, EFBIG)
	}
	if err != nil {
		return nil, fmt.Errorf("body: %w: %w", EINVAL, err)
	}
	return slices.Clip(b), nil
}

// number parses a query parameter within bounds; def stands for a missing one unless it is out of bounds.
func number(s string, def, least, most int64) (int64, error) {
	if s == "" && def >= least {
		return def, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("number %q, want %d to %d: %w", s, least, most, EINVAL)
	}
	return n, nil
}
