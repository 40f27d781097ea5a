package endpoints

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	want := Endpoints{PID: 7, Version: "1", Service: "pulsar://h:1", Admin: "http://h:2", Mount: "/mnt"}
	for range 2 { // the second replaces the first
		if err := Write(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Read(dir); err != nil || got != want {
		t.Errorf("read %+v, %v", got, err)
	}
	for range 2 {
		if err := Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, Filename), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), Filename) {
		t.Errorf("half a file: %v", err)
	}
}

func TestFlagThenEnvironmentThenDataThenDefault(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(AdminEnv, "")
	t.Setenv(ServiceEnv, "")
	want := func(flag, admin, service string) {
		t.Helper()
		if a, s := Admin(flag), Service(flag); a != admin || s != service {
			t.Errorf("%q and %q, want %q and %q", a, s, admin, service)
		}
	}
	want("", DefaultAdmin, DefaultService)
	if err := os.Mkdir("data", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write("data", Endpoints{Service: "pulsar://data", Admin: "http://data"}); err != nil {
		t.Fatal(err)
	}
	want("", "http://data", "pulsar://data")
	t.Setenv(AdminEnv, "http://env")
	t.Setenv(ServiceEnv, "pulsar://env")
	want("", "http://env", "pulsar://env")
	want("x://flag", "x://flag", "x://flag")
}

func TestUnreachableSaysTheWayOut(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, c := range []struct {
		err  error
		want string
	}{
		{refused, "daybook standalone"},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Name: "nosuch", Err: "no such host"}}, "nosuch"},
		{context.DeadlineExceeded, "in time"},
		{io.EOF, "EOF"},
	} {
		err := Unreachable("http://h:1", "--flag", c.err)
		for _, w := range []string{c.want, "http://h:1", "--flag"} {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v: %q, without %q", c.err, err, w)
			}
		}
		if !errors.Is(err, c.err) {
			t.Errorf("%v is lost in %v", c.err, err)
		}
	}
	if err := Unreachable("u", "f", context.Canceled); err != context.Canceled {
		t.Errorf("Ctrl-C became %v", err)
	}
	for s, ok := range map[string]bool{"http://h:1": true, "https://h": true, "h:1": false, "": false, "ftp://h": false, "http://": false, "nonsense": false} {
		if err := CheckAdmin(s); (err == nil) != ok {
			t.Errorf("CheckAdmin(%q) = %v", s, err)
		}
	}
}
