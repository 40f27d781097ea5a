package endpoints

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"pid":7,"version":"1","service_url":"pulsar://127.0.0.1:6650","admin_url":"http://127.0.0.1:8080","mount":"/mnt"}`))
	f.Add([]byte(`{"service_url":"file:///etc/passwd"}`))
	f.Add([]byte(`{"pid":"x"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parse(b)
		if err != nil {
			return
		}
		if e.Admin != "" && !strings.HasPrefix(e.Admin, "http://") || e.Service != "" && !strings.HasPrefix(e.Service, "pulsar://") {
			t.Fatalf("%q gives %+v", b, e)
		}
	})
}

// What Write wrote, Read reads; a damaged file is an error that names it.
func TestEndpointsAreReadBack(t *testing.T) {
	dir := t.TempDir()
	want := Endpoints{PID: 7, Version: "1", Service: "pulsar://127.0.0.1:6650", Admin: "http://127.0.0.1:8080", Mount: "/mnt"}
	if err := Write(dir, want); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(dir); err != nil || got != want {
		t.Errorf("read %+v, %v", got, err)
	}
	name := filepath.Join(dir, Filename)
	if err := os.WriteFile(name, []byte(`{"pid"`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("a damaged file reads as %v", err)
	}
}
