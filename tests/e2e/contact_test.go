package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/daybook/daybook/tests/cluster"
)

// refused runs a command that must fail with one line that contains each of want.
func refused(t *testing.T, args []string, want ...string) {
	t.Helper()
	cmd := exec.Command(cluster.Binary(t), args...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("daybook %v succeeded:\n%s", args, out)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("daybook %v took %v to fail", args, d)
	}
	text := strings.TrimSpace(string(out))
	if strings.Contains(text, "\n") {
		t.Errorf("daybook %v failed with more than a line:\n%s", args, text)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("daybook %v failed with %q, without %q", args, text, w)
		}
	}
}

func TestPortTakenIsOneLineWithAWayOut(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	refused(t, []string{"standalone", "--data-dir", t.TempDir(), "--http-port=0", fmt.Sprintf("--broker-port=%d", port)},
		fmt.Sprint(port), "--broker-port")
	refused(t, []string{"standalone", "--data-dir", t.TempDir(), "--broker-port=0", fmt.Sprintf("--http-port=%d", port)},
		fmt.Sprint(port), "--http-port")
}

func TestLockedDataDirectoryNamesItsHolder(t *testing.T) {
	s := cluster.Start(t, cluster.Options{})
	refused(t, []string{"standalone", "--data-dir", s.DataDir(), "--broker-port=0", "--http-port=0"}, fmt.Sprint(s.PID), "--data-dir")
}

func TestNewerFormatIsRefused(t *testing.T) {
	s := cluster.Start(t, cluster.Options{})
	s.Stop()
	if err := os.WriteFile(filepath.Join(s.DataDir(), "FORMAT"), []byte("999\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, []string{"standalone", "--data-dir", s.DataDir(), "--broker-port=0", "--http-port=0"}, "999", "newer")
}

func TestOtherPeoplesDirectoriesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "thesis.txt"), 10)
	refused(t, []string{"standalone", "--data-dir", dir, "--broker-port=0", "--http-port=0"}, "thesis.txt", "--data-dir")
	refused(t, []string{"standalone", "--data-dir", t.TempDir(), "--broker-port=0", "--http-port=0", "--mount", dir}, dir, "not empty")
	data := t.TempDir() // to mount over the data would hide it from the server itself
	refused(t, []string{"standalone", "--data-dir", data, "--broker-port=0", "--http-port=0", "--mount", data}, data, "not empty")
}

func TestCommandsDoNotWaitForAServerThatIsNotThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := ln.Addr().String()
	ln.Close()
	for _, c := range [][]string{
		{"produce", "t", "-m", "x"}, {"consume", "t", "-s", "s"}, {"read", "t"}, {"sql", "-e", "SELECT 1"}, {"fs", "ls"}, {"topics", "list", "public/default"},
	} {
		refused(t, append(c, "--service-url=pulsar://"+free, "--admin-url=http://"+free), free, "daybook standalone", "names another")
		refused(t, append(c, "--service-url=nonsense", "--admin-url=nonsense"), "nonsense", "want")
	}
	s := cluster.Start(t, cluster.Options{})
	broker, http := strings.TrimPrefix(s.Service, "pulsar://"), strings.TrimPrefix(s.Admin, "http://")
	refused(t, []string{"read", "t", "--service-url=pulsar://" + http}, http, "--service-url")
	refused(t, []string{"topics", "list", "public/default", "--admin-url=http://" + broker}, broker, "--admin-url")
}

func TestWrongFlagsAreUsageErrors(t *testing.T) {
	cmd := exec.Command(cluster.Binary(t), "standalone", "--no-such-flag")
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("exit status %d, want 2", cmd.ProcessState.ExitCode())
	}
}

// A server without clients stops at once; one whose mount is busy detaches it. Both exit 0 within 5 s.
func TestSIGTERMStopsABusyServer(t *testing.T) {
	s := cluster.Start(t, cluster.Options{Mount: filepath.Join(t.TempDir(), "mnt")})
	s.Run("produce", "busy", "-m", "one")
	file := filepath.Join(s.Mount(), "public", "default", "busy")
	awaitFile(t, file)
	f, err := os.Open(file) // keeps the mount busy
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.Stop()
	if mounted(t, s.Mount()) {
		t.Error("still mounted")
	}
}

// What is durable before a kill is there after it, in the file as in SQL, and the mount needs no help.
func TestKilledServerComesBackWithItsMount(t *testing.T) {
	s := cluster.Start(t, cluster.Options{Mount: filepath.Join(t.TempDir(), "mnt")})
	file := filepath.Join(s.Mount(), "public", "default", "notes")
	s.Run("produce", "notes", "-m", "one", "-m", "two")
	awaitFile(t, file)
	for round := range 3 {
		s.Kill()
		start := time.Now()
		if _, err := os.ReadFile(file); err == nil {
			t.Error("the file was read without a server")
		} else if d := time.Since(start); d > 35*time.Second {
			t.Errorf("reading without a server failed only after %v", d)
		}
		s.Restart()
		want := strings.Repeat("one\ntwo\n", round+1)
		if got := readWhenBack(t, file, len(want)); got != want {
			t.Fatalf("round %d: file has %q, want %q", round, got, want)
		}
		rows, err := s.SQL("SELECT count(*) FROM notes")
		if err != nil || rows[0][0].(float64) != float64(2*(round+1)) {
			t.Fatalf("round %d: SQL counts %v, %v", round, rows, err)
		}
		s.Run("produce", "notes", "-m", "one", "-m", "two")
	}
}

// readWhenBack reads a file of the mount as soon as its size is right, within 10 s.
func readWhenBack(t *testing.T, name string, size int) string {
	t.Helper()
	var last error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(name)
		if err == nil && len(b) >= size {
			return string(b)
		}
		last = err
	}
	t.Fatalf("%s did not come back: %v", name, last)
	return ""
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	s := cluster.Start(t, cluster.Options{})
	p, err := os.FindProcess(s.PID)
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Signal(syscall.SIGINT)
	_ = p.Signal(syscall.SIGINT)
	start := time.Now()
	for syscall.Kill(s.PID, 0) == nil && time.Since(start) < 5*time.Second {
		time.Sleep(5 * time.Millisecond)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("the process lived %v after the second signal", d)
	}
}
