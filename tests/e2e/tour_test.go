// Package e2e tests the built binary as people use it: the tour of the README, the first contact, bad days.
package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/daybook/daybook/tests/cluster"
)

// tourLines are the lines of the README's blocks that are marked as parts of the tour.
func tourLines(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(cluster.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, m := range regexp.MustCompile("(?s)<!-- tour -->\n```sh\n(.*?)```").FindAllStringSubmatch(string(b), -1) {
		lines = append(lines, strings.Split(strings.TrimSpace(m[1]), "\n")...)
	}
	if len(lines) < 10 {
		t.Fatalf("found only %d lines of the tour in the README", len(lines))
	}
	return lines
}

// want says what the output of some lines of the tour must contain, by a part of the line.
var want = []struct{ line, output string }{
	{"ls mnt/", "earthquakes"},
	{"wc -l mnt/", "1707"},
	{"tail -n 2 mnt/", `"magnitude"`},
	{"grep -c", "313"},
	{"head -n 1", `"key"`},
	{"timeout 3 tail -f", "hello again"},
	{"GROUP BY net", "ci"},
	{"ORDER BY magnitude DESC", "6.1"},
	{"count(*) FROM greetings", "2"},
	{"produce greetings", ""},
	{"consume greetings", "from the command line"},
	{"read greetings", "hello, daybook"},
	{"topics stats", "msgInCounter"},
	{"topics list", "persistent://public/default/earthquakes"},
	{"fs ls", "greetings"},
	{"fs stat", "earthquakes"},
	{"fs tail", `"magnitude"`},
}

// Every line of the tour works when pasted, in order, in a directory where `make run` runs.
func TestEveryLineOfTheTourWorks(t *testing.T) {
	dir := t.TempDir()
	s := cluster.Start(t, cluster.Options{DataDir: filepath.Join(dir, "data"), Mount: filepath.Join(dir, "mnt"), Args: []string{"--tour"}})
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(cluster.Binary(t), filepath.Join(dir, "bin", "daybook")); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, filepath.Join(s.Mount(), "public", "default", "earthquakes"))
	checked := map[int]bool{}
	for _, line := range tourLines(t) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", line)
		cmd.Dir = dir
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		cancel()
		// timeout(1) ends tail -f with 124 by design; wait without arguments answers 0.
		if err != nil {
			t.Errorf("%s\n%v\n%s", line, err, out)
			continue
		}
		for i, w := range want {
			if strings.Contains(line, w.line) {
				checked[i] = true
				if !strings.Contains(string(out), w.output) {
					t.Errorf("%s\nprinted\n%s\nwithout %q", line, out, w.output)
				}
			}
		}
	}
	for i, w := range want {
		if !checked[i] {
			t.Errorf("no line of the tour has %q: the test is out of date", w.line)
		}
	}
	s.Stop()
	if mounted(t, s.Mount()) {
		t.Error("still mounted after the server has stopped")
	}
}

// awaitFile waits until a file is there and its size no longer changes.
func awaitFile(t *testing.T, name string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	last := int64(-1)
	for time.Now().Before(deadline) {
		if fi, err := os.Stat(name); err == nil {
			if fi.Size() > 0 && fi.Size() == last {
				return
			}
			last = fi.Size()
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatalf("%s did not appear", name)
}

func mounted(t *testing.T, dir string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+dir+" ")
}
