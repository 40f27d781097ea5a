package mount

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/filetree/filetreetest"
	"github.com/daybook/daybook/ledgerfs/topicname"
)

// The mount is a process of its own, as it is in use: a process that looks into its own mount may hang for ever.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DAYBOOK_TEST_MOUNT"); dir != "" {
		os.Exit(serveMount(dir))
	}
	os.Exit(m.Run())
}

func serveMount(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	endpoint := os.Getenv("DAYBOOK_TEST_ENDPOINT")
	c, err := filetree.NewClient(filetree.ClientConfig{
		URL: os.Getenv("DAYBOOK_TEST_URL"), Log: log,
		Resolve: func() (string, error) {
			b, err := os.ReadFile(endpoint)
			return string(b), err
		},
	})
	if err == nil {
		err = Run(ctx, Config{
			Dir: dir, Client: c, Log: log, Debug: os.Getenv("DAYBOOK_TEST_DEBUG") != "", Ready: func() { fmt.Println("ready") },
			deadlines: deadlines{lookup: 2 * time.Second, read: 3 * time.Second, write: 3 * time.Second, retry: time.Second},
		})
	}
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

// A server is a node's file service on a real socket, so that it can be stopped and come back.
type server struct {
	t    testing.TB
	node *filetreetest.Node
	tree *filetree.Tree
	http *http.Server
	url  string
}

func startServer(t testing.TB, node *filetreetest.Node, addr string) *server {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, node: node, url: "http://" + l.Addr().String()}
	s.tree = filetree.New(filetree.Config{Topics: node, Entries: node, Publisher: node, Log: slog.New(slog.DiscardHandler)})
	s.http = &http.Server{Handler: filetree.NewService(s.tree)}
	go s.http.Serve(l)
	t.Cleanup(s.stop)
	return s
}

// stop cuts every connection, as the death of the process does.
func (s *server) stop() {
	s.http.Close()
	s.tree.Close()
}

// A fixture is a mounted node.
type fixture struct {
	testing.TB
	node     *filetreetest.Node
	server   *server
	dir      string // of public/default
	root     string
	endpoint string
	cmd      *exec.Cmd
	exited   chan struct{}
}

func start(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{TB: t, node: filetreetest.New(), root: t.TempDir()}
	f.dir = filepath.Join(f.root, "public/default")
	f.endpoint = filepath.Join(t.TempDir(), "endpoint")
	f.server = startServer(t, f.node, "127.0.0.1:0")
	f.mount()
	return f
}

