// Package client is a small client of Trino's REST protocol: one statement at a time, its rows page by page.
package client

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
)

// A Client is a session with a server: it keeps what statements such as USE and PREPARE change. It is used
// by one goroutine at a time.
type Client struct {
	// Server is the address: http://host:port.
	Server string
	// HTTP does the requests; nil: http.DefaultClient.
	HTTP *http.Client
	// User, Catalog, Schema, Source and TimeZone are sent with statements; User "" is "daybook".
	User, Catalog, Schema, Source, TimeZone string
	// Token is sent as bearer token, if set.
	Token string

	session  map[string]string
	prepared map[string]string
}

// A Column is one column of a result, with its type as SQL writes it.
type Column struct {
	Name, Type string
}

// An Error is a statement's failure as the server told it.
type Error struct {
	Message  string `json:"message"`
	Code     int    `json:"errorCode"`
	Name     string `json:"errorName"`
	Type     string `json:"errorType"`
	Location *struct {
		Line   int `json:"lineNumber"`
		Column int `json:"columnNumber"`
	} `json:"errorLocation"`
}

// Error is the failure's name and message.
func (e *Error) Error() string { return e.Name + ": " + e.Message }

type results struct {
	ID      string `json:"id"`
	NextURI string `json:"nextUri"`
	Columns []struct {
		Name string `json:"name"`
		Type string `json:"type"`
	} `json:"columns"`
	Data     [][]any `json:"data"`
	Error    *Error  `json:"error"`
	Warnings []struct {
		Message string `json:"message"`
	} `json:"warnings"`
	UpdateType string `json:"updateType"`
}

// Rows is the answer to one statement. It is used by one goroutine and must be closed.
type Rows struct {
	c        *Client
	ctx      context.Context
	id       string
	next     string
	columns  []Column
	update   string
	data     [][]any
	warnings []string
}

// Execute runs a statement and waits for its columns. A failure of the statement is an *Error.
func (c *Client) Execute(ctx context.Context, statement string) (*Rows, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(c.Server, "/")+"/v1/statement", strings.NewReader(statement))
	if err != nil {
		return nil, err
	}
	set := func(name, v string) {
		if v != "" {
			req.Header.Add("X-Trino-"+name, v)
		}
	}
	user := c.User
	if user == "" {
		user = "daybook"
	}
	set("User", user)
	set("Client-Capabilities", "PARAMETRIC_DATETIME")
	set("Catalog", c.Catalog)
	set("Schema", c.Schema)
	set("Source", c.Source)
	set("Time-Zone", c.TimeZone)
	for k, v := range c.session {
		set("Session", k+"="+url.QueryEscape(v))
	}
	for k, v := range c.prepared {
		set("Prepared-Statement", url.QueryEscape(k)+"="+url.QueryEscape(v))
	}
	r := &Rows{c: c, ctx: ctx}
	if err := r.do(req); err != nil {
		return nil, err
	}
	for r.next != "" && r.columns == nil && r.update == "" {
		if err := r.fetch(); err != nil {
			r.Close()
			return nil, err
		}
	}
	return r, nil
}

// Columns are the columns of the rows; none if the statement gives no rows.
func (r *Rows) Columns() []Column { return r.columns }

// UpdateType names a statement that gives no rows: "USE", "SET SESSION", …
func (r *Rows) UpdateType() string { return r.update }

// QueryID is the server's name of the query.
func (r *Rows) QueryID() string { return r.id }

// Warnings are the server's, complete after the last row.
func (r *Rows) Warnings() []string { return r.warnings }

// Next gives the next row, io.EOF after the last. Values are nil, bool, json.Number, string, []any and
// map[string]any, as the protocol encodes them.
func (r *Rows) Next() ([]any, error) {
	for len(r.data) == 0 {
		if r.next == "" {
			return nil, io.EOF
		}
		if err := r.fetch(); err != nil {
			return nil, err
		}
	}
	row := r.data[0]
	r.data = r.data[1:]
	return row, nil
}

