// Package endpoints is the file <data-dir>/endpoints.json, in which a running server says where it is
// reached, and the rule by which commands find a server.
package endpoints

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Filename is the name of the file in the data directory.
const Filename = "endpoints.json"

// The environment variables that name a server, and the addresses where nothing else is said.
const (
	AdminEnv       = "DAYBOOK_ADMIN_URL"
	ServiceEnv     = "DAYBOOK_SERVICE_URL"
	DefaultAdmin   = "http://127.0.0.1:8080"
	DefaultService = "pulsar://127.0.0.1:6650"
)

// Endpoints say where a server is reached.
type Endpoints struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	Service string `json:"service_url"` // pulsar://host:port
	Admin   string `json:"admin_url"`   // http://host:port: admin, lookup, SQL and files
	Mount   string `json:"mount,omitempty"`
}

// Write replaces the file atomically.
func Write(dataDir string, e Endpoints) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(dataDir, Filename)
	tmp := name + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write endpoints: %w", err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("write endpoints: %w", err)
	}
	return nil
}

// Read reads the file of a data directory; fs.ErrNotExist if there is none.
func Read(dataDir string) (Endpoints, error) {
	name := filepath.Join(dataDir, Filename)
	b, err := os.ReadFile(name)
	if err != nil {
		return Endpoints{}, err
	}
	e, err := parse(b)
	if err != nil {
		return Endpoints{}, fmt.Errorf("%s: %w", name, err)
	}
	return e, nil
}

// parse reads the file's text. A member that is absent is empty; one of the wrong kind is an error.
func parse(b []byte) (Endpoints, error) {
	var e Endpoints
	if err := json.Unmarshal(b, &e); err != nil {
		return Endpoints{}, err
	}
	for _, u := range []struct{ url, scheme string }{{e.Service, "pulsar://"}, {e.Admin, "http://"}} {
		if u.url != "" && !strings.HasPrefix(u.url, u.scheme) {
			return Endpoints{}, fmt.Errorf("%q is not a %s URL", u.url, u.scheme)
		}
	}
	return e, nil
}

// Remove takes the file away; a missing one is no error.
func Remove(dataDir string) error {
	err := os.Remove(filepath.Join(dataDir, Filename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// CheckAdmin checks the form of an admin URL.
func CheckAdmin(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("admin URL %q: want http://host:port, such as %s", s, DefaultAdmin)
	}
	return nil
}

// Unreachable explains, in one line with the way out, why no call reaches the server at that URL; flag is the one that names
// another. Errors of the command's own context are not the server's, and are returned as they are.
func Unreachable(url, flag string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("host %s of %s is not known (%w): %s names another", dns.Name, url, err, flag)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return &unreachable{fmt.Sprintf("nothing answers at %s: is the server running? 'daybook standalone' starts one, %s names another", url, flag), err}
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return &unreachable{fmt.Sprintf("no answer from %s in time: is it a Daybook server? %s names another", url, flag), err}
	}
	return fmt.Errorf("what listens at %s does not answer as expected (%w): %s names another", url, err, flag)
}

// unreachable is an error told in other words.
type unreachable struct {
	text string
	err  error
}

func (e *unreachable) Error() string { return e.text }
func (e *unreachable) Unwrap() error { return e.err }

// Admin is the admin URL that a command uses: the flag, the environment, the server of ./data, the default.
func Admin(flag string) string {
	return choose(flag, AdminEnv, func(e Endpoints) string { return e.Admin }, DefaultAdmin)
}

// Service is the broker URL that a command uses, found as Admin is.
func Service(flag string) string {
	return choose(flag, ServiceEnv, func(e Endpoints) string { return e.Service }, DefaultService)
}

func choose(flag, env string, of func(Endpoints) string, def string) string {
	if flag != "" {
		return flag
	}
	if v := os.Getenv(env); v != "" {
		return v
	}
	if e, err := Read("data"); err == nil && of(e) != "" {
		return of(e)
	}
	return def
}
