package filetree

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ClientConfig says where a Client finds its server.
type ClientConfig struct {
	// URL is the server's root, such as "http://127.0.0.1:8080".
	URL string
	// Resolve, if set, is asked for the URL of the server when it cannot be reached: it may have come back
	// elsewhere. An error or "" leaves the URL as it is.
	Resolve func() (string, error)
	Log     *slog.Logger // nil: slog.Default()
}

// A Client is the tree of a server. Its methods are those of Tree and return errors with the same Errnos; ENOTCONN
// says that the server cannot be reached, ETIMEDOUT of Append that it is unknown whether the next record was stored. Calls
// are not repeated, but for those that only read, once, over a new connection. It reconnects by itself.
//
// All methods may be called by any goroutine.
type Client struct {
	http    *http.Client
	resolve func() (string, error)
	log     *slog.Logger

	mu struct {
		sync.Mutex
		base    string
		checked bool // the server at base speaks our version
	}
}

// NewClient makes a client. It does not connect.
func NewClient(cfg ClientConfig) (*Client, error) {
	base, err := checkURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	c := &Client{
		http: &http.Client{
			Transport: &http.Transport{
				DialContext:           (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
				MaxIdleConnsPerHost:   32,
				IdleConnTimeout:       time.Minute,
				ResponseHeaderTimeout: 2 * time.Minute,
				ReadBufferSize:        64 << 10,
				WriteBufferSize:       64 << 10,
				DisableCompression:    true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		resolve: cfg.Resolve,
		log:     cfg.Log,
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	c.mu.base = base
	return c, nil
}

func checkURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("server URL %q: want http://host:port: %w", s, EINVAL)
	}
	return strings.TrimSuffix(u.Scheme+"://"+u.Host+u.Path, "/"), nil
}

// Close closes idle connections. Calls that are under way go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// URL is where the client thinks that its server is.
func (c *Client) URL() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.base
}

// unreachable notes that the server at base did not answer, and asks where it is now; true if elsewhere.
func (c *Client) unreachable(base string) bool {
	var now string
	if c.resolve != nil {
		if u, err := c.resolve(); err == nil && u != "" {
			if u, err = checkURL(u); err == nil {
				now = u
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.base != base {
		return true // somebody else has noticed
	}
	c.mu.checked = false
	if now == "" || now == base {
		return false
	}
	c.log.Info("server has moved", "from", base, "to", now)
	c.mu.base = now
	return true
}

// Hello asks the server what it speaks: EPROTO if that is no version of ours.
func (c *Client) Hello(ctx context.Context) error {
	_, err := c.connect(ctx)
	return err
}

// connect returns the server's URL after making sure that it speaks our version.
func (c *Client) connect(ctx context.Context) (string, error) {
	c.mu.Lock()
	base, checked := c.mu.base, c.mu.checked
	c.mu.Unlock()
	if checked {
		return base, nil
	}
	var hello wireHello
	for try := 0; ; try++ {
		err := c.once(ctx, base, http.MethodGet, "", nil, nil, func(resp *http.Response) error {
			return decode(resp, &hello)
		})
		if err == nil {
			break
		}
		if try == 0 && ErrnoOf(err) == ENOTCONN && c.unreachable(base) {
			base = c.URL()
			continue
		}
		if ErrnoOf(err) == ENOENT {
			err = fmt.Errorf("%s serves no files: %w", base, EPROTO)
		}
		return "", err
	}
	if hello.Service != "daybook-fs" || !slices.Contains(hello.Versions, version1) {
		return "", fmt.Errorf("%s speaks versions %v of %q, not %d: %w", base, hello.Versions, hello.Service, version1, EPROTO)
	}
	c.mu.Lock()
	if c.mu.base == base {
		c.mu.checked = true
	}
	c.mu.Unlock()
	return base, nil
}

// call makes one call of version 1. Calls that only read are made again, once, if the connection broke.
func (c *Client) call(ctx context.Context, method, name string, q url.Values, body []byte, fn func(*http.Response) error) error {
	for try := 0; ; try++ {
		base, err := c.connect(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", errUnsent, err)
		}
		err = c.once(ctx, base, method, "v1/"+name, q, body, fn)
		if err == nil || ErrnoOf(err) != ENOTCONN || ctx.Err() != nil {
			return err
		}
		moved, unsent := c.unreachable(base), errors.Is(err, errUnsent)
		again := unsent && moved || !unsent && method == http.MethodGet
		if try > 0 || !again {
			return err
		}
	}
}

// errUnsent says that a call cannot have reached the server.
var errUnsent = errors.New("no connection")

func (c *Client) once(ctx context.Context, base, method, path string, q url.Values, body []byte, fn func(*http.Response) error) error {
	u := base + ServicePrefix + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", EINVAL, err)
	}
	if body == nil {
		req.Body, req.GetBody = nil, nil
	}
	// net/http repeats a POST by itself only if nothing of it was written.
	req.Header.Set(VersionHeader, strconv.Itoa(version1))
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", u, context.Cause(ctx))
		}
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			return fmt.Errorf("%w: %w: %w", ENOTCONN, errUnsent, err)
		}
		return fmt.Errorf("%w: %w", ENOTCONN, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answered(resp)
	}
	err = fn(resp)
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%s: %w", u, context.Cause(ctx))
}

// answered is the error that a server answered.
func answered(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("%w: %w", ENOTCONN, err)
	}
	var w wireError
	if json.Unmarshal(b, &w) == nil && w.Errno.known() {
		return &remoteError{w.Errno, w.Reason}
	}
	e := EIO
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		e = ENOENT
	case http.StatusUnauthorized, http.StatusForbidden:
		e = EACCES
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		e = ENOTCONN
	case http.StatusGatewayTimeout:
		e = ETIMEDOUT
	}
	return fmt.Errorf("server answered %s: %w", resp.Status, e)
}