// Close ends the statement, if it has not ended.
func (r *Rows) Close() {
	if r.next == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, r.next, nil)
	r.next = ""
	if err != nil {
		return
	}
	r.c.authorize(req)
	if resp, err := r.c.http().Do(req); err == nil {
		resp.Body.Close()
	}
}

func (c *Client) http() *http.Client {
	if c.HTTP != nil {
		return c.HTTP
	}
	return http.DefaultClient
}

func (c *Client) authorize(req *http.Request) {
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
}

func (r *Rows) fetch() error {
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, r.next, nil)
	if err != nil {
		return err
	}
	return r.do(req)
}

const (
	maxPage  = 256 << 20
	attempts = 8
)

// do sends a request and takes in the page that answers it. 502, 503 and 504 are tried again.
func (r *Rows) do(req *http.Request) error {
	r.c.authorize(req)
	for i := 0; ; i++ {
		if i > 0 && req.GetBody != nil {
			b, err := req.GetBody()
			if err != nil {
				return err
			}
			req.Body = b
		}
		resp, err := r.c.http().Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage+1))
		resp.Body.Close()
		if err != nil {
			return err
		}
		if len(body) > maxPage {
			return fmt.Errorf("server's page is larger than %d bytes", maxPage)
		}
		switch resp.StatusCode {
		case http.StatusOK:
			return r.take(resp.Header, body)
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			if i < attempts {
				select {
				case <-time.After(time.Duration(50<<i) * time.Millisecond):
					continue
				case <-r.ctx.Done():
					return r.ctx.Err()
				}
			}
		}
		return fmt.Errorf("server answered %s: %s", resp.Status, strings.TrimSpace(string(body[:min(len(body), 500)])))
	}
}

func (r *Rows) take(h http.Header, body []byte) error {
	var p results
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&p); err != nil {
		return fmt.Errorf("server's answer is not of the protocol: %w", err)
	}
	if p.ID == "" {
		return errors.New("server's answer is not of the protocol: no query id")
	}
	r.id, r.next = p.ID, p.NextURI
	if p.UpdateType != "" {
		r.update = p.UpdateType
	}
	if r.columns == nil {
		for _, c := range p.Columns {
			r.columns = append(r.columns, Column{c.Name, c.Type})
		}
	}
	for _, row := range p.Data {
		if len(row) != len(r.columns) {
			r.next = ""
			return fmt.Errorf("server's answer is not of the protocol: a row of %d values for %d columns", len(row), len(r.columns))
		}
	}
	r.data = p.Data
	if len(p.Warnings) > 0 {
		r.warnings = r.warnings[:0]
		for _, w := range p.Warnings {
			r.warnings = append(r.warnings, w.Message)
		}
	}
	r.c.change(h)
	if p.Error != nil {
		r.next = ""
		return p.Error
	}
	return nil
}

// change keeps what a statement changed in the session.
func (c *Client) change(h http.Header) {
	if v := h.Get("X-Trino-Set-Catalog"); v != "" {
		c.Catalog = v
	}
	if v := h.Get("X-Trino-Set-Schema"); v != "" {
		c.Schema = v
	}
	pair := func(s string) (string, string) {
		k, v, _ := strings.Cut(s, "=")
		k, _ = url.QueryUnescape(k)
		v, _ = url.QueryUnescape(v)
		return k, v
	}
	for _, s := range h.Values("X-Trino-Set-Session") {
		k, v := pair(s)
		if k == "time_zone_id" {
			c.TimeZone = v
			continue
		}
		if c.session == nil {
			c.session = map[string]string{}
		}
		c.session[k] = v
	}
	for _, s := range h.Values("X-Trino-Clear-Session") {
		delete(c.session, s)
	}
	for _, s := range h.Values("X-Trino-Added-Prepare") {
		k, v := pair(s)
		if c.prepared == nil {
			c.prepared = map[string]string{}
		}
		c.prepared[k] = v
	}
	for _, s := range h.Values("X-Trino-Deallocated-Prepare") {
		k, _ := pair(s)
		delete(c.prepared, k)
	}
}