func (f *fixture) mount() {
	f.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		f.Fatalf("the tests of the mount need root and /dev/fuse: uid %d, %v", os.Geteuid(), err)
	}
	exe, err := os.Executable()
	if err != nil {
		f.Fatal(err)
	}
	f.cmd = exec.Command(exe)
	f.cmd.Env = append(os.Environ(), "DAYBOOK_TEST_MOUNT="+f.root, "DAYBOOK_TEST_URL="+f.server.url, "DAYBOOK_TEST_ENDPOINT="+f.endpoint)
	var stderr bytes.Buffer
	f.cmd.Stderr = &stderr
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		f.Fatal(err)
	}
	if err := f.cmd.Start(); err != nil {
		f.Fatal(err)
	}
	cmd, exited := f.cmd, make(chan struct{})
	f.exited = exited
	f.Cleanup(func() {
		_ = unix.Unmount(f.root, unix.MNT_DETACH)
		_ = cmd.Process.Kill()
		<-exited
		if strings.Contains(stderr.String(), "DATA RACE") || strings.Contains(stderr.String(), "panic") {
			f.Error("the mount process has a bug")
		}
		if f.Failed() {
			f.Logf("mount process:\n%s", stderr.String())
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	if line != "ready\n" {
		f.Fatalf("mount process said %q, %v", line, err)
	}
}

// sh runs a shell command in the namespace's directory.
func (f *fixture) sh(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "cd "+f.dir+" && "+script)
	b, err := cmd.CombinedOutput()
	return string(b), err
}

func (f *fixture) want(script, out string) {
	f.Helper()
	if got, err := f.sh(script); err != nil || got != out {
		f.Fatalf("%s: %q, %v, want %q", script, got, err, out)
	}
}

func (f *fixture) wantFailure(script, text string) {
	f.Helper()
	if got, err := f.sh(script); err == nil || !strings.Contains(got, text) {
		f.Fatalf("%s: %q, %v, want a failure that says %q", script, got, err, text)
	}
}

func (f *fixture) topic(local string) *filetreetest.Topic {
	return f.node.Topic(filetreetest.Name(local))
}

func TestToolsReadTopics(t *testing.T) {
	t.Parallel()
	f := start(t)
	var want strings.Builder
	topic := f.topic("log")
	for i := range 5000 {
		line := fmt.Sprintf("line %d %s", i, strings.Repeat("x", i%200))
		topic.Publish(line)
		want.WriteString(line + "\n")
	}
	f.topic("other").Publish("o")
	size := strconv.Itoa(want.Len())
	f.want("cat log", want.String())
	f.want("wc -l <log", "5000\n")
	f.want("wc -c <log", size+"\n")
	f.want("stat -c '%s %h %o %F %a' log", size+" 1 524288 regular file 644\n")
	f.want("grep -c 'line 4.. ' log", "100\n")
	f.want("head -n 1 log", "line 0 \n")
	f.want("tail -n 2 log | cut -c 1-9", "line 4998\nline 4999\n")
	dir := t.TempDir()
	f.want("cp log "+dir+"/copy && cmp log "+dir+"/copy && echo same", "same\n")
	f.want("dd if=log bs=100 skip=50 count=3 2>/dev/null", want.String()[5000:5300])
	f.want("dd if=log bs=131 2>/dev/null | cmp - log && echo same", "same\n")
	f.want("tac log | tac | cmp - log && echo same", "same\n")
	f.want("sort log | wc -l", "5000\n")
	f.want("ls", "log\nother\n")
	f.want("ls log@ -p", "ndjson\n")
	f.want("ls -1p ../..; ls -1p ..", "public/\ndefault/\n")
	f.want("wc -l <log@/ndjson", "5000\n")
	f.want("find . -type f | sort", "./log\n./other\n")
	f.want("grep -rc line . | sort", "./log:5000\n./other:0\n")
	f.want("stat -f -c '%T %S' log", "fuseblk 524288\n")
	f.wantFailure("cat nope", "No such file or directory")
	f.wantFailure("cat log/x", "Not a directory")
	if st, err := os.Stat(filepath.Join(f.dir, "log")); err != nil || st.Sys().(*syscall.Stat_t).Ino>>63 != 0 {
		t.Errorf("inode %+v, %v", st, err)
	}
}

func TestExtendedAttributesTellTheTopic(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.topic("log").Publish("x")
	file := filepath.Join(f.dir, "log")
	buf := make([]byte, 4096)
	n, err := unix.Getxattr(file, "user.topic.name", buf)
	if err != nil || string(buf[:n]) != "persistent://public/default/log" {
		t.Errorf("user.topic.name = %q, %v", buf[:max(n, 0)], err)
	}
	if n, err = unix.Listxattr(file, buf); err != nil || !strings.Contains(string(buf[:n]), "user.topic.last_id\x00") {
		t.Errorf("attributes = %q, %v", buf[:max(n, 0)], err)
	}
	for name, want := range map[string]error{"user.nope": unix.ENODATA, "security.capability": unix.EOPNOTSUPP, "system.posix_acl_access": unix.EOPNOTSUPP} {
		if _, err := unix.Getxattr(file, name, buf); !errors.Is(err, want) {
			t.Errorf("getxattr %s = %v, want %v", name, err, want)
		}
	}
	if err := unix.Setxattr(file, "user.x", []byte("y"), 0); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("setxattr = %v, want EOPNOTSUPP", err)
	}
}

