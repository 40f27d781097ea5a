package standalone

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestLockNamesItsHolderAndGoesWithIt(t *testing.T) {
	dir := t.TempDir()
	l, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("a second lock: %v", err)
	}
	l.release()
	again, err := lockDir(dir)
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	again.release()
}

func TestFormatIsWrittenOnceAndChecked(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string // in the error; "" for none
	}{
		"empty":                      {nil, ""},
		"this version's":             {map[string]string{"FORMAT": "1\n", "anything": ""}, ""},
		"newer":                      {map[string]string{"FORMAT": "2\n"}, "newer version"},
		"no number":                  {map[string]string{"FORMAT": "x"}, "does not hold a number"},
		"somebody else's":            {map[string]string{"thesis.txt": "x"}, "thesis.txt"},
		"a start that was killed":    {map[string]string{"LOCK": "12\n", "FORMAT.new": ""}, ""},
		"the top of a file system":   {map[string]string{"lost+found": ""}, ""},
		"a start, and a later thief": {map[string]string{"LOCK": "12\n", "thesis.txt": ""}, "thesis.txt"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for f, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := checkFormat(dir)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("checkFormat: %v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "FORMAT")); err != nil || string(b) != "1\n" {
				t.Errorf("FORMAT holds %q, %v", b, err)
			}
			if err := checkFormat(dir); err != nil {
				t.Errorf("the second start: %v", err)
			}
		})
	}
}

func TestErrorsOfTheStartSayTheWayOut(t *testing.T) {
	o := Options{DataDir: "/data/dir", Listen: "127.0.0.1", BrokerPort: 6650, HTTPPort: 8080}
	listen := func(what string, err error) error {
		return fmt.Errorf("start the broker: listen for %s: %w", what, &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", err)})
	}
	for _, c := range []struct {
		err  error
		want []string
	}{
		{listen("clients", syscall.EADDRINUSE), []string{"port 6650", "--broker-port"}},
		{listen("HTTP", syscall.EADDRINUSE), []string{"port 8080", "--http-port"}},
		{listen("HTTP", syscall.EACCES), []string{"8080", "--http-port"}},
		{listen("clients", syscall.EADDRNOTAVAIL), []string{"127.0.0.1", "--listen"}},
		{fmt.Errorf("lock: %w", &os.PathError{Op: "open", Path: "/data/dir/LOCK", Err: syscall.EROFS}), []string{"read-only", "--data-dir"}},
		{fmt.Errorf("make: %w", &os.PathError{Op: "mkdir", Path: "/data/dir", Err: syscall.EACCES}), []string{"permission denied", "--data-dir"}},
		{errors.New("something else"), []string{"something else"}},
	} {
		got := explain(c.err, o).Error()
		for _, w := range c.want {
			if !strings.Contains(got, w) || strings.Contains(got, "\n") {
				t.Errorf("explain(%v) = %q, without %q", c.err, got, w)
			}
		}
	}
}
