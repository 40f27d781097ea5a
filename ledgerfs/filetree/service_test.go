package filetree_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/filetree/filetreetest"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// serve serves a tree of the node over HTTP and returns a client of it.
func serve(t testing.TB, n *filetreetest.Node) (*filetree.Client, *httptest.Server) {
	t.Helper()
	s := httptest.NewServer(filetree.NewService(newTree(t, n)))
	c, err := filetree.NewClient(filetree.ClientConfig{URL: s.URL + "/", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.CloseClientConnections()
		s.Close()
	})
	return c, s
}

// A tree and a client of it are the same to their callers.
func TestTreeAndClientAgree(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	n.AddNamespace("acme", "logs")
	long := strings.Repeat("long-", 80)
	for _, local := range []string{"b", "a@b", ".dot", "z", long} {
		n.Topic(filetreetest.Name(local)).Publish("of " + local[:1])
	}
	tree := newTree(t, n)
	client, _ := serve(t, n)
	each := func(what string, fn func(fs fileSystem) (any, error)) {
		t.Helper()
		a, aerr := fn(tree)
		b, berr := fn(client)
		if fmt.Sprintf("%+v", a) != fmt.Sprintf("%+v", b) || filetree.ErrnoOf(aerr) != filetree.ErrnoOf(berr) {
			t.Errorf("%s: tree says %+v, %v; client says %+v, %v", what, a, aerr, b, berr)
		}
	}
	paths := []string{"/", "/public", "/acme/logs", "/public/default", "/public/default/b", "/public/default/b@", "/public/default/b@/ndjson",
		"/public/default/a%40b", "/public/default/%2Edot", "/public/default/nope", "/nobody", "/nobody/x", "/public/nope/t", "bad", "/public/default/b/c", "/public/default/b@/nope"}
	es, _, err := tree.List(t.Context(), "/public/default", "", 100)
	if err != nil || len(es) != 5 || !strings.HasPrefix(es[1].Name, "%~") {
		t.Fatalf("list = %+v, %v", es, err)
	}
	paths = append(paths, "/public/default/"+es[1].Name)
	for _, p := range paths {
		each("stat "+p, func(fs fileSystem) (any, error) {
			a, err := fs.Stat(t.Context(), p)
			a.Mtime, a.Btime = a.Mtime.Truncate(time.Second).UTC(), a.Btime.Truncate(time.Second).UTC()
			if a.Dir {
				a.Mtime, a.Btime = time.Time{}, time.Time{}
			}
			return a, err
		})
		each("list "+p, func(fs fileSystem) (any, error) {
			es, more, err := fs.List(t.Context(), p, "", 2)
			return fmt.Sprint(es, more), err
		})
		each("read "+p, func(fs fileSystem) (any, error) {
			b, _, err := fs.ReadAt(t.Context(), []byte("x"), p, 0, 1, 100)
			return string(b), err
		})
		each("attributes "+p, func(fs fileSystem) (any, error) { return fs.Attributes(t.Context(), p) })
	}
	each("read a negative offset", func(fs fileSystem) (any, error) {
		_, _, err := fs.ReadAt(t.Context(), nil, "/public/default/b", 0, -1, 10)
		return nil, err
	})
	each("read another text", func(fs fileSystem) (any, error) {
		_, _, err := fs.ReadAt(t.Context(), nil, "/public/default/b", 12345, 0, 10)
		return nil, err
	})
	for _, p := range []string{"/public/default/new", "/public/default/x.swp", "/public/default", "/nobody/x/t", "/public/default/b@/ndjson"} {
		each("create "+p, func(fs fileSystem) (any, error) {
			a, err := fs.Create(t.Context(), p)
			return a.Ino, err
		})
		each("append "+p, func(fs fileSystem) (any, error) { return fs.Append(t.Context(), p, [][]byte{[]byte("r"), nil}) })
	}
	if got := readAll(t, client, "/public/default/"+es[1].Name); got != "of l\n" {
		t.Errorf("text under a hashed name = %q", got)
	}
	if got := readAll(t, client, "/public/default/new"); got != "r\n\nr\n\n" {
		t.Errorf("appended text = %q", got)
	}
}

