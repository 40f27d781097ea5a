// Package endpoints is the file <data-dir>/endpoints.json, in which a running server says where it is
// reached, and the rule by which commands find a server.
package endpoints

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
