// Package cluster runs the built binary for tests: real processes that are started, killed and restarted
// on their data.
package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Root is the top of the source tree: the nearest directory above the working directory, where go test runs a
// package's tests, that holds the product's go.mod.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && bytes.HasPrefix(b, []byte("module github.com/daybook/daybook\n")) {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			panic("the tests of processes run in the source tree only")
		}
		dir = up
	}
}

var build = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("DAYBOOK_BIN"); bin != "" {
		return bin, nil
	}
	dir, err := os.MkdirTemp("", "daybook-bin-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "daybook")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, "./tools/daybook")
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the binary: %w\n%s", err, out)
	}
	return bin, nil
})

// Binary builds the binary once per test process, unless $DAYBOOK_BIN names one, and answers its path.
func Binary(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// Options of a standalone server.
type Options struct {
	DataDir string   // a temporary one if empty
	Mount   string   // no mount if empty
	Args    []string // further flags of `daybook standalone`
	// Ports are free ones chosen by the server if 0; a server that is restarted keeps its ports.
	BrokerPort, HTTPPort int
}

// A Server is a standalone server in a process of its own. Its methods fail the test on errors.
type Server struct {
	t        testing.TB
	bin      string
	opts     Options
	cmd      *exec.Cmd
	exited   chan struct{}
	exitErr  error
	log      *logBuffer
	Service  string // pulsar://…
	Admin    string // http://…
	PID      int
	Restarts int
}

// Start starts a server and waits until it answers. It is stopped, and its mount taken away, when the test
// ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.DataDir == "" {
		o.DataDir = filepath.Join(t.TempDir(), "data")
	}
	s := &Server{t: t, bin: Binary(t), opts: o, log: &logBuffer{}}
	t.Cleanup(func() {
		s.stopProcess(syscall.SIGTERM, 10*time.Second)
		if s.opts.Mount != "" {
			_ = exec.Command(s.bin, "umount", s.opts.Mount).Run()
			_ = syscall.Unmount(s.opts.Mount, 2) // MNT_DETACH: nothing of a failed test stays mounted
		}
		if t.Failed() {
			t.Logf("server log (end):\n%s", s.log.tail(60))
		}
	})
	s.start()
	return s
}

func (s *Server) start() {
	s.t.Helper()
	args := append([]string{"standalone", "--data-dir", s.opts.DataDir,
		fmt.Sprintf("--broker-port=%d", s.opts.BrokerPort), fmt.Sprintf("--http-port=%d", s.opts.HTTPPort)}, s.opts.Args...)
	if s.opts.Mount != "" {
		args = append(args, "--mount", s.opts.Mount)
	}
	_ = os.Remove(filepath.Join(s.opts.DataDir, "endpoints.json"))
	s.cmd = exec.Command(s.bin, args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	// The mount process outlives the server and holds its output; do not wait for it.
	s.cmd.WaitDelay = 100 * time.Millisecond
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.PID = s.cmd.Process.Pid
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		s.exitErr = cmd.Wait()
		close(done)
	}(s.cmd, s.exited)
	s.waitReady(30 * time.Second)
}

func (s *Server) waitReady(limit time.Duration) {
	s.t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.exited:
			s.t.Fatalf("server ended before it was ready: %v\n%s", s.exitErr, s.log.tail(40))
		case <-deadline:
			s.t.Fatalf("server not ready after %v\n%s", limit, s.log.tail(40))
		case <-tick.C:
		}
		b, err := os.ReadFile(filepath.Join(s.opts.DataDir, "endpoints.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var e struct {
			PID     int    `json:"pid"`
			Service string `json:"service_url"`
			Admin   string `json:"admin_url"`
		}
		if err != nil || json.Unmarshal(b, &e) != nil || e.PID != s.PID {
			continue
		}
		s.Service, s.Admin = e.Service, e.Admin
		if s.opts.BrokerPort == 0 {
			s.opts.BrokerPort = port(e.Service)
		}
		if s.opts.HTTPPort == 0 {
			s.opts.HTTPPort = port(e.Admin)
		}
		return
	}
}