func TestListComesInPages(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	for i := range 25 {
		n.Topic(filetreetest.Name(fmt.Sprintf("t%02d", i)))
	}
	c, _ := serve(t, n)
	var got []string
	for after, more := "", true; more; {
		var es []filetree.DirEntry
		var err error
		if es, more, err = c.List(t.Context(), "/public/default", after, 10); err != nil || len(es) == 0 {
			t.Fatal(es, err)
		}
		for _, e := range es {
			got, after = append(got, e.Name), e.Name
		}
	}
	if len(got) != 25 || got[0] != "t00" || got[24] != "t24" {
		t.Errorf("pages list %v", got)
	}
}

func TestFailedAppendsSayHowFarTheyCame(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	n.Topic(filetreetest.Name("t"))
	c, s := serve(t, n)
	n.OnAppend(func(_ topicname.Name, rs [][]byte) (int, error) { return 2, fmt.Errorf("no room: %w", filetree.ENOSPC) })
	acked, err := c.Append(t.Context(), path, [][]byte{[]byte("a"), []byte("b"), []byte("c")})
	if acked != 2 || !errors.Is(err, filetree.ENOSPC) {
		t.Errorf("append = %d, %v, want 2, ENOSPC", acked, err)
	}
	// Cut in the middle: nobody knows.
	began := make(chan struct{})
	block := make(chan struct{})
	n.OnAppend(func(_ topicname.Name, rs [][]byte) (int, error) {
		close(began)
		<-block
		return len(rs), nil
	})
	go func() {
		<-began
		s.CloseClientConnections()
		close(block)
	}()
	if acked, err = c.Append(t.Context(), path, [][]byte{[]byte("d")}); acked != 0 || !errors.Is(err, filetree.ETIMEDOUT) {
		t.Errorf("append over a cut connection = %d, %v, want ETIMEDOUT: its outcome is unknown", acked, err)
	}
	n.OnAppend(nil)
	// A server that is not there has stored nothing.
	s.CloseClientConnections()
	s.Close()
	if acked, err = c.Append(t.Context(), path, [][]byte{[]byte("e")}); acked != 0 || !errors.Is(err, filetree.ENOTCONN) {
		t.Errorf("append without a server = %d, %v, want ENOTCONN", acked, err)
	}
	if _, err := c.Append(t.Context(), path, [][]byte{make([]byte, filetree.MaxAppendBytes)}); !errors.Is(err, filetree.EFBIG) {
		t.Errorf("append above the limit: %v, want EFBIG", err)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	n.Topic(filetreetest.Name("t")).Publish("x")
	_, s := serve(t, n)
	const v1 = "/daybook/fs/v1/"
	for _, c := range []struct {
		method, path, body string
		version            string
		want               filetree.Errno
	}{
		{"GET", v1 + "stat", "", "", filetree.EINVAL},
		{"GET", v1 + "stat?path=%00", "", "", filetree.EINVAL},
		{"GET", v1 + "stat?path=/" + strings.Repeat("x", 5000), "", "", filetree.EINVAL},
		{"GET", v1 + "read?path=" + path, "", "", filetree.EINVAL},
		{"GET", v1 + "read?path=" + path + "&off=0&len=99999999", "", "", filetree.EINVAL},
		{"GET", v1 + "read?path=" + path + "&off=-1&len=1", "", "", filetree.EINVAL},
		{"GET", v1 + "read?path=" + path + "&off=99999999999999999999&len=1", "", "", filetree.EINVAL},
		{"GET", v1 + "read?path=" + path + "&off=0&len=1&gen=x", "", "", filetree.EINVAL},
		{"GET", v1 + "list?path=/&limit=0", "", "", filetree.EINVAL},
		{"GET", v1 + "list?path=/&limit=1000000", "", "", filetree.EINVAL},
		{"GET", v1 + "watch?id=short", "", "", filetree.EINVAL},
		{"GET", v1 + "nope", "", "", filetree.EPROTO},
		{"GET", "/daybook/fs/v2/stat?path=/", "", "", filetree.EPROTO},
		{"DELETE", v1 + "stat?path=/", "", "1", filetree.EPROTO},
		{"POST", v1 + "append?path=" + path, "", "", filetree.EPROTO},
		{"POST", v1 + "append?path=" + path, "", "2", filetree.EPROTO},
		{"POST", v1 + "append?path=" + path, "\x00\x00", "1", filetree.EINVAL},
		{"POST", v1 + "append?path=" + path, "\xff\xff\xff\xffx", "1", filetree.EINVAL},
		{"POST", v1 + "append?path=" + path, strings.Repeat("x", filetree.MaxAppendBytes+1), "1", filetree.EFBIG},
		{"POST", v1 + "watch?id=0123456789abcdef", "{}", "1", filetree.ESTALE},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, s.URL+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.version != "" {
			req.Header.Set(filetree.VersionHeader, c.version)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		var got struct {
			Errno filetree.Errno
		}
		if err := json.Unmarshal(b, &got); err != nil || got.Errno != c.want || resp.StatusCode < 400 {
			t.Errorf("%s %.60s: %s, %.100s, want %s", c.method, c.path, resp.Status, b, string(c.want))
		}
	}
	if b, _, err := newTree(t, n).ReadAt(t.Context(), nil, path, 0, 0, 10); err != nil || string(b) != "x\n" {
		t.Errorf("after bad requests the topic reads %q, %v", b, err)
	}
}

// What a client cannot make sense of is an error, not a wrong answer.
func TestStrangeServersAreRefused(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var hello, answer string
	var header http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		for k, v := range header {
			w.Header()[k] = v
		}
		if strings.HasSuffix(r.URL.Path, "/fs/") {
			io.WriteString(w, hello)
			return
		}
		io.WriteString(w, answer)
	}))
	defer s.Close()
	const good = `{"service":"daybook-fs","versions":[1,2]}`
	for _, c := range []struct {
		hello, answer string
		attr          string
		call          func(*filetree.Client) error
		want          filetree.Errno
	}{
		{`{"service":"daybook-fs","versions":[2]}`, "", "", func(c *filetree.Client) error { return c.Hello(t.Context()) }, filetree.EPROTO},
		{`<html>`, "", "", func(c *filetree.Client) error { return c.Hello(t.Context()) }, filetree.EPROTO},
		{good, `{`, "", func(c *filetree.Client) error { _, err := c.Stat(t.Context(), "/"); return err }, filetree.EPROTO},
		{good, `{"ino":0}`, "", func(c *filetree.Client) error { _, err := c.Stat(t.Context(), "/"); return err }, filetree.EPROTO},
		{good, `{"ino":7,"base":5,"end":4}`, "", func(c *filetree.Client) error { _, err := c.Stat(t.Context(), "/"); return err }, filetree.EPROTO},
		{good, `{"entries":[{"name":"a/b"}]}`, "", func(c *filetree.Client) error { _, _, err := c.List(t.Context(), "/", "", 1); return err }, filetree.EPROTO},
		{good, `{"entries":[{"name":".."}]}`, "", func(c *filetree.Client) error { _, _, err := c.List(t.Context(), "/", "", 1); return err }, filetree.EPROTO},
		{good, `{"acked":5}`, "", func(c *filetree.Client) error { _, err := c.Append(t.Context(), path, [][]byte{nil}); return err }, filetree.EPROTO},
		{good, `{"acked":0}`, "", func(c *filetree.Client) error { _, err := c.Append(t.Context(), path, [][]byte{nil}); return err }, filetree.EPROTO},
		{good, `{"acked":0,"errno":"EWHAT"}`, "", func(c *filetree.Client) error { _, err := c.Append(t.Context(), path, [][]byte{nil}); return err }, filetree.EPROTO},
		{good, `toolong`, `{"ino":7}`, func(c *filetree.Client) error { _, _, err := c.ReadAt(t.Context(), nil, path, 0, 0, 3); return err }, filetree.EPROTO},
		{good, `abc`, ``, func(c *filetree.Client) error { _, _, err := c.ReadAt(t.Context(), nil, path, 0, 0, 3); return err }, filetree.EPROTO},
	} {
		mu.Lock()
		hello, answer, header = c.hello, c.answer, http.Header{}
		if c.attr != "" {
			header.Set("Daybook-Fs-Attr", c.attr)
		}
		mu.Unlock()
		client, err := filetree.NewClient(filetree.ClientConfig{URL: s.URL, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.call(client); !errors.Is(err, c.want) {
			t.Errorf("hello %q, answer %q: %v, want %s", c.hello, c.answer, err, string(c.want))
		}
		client.Close()
	}
	for _, u := range []string{"", "127.0.0.1:8080", "ftp://x", "http://"} {
		if _, err := filetree.NewClient(filetree.ClientConfig{URL: u}); !errors.Is(err, filetree.EINVAL) {
			t.Errorf("NewClient(%q): %v, want EINVAL", u, err)
		}
	}
}

func TestWatchReportsEveryFileAndOutlivesItsServer(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	var topics []*filetreetest.Topic
	for i := range 50 {
		tp := n.Topic(filetreetest.Name(fmt.Sprintf("t%02d", i)))
		tp.Publish("first")
		topics = append(topics, tp)
	}
	_, s := serve(t, n)
	where := s.URL
	var mu sync.Mutex
	c, err := filetree.NewClient(filetree.ClientConfig{URL: s.URL, Log: quiet, Resolve: func() (string, error) {
		mu.Lock()
		defer mu.Unlock()
		return where, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	grown := make(chan filetree.Growth, 1000)
	w := c.Watch(func(g filetree.Growth) { grown <- g })
	defer w.Close()
	name := func(i int) string { return fmt.Sprintf("/public/default/t%02d", i) }
	for i := range topics {
		w.Add(name(i), 6, 0) // as it is, but of an unknown generation: reported at once
	}
	await := func(end int64, gone bool) {
		t.Helper()
		seen := map[string]bool{}
		for len(seen) < len(topics) {
			select {
			case g := <-grown:
				if g.Gone == gone && (gone || g.Attr.End >= end) {
					seen[g.Path] = true
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%d of %d files were reported", len(seen), len(topics))
			}
		}
	}
	await(6, false)
	for _, tp := range topics {
		tp.Publish("second")
	}
	await(13, false)
	// The server dies; what is published meanwhile is reported by the next.
	s.CloseClientConnections()
	s.Close()
	for _, tp := range topics {
		tp.Publish("third")
	}
	_, s2 := serve(t, n)
	mu.Lock()
	where = s2.URL
	mu.Unlock()
	await(19, false)
	for _, tp := range topics {
		tp.Delete()
	}
	await(0, true)
}

func TestGrowthIsReportedAtMostFiftyTimesASecond(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	topic := n.Topic(filetreetest.Name("t"))
	tree := newTree(t, n)
	w := tree.Watch()
	defer w.Close()
	topic.Publish("x")
	if err := w.Add(t.Context(), path, 0, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				topic.Publish("y")
			}
		}
	})
	reports := 0
	began := time.Now()
	for {
		if _, err := w.Next(ctx); err != nil {
			break
		}
		reports++
	}
	close(stop)
	wg.Wait()
	if most := int(time.Since(began)/(20*time.Millisecond)) + 2; reports > most || reports == 0 {
		t.Errorf("%d reports in %v, want at most %d", reports, time.Since(began), most)
	}
}

func TestWatcherRefusesWhatIsNoFile(t *testing.T) {
	t.Parallel()
	tree := newTree(t, filetreetest.New())
	w := tree.Watch()
	defer w.Close()
	for p, want := range map[string]filetree.Errno{"/": filetree.EISDIR, "/public/default/nope": filetree.ENOENT, "x": filetree.EINVAL} {
		if err := w.Add(t.Context(), p, 0, 0); !errors.Is(err, want) {
			t.Errorf("Add(%q) = %v, want %s", p, err, string(want))
		}
	}
}

func BenchmarkSequentialRead(b *testing.B) {
	n := filetreetest.New()
	topic := n.Topic(filetreetest.Name("t"))
	line := strings.Repeat("x", 1023)
	batch := make([]string, 100)
	for i := range batch {
		batch[i] = line
	}
	for range 640 {
		topic.PublishBatch(0, batch...)
	}
	const size = 64000 << 10
	for name, fs := range map[string]fileSystem{
		"tree": newTree(b, n),
		"http": func() fileSystem { c, _ := serve(b, n); return c }(),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			var buf []byte
			for b.Loop() {
				for off := int64(0); off < size; off += int64(len(buf)) {
					var err error
					if buf, _, err = fs.ReadAt(context.Background(), buf[:0], path, 0, off, filetree.MaxReadBytes); err != nil || len(buf) == 0 {
						b.Fatal(len(buf), err)
					}
				}
			}
		})
	}
}

func BenchmarkCount(b *testing.B) {
	n := filetreetest.New()
	topic := n.Topic(filetreetest.Name("t"))
	line := strings.Repeat("x", 1023)
	batch := make([]string, 100)
	for i := range batch {
		batch[i] = line
	}
	for range 640 {
		topic.PublishBatch(0, batch...)
	}
	b.SetBytes(64000 << 10)
	for b.Loop() {
		tree := filetree.New(filetree.Config{Topics: n, Entries: n, Log: quiet})
		if a, err := tree.Stat(context.Background(), path); err != nil || a.Size() != 64000<<10 {
			b.Fatal(a, err)
		}
		tree.Close()
	}
}