func TestTopicsRefuseWhatTheyCannotDo(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.topic("log").Publish("x")
	const no = "Operation not permitted"
	f.wantFailure("echo y > log", no)
	f.wantFailure("truncate -s 1 log", no)
	f.wantFailure("rm -f log", no)
	f.wantFailure("mv log log2", no)
	f.wantFailure("ln log log2", no)
	f.wantFailure("ln -s log log2", no)
	f.wantFailure("mkdir d", no)
	f.wantFailure("rmdir ../default", no)
	f.wantFailure("mkfifo p", no)
	f.wantFailure("chmod 600 log", no)
	f.wantFailure("chown 12:34 log", no)
	f.wantFailure("echo y > ../../t", no)
	f.wantFailure("echo y >> notes.swp", no)
	f.wantFailure("echo y >> .hidden", no)
	f.wantFailure("echo y | dd of=log conv=notrunc", no)
	f.wantFailure("echo y >> log@/ndjson", no)
	f.want("touch log; chmod 644 log; truncate -s 2 log; cat log; ls", "x\nlog\n")
}

func TestAppendingPublishes(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.topic("log")
	f.want("echo one >> log && cat log", "one\n")
	f.want("printf 'two\\nthree\\nrest' >> log; cat log", "one\ntwo\nthree\nrest\n")
	f.want("{ printf part; /bin/true; printf 'ed\\n'; } >> log; tail -n 1 log", "parted\n")
	f.want("seq 1 20000 >> log; tail -n 20000 log | cmp - <(seq 1 20000) && echo same", "same\n")
	f.want("for i in $(seq 100); do echo $i; done >> log; tail -n 100 log | cmp - <(seq 1 100) && echo same", "same\n")
	f.want("seq 1 5 | tee -a log >/dev/null; tail -n 5 log | tr '\\n' ' '", "1 2 3 4 5 ")
	f.want("wc -l < log", "20110\n")
	f.want("echo first >> brandnew && cat brandnew", "first\n")
	f.want("echo made > other && echo more >> other && cat other", "made\nmore\n")
	f.want("dd if=/dev/zero bs=1M count=3 2>/dev/null | tr '\\0' a >> big; wc -c <big", "3145729\n")
	f.node.SetAutoCreate(false)
	f.wantFailure("echo x >> unmade", "Permission denied")
}

func TestConcurrentAppendersKeepTheirLines(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.topic("log")
	f.want("for w in a b c d; do seq -f \"$w%g\" 3000 >> log & done; wait; for w in a b c d; do grep $w log | cmp - <(seq -f \"$w%g\" 3000) || echo bad $w; done; wc -l <log", "12000\n")
}

func TestFailedPublishesAreSeen(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.topic("log").Publish("there")
	fail := func(e filetree.Errno) {
		f.node.OnAppend(func(_ topicname.Name, rs [][]byte) (int, error) { return 0, e })
	}
	for e, text := range map[filetree.Errno]string{
		filetree.ENOSPC: "No space left on device", filetree.EMSGSIZE: "Message too long",
		filetree.EACCES: "Permission denied", filetree.EROFS: "Read-only file system", filetree.EIO: "Input/output error",
	} {
		fail(e)
		f.wantFailure("echo x >> log", text)
	}
	// A later write is in the background: its error comes with close, which cat reports.
	var calls atomic.Int32
	f.node.OnAppend(func(_ topicname.Name, rs [][]byte) (int, error) {
		if calls.Add(1) > 1 {
			return 0, filetree.ENOSPC
		}
		return len(rs), nil
	})
	f.wantFailure("seq 1 300000 | cat >> log", "No space left on device")
	f.node.OnAppend(nil)
	f.want("echo again >> log && tail -n 1 log", "again\n")
	f.topic("log").Terminate()
	f.wantFailure("echo x >> log", "Read-only file system")
}

func TestTailFollowsGrowth(t *testing.T) {
	t.Parallel()
	f := start(t)
	topic := f.topic("log")
	topic.Publish("zero")
	cmd := exec.Command("tail", "-n", "+1", "-s", "0.05", "-f", filepath.Join(f.dir, "log"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	lines := bufio.NewScanner(out)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("tail -f printed %q, want %q", lines.Text(), want)
		}
	}
	next("zero")
	for i := range 50 {
		sent := time.Now()
		topic.Publish(strconv.Itoa(i))
		next(strconv.Itoa(i))
		if d := time.Since(sent); d > 3*time.Second {
			t.Errorf("line %d took %v", i, d)
		}
	}
	// The server goes away and comes back: tail does not notice.
	addr := strings.TrimPrefix(f.server.url, "http://")
	f.server.stop()
	topic.Publish("while it was away")
	f.server = startServer(t, f.node, addr)
	next("while it was away")
}

