package fscmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/filetree/filetreetest"
	"github.com/daybook/daybook/ledgerfs/mount"
	"github.com/daybook/daybook/tools/internal/mountproc"
)

// The test binary stands in for daybook where a mount process is started.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "mount" {
		if err := root("").ExecuteContext(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "daybook:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// root is a root command like the binary's.
func root(url string) *cobra.Command {
	cmd := &cobra.Command{Use: "daybook", SilenceUsage: true, SilenceErrors: true}
	cmd.PersistentFlags().StringVar(&url, "admin-url", url, "")
	cmd.AddGroup(&cobra.Group{ID: GroupID, Title: "Topics as files:"})
	cmd.AddCommand(Commands(Finder{
		AdminURL: func() string { return url },
		Local: func(dataDir string) (string, error) {
			b, err := os.ReadFile(filepath.Join(dataDir, "url"))
			return string(b), err
		},
	})...)
	return cmd
}

// serve serves a node and returns its URL and what ends it.
func serveNode(t *testing.T, n *filetreetest.Node) (url string, stop func()) {
	t.Helper()
	tree := filetree.New(filetree.Config{Topics: n, Entries: n, Publisher: n, Log: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: filetree.NewService(tree)}
	go s.Serve(l)
	stop = func() {
		s.Close()
		tree.Close()
	}
	t.Cleanup(stop)
	return "http://" + l.Addr().String(), stop
}

func run(t *testing.T, url, in string, args ...string) (string, error) {
	t.Helper()
	cmd := root(url)
	var out bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(in))
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestCommandsShowTheTree(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	url, _ := serveNode(t, n)
	for i := range 20 {
		n.Topic(filetreetest.Name("log")).Publish(fmt.Sprintf("line %d", i))
	}
	for _, c := range []struct {
		args []string
		in   string
		want string
	}{
		{[]string{"fs", "ls"}, "", "public/\n"},
		{[]string{"fs", "ls", "public"}, "", "default/\n"},
		{[]string{"fs", "ls", "/public/default/"}, "", "log\n"},
		{[]string{"fs", "ls", "/public/default/log@"}, "", "ndjson\n"},
		{[]string{"fs", "ls", "-o", "json", "/public/default"}, "", "[\n  {\n    \"name\": \"log\",\n    \"type\": \"file\"\n  }\n]\n"},
		{[]string{"fs", "tail", "-n", "2", "public/default/log"}, "", "line 18\nline 19\n"},
		{[]string{"fs", "tail", "-n", "0", "public/default/log"}, "", ""},
		{[]string{"fs", "tail", "persistent://public/default/log", "--lines", "1"}, "", "line 19\n"},
		{[]string{"fs", "cat", "/public/default/log", "--offset", "7", "--bytes", "6"}, "", "line 1"},
		{[]string{"fs", "append", "/public/default/log", "-m", "a", "-m", "b\nc"}, "", ""},
		{[]string{"fs", "tail", "-n", "2", "public/default/log"}, "", "a\n\\\"b\\nc\"\n"},
		{[]string{"fs", "append", "/public/default/new", "-o", "json"}, "x\ny\n\nz", "{\n  \"acknowledged\": 4\n}\n"},
		{[]string{"fs", "cat", "/public/default/new"}, "", "x\ny\n\nz\n"},
	} {
		got, err := run(t, url, c.in, c.args...)
		if err != nil || got != c.want {
			t.Errorf("daybook %s = %q, %v, want %q", strings.Join(c.args, " "), got, err, c.want)
		}
	}
	long, err := run(t, url, "", "fs", "ls", "-l", "/public/default")
	if err != nil || !strings.HasPrefix(long, "8    ") && !strings.Contains(long, "  new\n") {
		t.Errorf("fs ls -l = %q, %v", long, err)
	}
	st, err := run(t, url, "", "fs", "stat", "/public/default/new")
	if err != nil || !strings.Contains(st, "size") || !strings.Contains(st, "user.topic.name") {
		t.Errorf("fs stat = %q, %v", st, err)
	}
}

func TestCommandsFailWithAReason(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	n.Topic(filetreetest.Name("log"))
	n.SetAutoCreate(false)
	url, stop := serveNode(t, n)
	for _, c := range []struct {
		args []string
		want error
	}{
		{[]string{"fs", "cat", "/public/default/nope"}, filetree.ENOENT},
		{[]string{"fs", "ls", "/nobody"}, filetree.ENOENT},
		{[]string{"fs", "cat", "/public/default"}, filetree.EISDIR},
		{[]string{"fs", "append", "/public/default/nope", "-m", "x"}, filetree.EACCES},
		{[]string{"fs", "append", "/public/default/log@/ndjson", "-m", "x"}, filetree.EPERM},
		{[]string{"umount", t.TempDir()}, mount.ErrNotMounted},
	} {
		if out, err := run(t, url, "", c.args...); !errors.Is(err, c.want) {
			t.Errorf("daybook %s = %q, %v, want %v", strings.Join(c.args, " "), out, err, c.want)
		}
	}
	stop()
	if _, err := run(t, url, "", "fs", "ls"); !errors.Is(err, filetree.ENOTCONN) || !strings.Contains(err.Error(), "is the server running") {
		t.Errorf("without a server: %v", err)
	}
	if _, err := run(t, "ftp://x", "", "fs", "ls"); !errors.Is(err, filetree.EINVAL) {
		t.Errorf("bad URL: %v", err)
	}
}

func TestTailFollows(t *testing.T) {
	t.Parallel()
	n := filetreetest.New()
	url, _ := serveNode(t, n)
	topic := n.Topic(filetreetest.Name("log"))
	topic.Publish("a", "b")
	r, w := io.Pipe()
	cmd := root(url)
	cmd.SetArgs([]string{"fs", "tail", "-f", "-n", "1", "/public/default/log"})
	cmd.SetOut(w)
	done := make(chan error, 1)
	go func() {
		done <- cmd.ExecuteContext(t.Context())
		w.Close()
	}()
	want := func(s string) {
		t.Helper()
		b := make([]byte, len(s))
		if _, err := io.ReadFull(r, b); err != nil || string(b) != s {
			t.Fatalf("tail -f printed %q, %v, want %q", b, err, s)
		}
	}
	want("b\n")
	topic.Publish("c")
	want("c\n")
	topic.Publish("d", "e")
	want("d\ne\n")
	topic.Delete()
	if err := <-done; !errors.Is(err, filetree.ESTALE) {
		t.Errorf("tail of a deleted topic ended with %v, want ESTALE", err)
	}
}

// What a server does with its mount over its lives: start it, find it again after kill -9 at another
// address, replace a dead one, stop it.
func TestMountProcessOutlivesServers(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("mounts need Linux")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Fatalf("the tests of the mount need root and /dev/fuse: uid %d, %v", os.Geteuid(), err)
	}
	data, dir := t.TempDir(), filepath.Join(t.TempDir(), "mnt")
	n := filetreetest.New()
	n.Topic(filetreetest.Name("log")).Publish("hello")
	ctx := t.Context()
	t.Cleanup(func() {
		if err := mountproc.Stop(context.Background(), data); err != nil {
			t.Error(err)
		}
	})
	cat := func() string {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		b, err := exec.CommandContext(ctx, "cat", dir+"/public/default/log").CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%s%v", b, err)
		}
		return string(b)
	}
	ensure := func(url string) mountproc.Info {
		t.Helper()
		if err := os.WriteFile(filepath.Join(data, "url"), []byte(url), 0o644); err != nil {
			t.Fatal(err)
		}
		info, err := mountproc.Ensure(ctx, dir, url, data)
		if err != nil {
			log, _ := os.ReadFile(filepath.Join(data, "mount.log"))
			t.Fatalf("Ensure: %v\n%s", err, log)
		}
		if got := cat(); got != "hello\n" {
			t.Fatalf("cat = %q", got)
		}
		return info
	}
	url, stop := serveNode(t, n)
	first := ensure(url)
	if first.Adopted {
		t.Error("the first mount process was adopted")
	}
	stop() // as kill -9 does
	if got := cat(); !strings.Contains(got, "Input/output error") {
		t.Errorf("cat without a server = %q", got)
	}
	url, _ = serveNode(t, n)
	second := ensure(url)
	if !second.Adopted || second.PID != first.PID {
		t.Errorf("second server's mount = %+v, want that of process %d", second, first.PID)
	}
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for syscall.Kill(first.PID, 0) == nil { // it holds its lock until it is gone
		runtime.Gosched()
	}
	third := ensure(url)
	if third.Adopted || third.PID == first.PID {
		t.Errorf("a dead mount process was adopted: %+v", third)
	}
	if _, err := mountproc.Hold(data, dir); !errors.Is(err, mountproc.ErrRunning) {
		t.Errorf("Hold beside a mount process: %v, want ErrRunning", err)
	}
	if err := mountproc.Stop(ctx, data); err != nil {
		t.Fatal(err)
	}
	if m, err := mount.Mounted(dir); err != nil || m {
		t.Errorf("Mounted = %v, %v after Stop", m, err)
	}
	// In the background by hand.
	out, err := run(t, url, "", "mount", dir)
	if err != nil || !strings.HasPrefix(out, "mounted on "+dir) {
		t.Fatalf("daybook mount = %q, %v", out, err)
	}
	if got := cat(); got != "hello\n" {
		t.Errorf("cat = %q", got)
	}
	if _, err := run(t, url, "", "mount", dir); err == nil || !strings.Contains(err.Error(), "already mounted") {
		t.Errorf("second mount: %v", err)
	}
	if out, err := run(t, url, "", "umount", dir); err != nil || out != "" {
		t.Errorf("daybook umount = %q, %v", out, err)
	}
	if m, err := mount.Mounted(dir); err != nil || m {
		t.Errorf("Mounted = %v, %v after umount", m, err)
	}
}

func FuzzLineReader(f *testing.F) {
	f.Add("a\nb\n\nc")
	f.Add("")
	f.Add("\n")
	f.Fuzz(func(t *testing.T, s string) {
		l := newLineReader(iotest{strings.NewReader(s)})
		var got []string
		for {
			line, err := l.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(line))
		}
		want := strings.Split(s, "\n")
		if want[len(want)-1] == "" {
			want = want[:len(want)-1]
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") || len(got) != len(want) {
			t.Fatalf("lines of %q = %q, want %q", s, got, want)
		}
	})
}

// iotest reads a few bytes at a time.
type iotest struct{ r io.Reader }

func (r iotest) Read(b []byte) (int, error) { return r.r.Read(b[:min(len(b), 3)]) }
