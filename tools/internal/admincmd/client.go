// Package admincmd is the command line of the admin REST API: tenants, namespaces, topics and the other
// resources, with pulsar-admin's verbs and flags. Each command is one HTTP call, described by a row of a
// table; client.go makes the call.
package admincmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/daybook/daybook/tools/internal/endpoints"
)

// A Client calls the admin API at one address.
type Client struct {
	// URL is the base, such as http://127.0.0.1:8080.
	URL  string
	HTTP *http.Client
}

// NewClient is a client for the API at base, whose calls end after 30 s.
func NewClient(base string) *Client {
	return &Client{URL: strings.TrimRight(base, "/"), HTTP: &http.Client{Timeout: 30 * time.Second}}
}

// A StatusError is an answer of the API that is no success.
type StatusError struct {
	Status int
	Reason string
}

// Error is the reason and the status.
func (e *StatusError) Error() string {
	if strings.HasPrefix(e.Reason, "HTTP ") {
		return e.Reason
	}
	return fmt.Sprintf("%s (HTTP %d)", e.Reason, e.Status)
}

// Answers are bounded: a namespace of a million topics fits, an endless stream does not.
const maxAnswer = 256 << 20

// Do makes one call. body is sent as JSON unless nil; the answer is the decoded JSON (numbers as
// json.Number), a string for other text, nil where there is none.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body any) (any, http.Header, error) {
	if err := endpoints.CheckAdmin(c.URL); err != nil {
		return nil, nil, err
	}
	u := c.URL + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, nil, fmt.Errorf("encode the request: %w", err)
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u, rd)
	if err != nil {
		return nil, nil, fmt.Errorf("admin URL %q: %w", c.URL, err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok && !ue.Timeout() {
			err = ue.Err // without the whole URL
		}
		return nil, nil, endpoints.Unreachable(c.URL, "--admin-url", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, nil, fmt.Errorf("read the answer: %w", err)
	}
	if res.StatusCode >= 300 {
		return nil, nil, &StatusError{res.StatusCode, reason(data, res.Status)}
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, res.Header, nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil || dec.More() {
		return string(data), res.Header, nil
	}
	return v, res.Header, nil
}

func reason(body []byte, status string) string {
	var r struct{ Reason string }
	if json.Unmarshal(body, &r) == nil && r.Reason != "" {
		return r.Reason
	}
	if s := strings.TrimSpace(string(body)); s != "" && len(s) < 500 && !strings.HasPrefix(s, "<") {
		return s
	}
	return status
}