// No reader ever sees a byte that was not published, however the file grows under it.
func TestReadersOfAGrowingFileSeeNoOtherBytes(t *testing.T) {
	t.Parallel()
	f := start(t)
	topic := f.topic("log")
	line := func(i int) string { return fmt.Sprintf("%08d %s", i, strings.Repeat("#", i%300)) }
	const messages = 4000
	var want bytes.Buffer
	for i := range messages {
		want.WriteString(line(i) + "\n")
	}
	topic.Publish(line(0))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				b, err := os.ReadFile(filepath.Join(f.dir, "log"))
				if err != nil || !bytes.HasPrefix(want.Bytes(), b) {
					t.Errorf("read of %d bytes is no prefix of what was published: %v", len(b), err)
					return
				}
			}
		})
	}
	for i := 1; i < messages; i++ {
		topic.Publish(line(i))
	}
	close(stop)
	wg.Wait()
	h, err := os.Open(filepath.Join(f.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for range 300 {
		off := rand.IntN(want.Len())
		b := make([]byte, rand.IntN(5000)+1)
		n, err := h.ReadAt(b, int64(off))
		if err != nil && err != io.EOF || !bytes.Equal(b[:n], want.Bytes()[off:min(off+len(b), want.Len())]) {
			t.Fatalf("read of %d at %d: %d bytes, %v", len(b), off, n, err)
		}
	}
}

func TestDeadServerIsAnErrorWithinTheDeadlineAndComesBackElsewhere(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.topic("log").Publish("x")
	f.want("cat log", "x\n")
	f.server.stop()
	begin := time.Now()
	f.wantFailure("cat log", "Input/output error")
	f.wantFailure("ls", "Input/output error")
	f.wantFailure("echo x >> log", "Input/output error")
	if d := time.Since(begin); d > 15*time.Second {
		t.Errorf("three commands took %v without a server", d)
	}
	f.server = startServer(t, f.node, "127.0.0.1:0")
	if err := os.WriteFile(f.endpoint, []byte(f.server.url), 0o644); err != nil {
		t.Fatal(err)
	}
	f.want("cat log", "x\n")
	f.want("echo y >> log && cat log", "x\ny\n")
}

func TestHungServerDoesNotHangProcesses(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.topic("log")
	block := make(chan struct{})
	defer close(block)
	f.node.OnAppend(func(topicname.Name, [][]byte) (int, error) { <-block; return 0, filetree.EIO })
	f.wantFailure("echo x >> log", "Connection timed out")
	// An interrupted write ends at once.
	cmd := exec.Command("bash", "-c", "echo y >> "+filepath.Join(f.dir, "log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	time.AfterFunc(300*time.Millisecond, func() { cmd.Process.Kill() })
	cmd.Wait()
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("a killed writer took %v to go", d)
	}
}

func TestDeletedTopicIsStaleToWhoHasItOpen(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.topic("log").Publish("old")
	h, err := os.Open(filepath.Join(f.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	before, _ := h.Stat()
	f.topic("log").Delete()
	f.topic("log").Publish("newer")
	if _, err := h.ReadAt(make([]byte, 10), 0); !errors.Is(err, unix.ESTALE) {
		t.Errorf("read of a deleted topic: %v, want ESTALE", err)
	}
	f.want("sleep 1.1; cat log", "newer\n") // names are cached for a second
	after, err := os.Stat(filepath.Join(f.dir, "log"))
	if err != nil || os.SameFile(before, after) {
		t.Errorf("the new topic has the old one's inode: %v", err)
	}
}

func TestRetentionDoesNotMoveAnOpenFile(t *testing.T) {
	t.Parallel()
	f := start(t)
	topic := f.topic("log")
	topic.Publish("a1", "a2")
	topic.Roll()
	topic.Publish("b1", "b2")
	h, err := os.Open(filepath.Join(f.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := h.ReadAt(b, 6); err != nil || string(b) != "b1\nb2\n" {
		t.Fatalf("read = %q, %v", b, err)
	}
	topic.Trim(1)
	f.want("sleep 1.1; stat -c %s log", "12\n")
	if _, err := h.ReadAt(b[:2], 9); err != nil || string(b[:2]) != "b2" {
		t.Errorf("read after trimming = %q, %v", b[:2], err)
	}
	h.Close()
	f.want("sleep 1.1; stat -c %s log; cat log", "6\nb1\nb2\n")
}

func TestTerminatedMountIsUnmountedThoughBusy(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.topic("log").Publish("x")
	h, err := os.Open(filepath.Join(f.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	begin := time.Now()
	f.cmd.Process.Signal(syscall.SIGTERM)
	<-f.exited
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("SIGTERM took %v, want at most 5 s", d)
	}
	if m, err := Mounted(f.root); err != nil || m {
		t.Errorf("Mounted = %v, %v after SIGTERM", m, err)
	}
	if f.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("exit status %d, want 0", f.cmd.ProcessState.ExitCode())
	}
}

func TestDeadMountIsReplaced(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.topic("log").Publish("x")
	f.cmd.Process.Kill()
	<-f.exited
	if _, err := os.Stat(filepath.Join(f.root, "public")); err == nil {
		t.Fatal("the mount lives without its process")
	}
	if m, err := Mounted(f.root); err != nil || !m {
		t.Fatalf("Mounted = %v, %v of a dead mount", m, err)
	}
	f.mount()
	f.want("cat log", "x\n")
	// A second one beside a living one is refused.
	c, err := filetree.NewClient(filetree.ClientConfig{URL: f.server.url})
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Config{Dir: f.root, Client: c}); !errors.Is(err, ErrMounted) {
		t.Errorf("second mount: %v, want ErrMounted", err)
	}
	if err := Unmount(t.Context(), f.root); err != nil {
		t.Fatal(err)
	}
	<-f.exited
	if err := Unmount(t.Context(), f.root); !errors.Is(err, ErrNotMounted) {
		t.Errorf("second unmount: %v, want ErrNotMounted", err)
	}
}

// A shell hears of its background jobs while it expands patterns: it must see every file all the same.
func TestSignalsDoNotEmptyDirectories(t *testing.T) {
	f := start(t)
	for i := range 20 {
		f.topic(fmt.Sprintf("t%02d", i))
	}
	f.want(`for i in $(seq 150); do /bin/true & set -- t*; [ $# = 20 ] || echo "round $i: $*"; done; wait`, "")
}

func TestMountPointMustBeEmpty(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := prepare(dir, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("prepare: %v", err)
	}
	if _, err := prepare(filepath.Join(dir, "new"), slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("a directory that does not exist: %v", err)
	}
}

func TestMountInfoIsParsed(t *testing.T) {
	for _, c := range []struct {
		line, point, typ string
		ok               bool
	}{
		{`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, "/mnt2", "ext3", true},
		{`36 35 0:5 / /with\040space\134x rw - fuse.daybook daybook rw`, `/with space\x`, "fuse.daybook", true},
		{`36 35 0:5 / /x rw`, "", "", false},
		{``, "", "", false},
	} {
		point, typ, ok := parseMountInfo(c.line)
		if point != c.point || typ != c.typ || ok != c.ok {
			t.Errorf("parseMountInfo(%q) = %q, %q, %v", c.line, point, typ, ok)
		}
	}
}

func FuzzParseMountInfo(f *testing.F) {
	f.Add(`36 35 0:5 / /with\040space rw - fuse.daybook daybook rw`)
	f.Add(`a - b`)
	f.Fuzz(func(t *testing.T, s string) {
		if point, typ, ok := parseMountInfo(s); ok && (point == "" || typ == "") {
			t.Errorf("parseMountInfo(%q) = %q, %q", s, point, typ)
		}
	})
}

func BenchmarkSequentialRead(b *testing.B) {
	f := start(b)
	topic := f.topic("log")
	line := strings.Repeat("x", 1023)
	batch := make([]string, 100)
	for i := range batch {
		batch[i] = line
	}
	for range 2560 {
		topic.PublishBatch(0, batch...)
	}
	b.SetBytes(256000 * 1024)
	for b.Loop() {
		f.want("dd if=log of=/dev/null bs=1M 2>/dev/null", "")
	}
}