func port(url string) int {
	var p int
	_, _ = fmt.Sscanf(url[strings.LastIndexByte(url, ':')+1:], "%d", &p)
	return p
}

// DataDir is where the server keeps its files.
func (s *Server) DataDir() string { return s.opts.DataDir }

// Mount is where the server's topics are mounted.
func (s *Server) Mount() string { return s.opts.Mount }

// Kill ends the server with SIGKILL and waits until it is gone. The mount process lives on.
func (s *Server) Kill() { s.t.Helper(); s.stopProcess(syscall.SIGKILL, 10*time.Second) }

// Stop ends the server as Ctrl-C does and fails the test unless it exits with status 0 within 5 s.
func (s *Server) Stop() {
	s.t.Helper()
	start := time.Now()
	s.stopProcess(syscall.SIGTERM, 10*time.Second)
	if d := time.Since(start); d > 5*time.Second {
		s.t.Errorf("the server took %v to stop; 5 s at most", d)
	}
	if s.cmd.ProcessState == nil || s.cmd.ProcessState.ExitCode() != 0 {
		s.t.Errorf("the server stopped with %v\n%s", s.cmd.ProcessState, s.log.tail(40))
	}
}

func (s *Server) stopProcess(sig syscall.Signal, limit time.Duration) {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.exited:
	case <-time.After(limit):
		_ = s.cmd.Process.Kill()
		<-s.exited
		s.t.Errorf("the server did not end within %v of %v", limit, sig)
	}
}

// Restart starts the server again on its data and its ports.
func (s *Server) Restart() { s.t.Helper(); s.Restarts++; s.start() }

// Log is what the server and its mount have printed.
func (s *Server) Log() string { return s.log.String() }

// Run runs the binary with args against this server and answers its standard output.
func (s *Server) Run(args ...string) string {
	s.t.Helper()
	out, err := s.TryRun(args...)
	if err != nil {
		s.t.Fatalf("daybook %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// TryRun is Run that answers the error, with what was printed to standard error.
func (s *Server) TryRun(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env = append(os.Environ(), "DAYBOOK_ADMIN_URL="+s.Admin, "DAYBOOK_SERVICE_URL="+s.Service)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), nil
}

// SQL runs one statement over Trino's protocol and answers the rows.
func (s *Server) SQL(statement string) ([][]any, error) {
	type results struct {
		NextURI string  `json:"nextUri"`
		Data    [][]any `json:"data"`
		Error   *struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	call := func(method, url, body string) (results, error) {
		var r results
		req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			return r, err
		}
		req.Header.Set("X-Trino-User", "test")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return r, err
		}
		defer res.Body.Close()
		if res.StatusCode != 200 {
			return r, fmt.Errorf("%s %s: %s", method, url, res.Status)
		}
		return r, json.NewDecoder(res.Body).Decode(&r)
	}
	var rows [][]any
	r, err := call("POST", s.Admin+"/v1/statement", statement)
	for {
		if err != nil {
			return nil, err
		}
		if r.Error != nil {
			return nil, errors.New(r.Error.Message)
		}
		rows = append(rows, r.Data...)
		if r.NextURI == "" {
			return rows, nil
		}
		r, err = call("GET", r.NextURI, "")
	}
}

// A logBuffer keeps the end of what a process prints.
type logBuffer struct {
	mu sync.Mutex
	b  []byte
}

const keepLog = 1 << 20

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if len(l.b) > 2*keepLog {
		l.b = append(l.b[:0], l.b[len(l.b)-keepLog:]...)
	}
	return len(p), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

func (l *logBuffer) tail(n int) string {
	var lines []string
	sc := bufio.NewScanner(strings.NewReader(l.String()))
	for sc.Scan() {
		lines = append(lines, sc.Text())
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