// A remoteError is an error as the server told it.
type remoteError struct {
	errno  Errno
	reason string
}

func (e *remoteError) Error() string { return cmp.Or(e.reason, e.errno.Error()) }
func (e *remoteError) Unwrap() error { return e.errno }

// decode reads a JSON answer of bounded size.
func decode(resp *http.Response, v any) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("%w: %w", ENOTCONN, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("answer of the file service: %w: %w", EPROTO, err)
	}
	return nil
}

// Stat describes a file or directory.
func (c *Client) Stat(ctx context.Context, path string) (Attr, error) {
	return c.attr(ctx, http.MethodGet, "stat", path)
}

// Create makes a topic, if its namespace allows that.
func (c *Client) Create(ctx context.Context, path string) (Attr, error) {
	return c.attr(ctx, http.MethodPost, "create", path)
}

func (c *Client) attr(ctx context.Context, method, name, path string) (Attr, error) {
	var w wireAttr
	err := c.call(ctx, method, name, url.Values{"path": {path}}, nil, func(resp *http.Response) error { return decode(resp, &w) })
	if err != nil {
		return Attr{}, err
	}
	return w.attr()
}

// List returns a page of a directory: see Tree.List.
func (c *Client) List(ctx context.Context, path, after string, limit int) (entries []DirEntry, more bool, err error) {
	var w wireList
	q := url.Values{"path": {path}, "after": {after}, "limit": {strconv.Itoa(min(max(limit, 1), maxList))}}
	err = c.call(ctx, http.MethodGet, "list", q, nil, func(resp *http.Response) error { return decode(resp, &w) })
	if err != nil {
		return nil, false, err
	}
	for _, e := range w.Entries {
		if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") {
			return nil, false, fmt.Errorf("list %q: name %q: %w", path, e.Name, EPROTO)
		}
		entries = append(entries, DirEntry(e))
	}
	return entries, w.More, nil
}

// Attributes are the extended attributes of a file.
func (c *Client) Attributes(ctx context.Context, path string) (map[string]string, error) {
	var m map[string]string
	err := c.call(ctx, http.MethodGet, "attributes", url.Values{"path": {path}}, nil, func(resp *http.Response) error { return decode(resp, &m) })
	return m, err
}

// ReadAt appends to dst up to n bytes (at most MaxReadBytes) of a file's text: see Tree.ReadAt.
func (c *Client) ReadAt(ctx context.Context, dst []byte, path string, gen uint64, off int64, n int) ([]byte, Attr, error) {
	var a Attr
	start := len(dst)
	n = min(n, MaxReadBytes)
	q := url.Values{"path": {path}, "off": {strconv.FormatInt(off, 10)}, "len": {strconv.Itoa(n)}}
	if gen != 0 {
		q.Set("gen", strconv.FormatUint(gen, 10))
	}
	err := c.call(ctx, http.MethodGet, "read", q, nil, func(resp *http.Response) error {
		var w wireAttr
		if err := json.Unmarshal([]byte(resp.Header.Get(attrHeader)), &w); err != nil {
			return fmt.Errorf("read %q: %w: %w", path, EPROTO, err)
		}
		var err error
		if a, err = w.attr(); err != nil {
			return err
		}
		if resp.ContentLength < 0 || resp.ContentLength > int64(n) {
			return fmt.Errorf("read %q: asked for %d bytes, answer has %d: %w", path, n, resp.ContentLength, EPROTO)
		}
		dst = slices.Grow(dst[:start], int(resp.ContentLength))[:start+int(resp.ContentLength)]
		if _, err := io.ReadFull(resp.Body, dst[start:]); err != nil {
			dst = dst[:start]
			return fmt.Errorf("read %q: %w: %w", path, ENOTCONN, err)
		}
		return nil
	})
	return dst, a, err
}

// Append publishes records as messages, in order: see Publisher. It fails with EFBIG if they are more than
// MaxAppendBytes with 4 bytes for each.
func (c *Client) Append(ctx context.Context, path string, records [][]byte) (acked int, err error) {
	size := 0
	for _, r := range records {
		size += 4 + len(r)
	}
	if size > MaxAppendBytes {
		return 0, fmt.Errorf("append %d bytes, limit %d: %w", size, MaxAppendBytes, EFBIG)
	}
	body := make([]byte, 0, size)
	for _, r := range records {
		body = appendRecord(body, r)
	}
	var w wireAppend
	err = c.call(ctx, http.MethodPost, "append", url.Values{"path": {path}}, body, func(resp *http.Response) error {
		return decode(resp, &w)
	})
	switch {
	case err == nil && (w.Acked < 0 || w.Acked > len(records) || w.Errno != "" && !w.Errno.known() || w.Errno == "" && w.Acked < len(records)):
		return 0, fmt.Errorf("append of %d records: answer %+v: %w", len(records), w, EPROTO)
	case err == nil && w.Errno != "":
		return w.Acked, &remoteError{w.Errno, w.Reason}
	case err == nil:
		return w.Acked, nil
	}
	// Only a refusal by the server, or a call that never left, says that nothing was stored.
	if _, ok := errors.AsType[*remoteError](err); ok || errors.Is(err, errUnsent) || ErrnoOf(err) == EPROTO {
		return 0, err
	}
	return 0, fmt.Errorf("append: whether it was stored is unknown: %w: %w", ETIMEDOUT, err)
}

// A Watch tells a client about growth, over one stream for all its files. It reconnects by itself, and then
// reports every file that is not as it was last reported.
type Watch struct {
	c      *Client
	grown  func(Growth)
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{} // holds one token while changes wait to be sent

	mu struct {
		sync.Mutex
		id      string // of the stream that is open; "" between two
		known   map[string]wireWatch
		changes map[string]bool // paths to add or remove on the stream
	}
}

// Watch starts a watch of no files. grown is called for one report at a time, from the watch's goroutine, which
// Close ends and awaits; for a file that is Gone it is called once, and the file is not watched any longer.
func (c *Client) Watch(grown func(Growth)) *Watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watch{c: c, grown: grown, cancel: cancel, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	w.mu.known, w.mu.changes = map[string]wireWatch{}, map[string]bool{}
	go func() {
		defer close(w.done)
		var g sync.WaitGroup
		g.Go(func() { w.stream(ctx) })
		g.Go(func() { w.send(ctx) })
		g.Wait()
	}()
	return w
}

// Close ends the watch. grown is not called after it.
func (w *Watch) Close() {
	w.cancel()
	<-w.done
}

// Add watches a file as the caller knows it. It does not wait.
func (w *Watch) Add(path string, end int64, gen uint64) {
	w.mu.Lock()
	_, known := w.mu.known[path]
	w.mu.known[path] = wireWatch{path, end, gen}
	if !known {
		w.mu.changes[path] = true
	}
	w.mu.Unlock()
	if !known {
		w.poke()
	}
}

// Remove ends the watching of a file.
func (w *Watch) Remove(path string) {
	w.mu.Lock()
	_, known := w.mu.known[path]
	delete(w.mu.known, path)
	if known {
		w.mu.changes[path] = true
	}
	w.mu.Unlock()
	if known {
		w.poke()
	}
}

func (w *Watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// stream keeps a stream open.
func (w *Watch) stream(ctx context.Context) {
	delay := 50 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := w.follow(ctx)
		w.mu.Lock()
		w.mu.id = ""
		w.mu.Unlock()
		if time.Since(began) > 5*time.Second {
			delay = 50 * time.Millisecond
		}
		if ctx.Err() == nil {
			w.c.log.Debug("growth stream ended", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, time.Second)
	}
}

// follow opens a stream and reports what comes until it ends.
func (w *Watch) follow(ctx context.Context) error {
	id := rand.Text()
	// Heartbeats come each 5 s: a stream that is silent for longer is dead.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(3*heartbeat, cancel)
	defer silent.Stop()
	return w.c.call(ctx, http.MethodGet, "watch", url.Values{"id": {id}}, nil, func(resp *http.Response) error {
		dec := json.NewDecoder(resp.Body)
		open := false
		for {
			var e wireEvent
			if err := dec.Decode(&e); err != nil {
				return fmt.Errorf("%w: %w", EIO, err) // not ENOTCONN: the caller opens another
			}
			silent.Reset(3 * heartbeat)
			if !open {
				open = true
				w.opened(id)
			}
			if e.Path != "" {
				if err := w.report(e); err != nil {
					return err
				}
			}
		}
	})
}

// opened has every file sent to the new stream.
func (w *Watch) opened(id string) {
	w.mu.Lock()
	w.mu.id = id
	clear(w.mu.changes)
	for p := range w.mu.known {
		w.mu.changes[p] = true
	}
	w.mu.Unlock()
	w.poke()
}

func (w *Watch) report(e wireEvent) error {
	g := Growth{Path: e.Path, Gone: e.Gone}
	if !e.Gone {
		if e.Attr == nil {
			return fmt.Errorf("growth of %q without attributes: %w", e.Path, EPROTO)
		}
		var err error
		if g.Attr, err = e.Attr.attr(); err != nil {
			return err
		}
	}
	w.mu.Lock()
	_, known := w.mu.known[e.Path]
	switch {
	case known && g.Gone:
		delete(w.mu.known, e.Path)
	case known:
		w.mu.known[e.Path] = wireWatch{e.Path, g.Attr.End, g.Attr.Gen}
	}
	w.mu.Unlock()
	if known {
		w.grown(g)
	}
	return nil
}

// send tells the stream which files it is to report.
func (w *Watch) send(ctx context.Context) {
	const batch = 4096
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		for {
			var req wireWatchRequest
			w.mu.Lock()
			id := w.mu.id
			for p := range w.mu.changes {
				if id == "" || len(req.Add)+len(req.Remove) == batch {
					break
				}
				delete(w.mu.changes, p)
				if k, ok := w.mu.known[p]; ok {
					req.Add = append(req.Add, k)
				} else {
					req.Remove = append(req.Remove, p)
				}
			}
			w.mu.Unlock()
			if len(req.Add)+len(req.Remove) == 0 {
				break
			}
			body, err := json.Marshal(req)
			if err != nil { // a bug: these types always marshal
				panic(err)
			}
			var out wireWatchAnswer
			err = w.c.call(ctx, http.MethodPost, "watch", url.Values{"id": {id}}, body, func(resp *http.Response) error {
				return decode(resp, &out)
			})
			if err != nil {
				// The stream is dead or dying; the next one is told everything.
				w.c.log.Debug("growth stream not changed", "err", err)
				break
			}
			for p, e := range out.Failed {
				if e == ENOENT || e == ESTALE {
					_ = w.report(wireEvent{Path: p, Gone: true})
				} else {
					w.Remove(p)
				}
			}
		}
	}
}
