package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/daybook/daybook/query/engine"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// A page is one answer: some rows, or none yet.
type page struct {
	state    string
	columns  []engine.Column // of the first page with rows, and all after it
	data     []byte          // the rows as a JSON array, "" if there are none
	rows     int64           // in the whole query up to here
	bytes    int64           // memory held
	next     int             // token behind it
	last     bool
	err      *sqlerr.Error
	warnings []string
	update   string
	changes  engine.Changes
}

// query is a statement that runs and the pages that its client has not asked for.
type query struct {
	s          *Server
	id, slug   string
	text       string
	base       string // the server's address as the client sees it
	parametric bool   // the client knows timestamp(3)
	begun      time.Time
	cancel     context.CancelCauseFunc
	timer      *time.Timer
	pages      chan *page // closed after the last

	mu    sync.Mutex // one request at a time takes a page
	token int        // of cur
	cur   *page      // may be given again
}

// run executes the statement and sends its pages.
func (q *query) run(ctx context.Context, sess engine.Session) {
	defer close(q.pages)
	send := func(p *page) bool {
		select {
		case q.pages <- p:
			return true
		case <-ctx.Done():
			// Whoever still asks learns why; there is room, because the page before was given up.
			select {
			case q.pages <- p:
			default:
			}
			return false
		}
	}
	fail := func(err error, r *engine.Result) {
		e := sqlerr.From(err)
		if cause := context.Cause(ctx); cause != nil && e.Code == sqlerr.UserCanceled {
			e = sqlerr.From(cause)
		}
		if e.Code.Kind == sqlerr.Internal {
			q.s.cfg.Engine.Logger().Error("statement failed", slog.String("query", q.id), slog.String("err", e.Error()), slog.Any("cause", e.Cause))
		}
		p := &page{state: "FAILED", err: e, last: true}
		if r != nil {
			p.columns, p.warnings = r.Columns, r.Warnings()
		}
		send(p)
	}
	r, err := q.s.cfg.Engine.Execute(ctx, sess, q.text)
	if err != nil {
		fail(err, nil)
		return
	}
	defer r.Close()
	var data []byte
	var rows int64
	began := time.Now()
	for {
		b, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fail(err, r)
			return
		}
		for i := range b.Len {
			if len(data) == 0 {
				data = append(data, '[')
			} else {
				data = append(data, ',')
			}
			data = appendRow(data, b, i)
			if len(data) >= pageBytes {
				rows += int64(i + 1)
				if !send(&page{state: "RUNNING", columns: r.Columns, data: append(data, ']'), rows: rows, bytes: r.MemoryBytes()}) {
					return
				}
				rows -= int64(i + 1)
				data, began = nil, time.Now()
			}
		}
		rows += int64(b.Len)
		// A slow query shows what it has instead of waiting for a full page.
		if len(data) > 0 && time.Since(began) > longPoll/2 && len(q.pages) == 0 {
			if !send(&page{state: "RUNNING", columns: r.Columns, data: append(data, ']'), rows: rows, bytes: r.MemoryBytes()}) {
				return
			}
			data, began = nil, time.Now()
		}
	}
	if len(data) > 0 {
		data = append(data, ']')
	}
	send(&page{state: "FINISHED", columns: r.Columns, data: data, rows: rows, last: true, warnings: r.Warnings(), update: r.UpdateType, changes: r.Changes})
}

// page gives the page of a token; false if it is gone or was never given out, nil if ctx ended.
func (q *query) page(ctx context.Context, token int, wait time.Duration) (*page, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if token == q.token && q.cur != nil {
		return q.cur, true
	}
	if token != q.token+1 || q.cur != nil && q.cur.last {
		return nil, false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	var p *page
	select {
	case got, ok := <-q.pages:
		if !ok { // it was ended without a page
			got = &page{state: "FAILED", last: true, err: sqlerr.UserCanceled.Errorf("Query was canceled")}
		}
		p = got
	case <-t.C:
		p = &page{state: "RUNNING"}
	case <-ctx.Done():
		return nil, true
	}
	p.next = token + 1
	q.token, q.cur = token, p
	return p, true
}

// appendRow appends a row as a JSON array.
func appendRow(dst []byte, b *value.Batch, i int) []byte {
	dst = append(dst, '[')
	for k, c := range b.Cols {
		if k > 0 {
			dst = append(dst, ',')
		}
		if c.IsNull(i) {
			dst = append(dst, "null"...)
			continue
		}
		switch c.Type.Kind {
		case value.TinyInt, value.SmallInt, value.Integer, value.BigInt:
			dst = strconv.AppendInt(dst, c.I64[i], 10)
		case value.Boolean:
			dst = strconv.AppendBool(dst, c.I64[i] != 0)
		case value.Real, value.Double:
			dst = value.AppendJSONFloat(dst, c.Type, c.F64[i])
		case value.Varchar:
			dst = value.AppendJSONString(dst, c.Str[i])
		case value.Varbinary:
			dst = append(dst, '"')
			dst = base64.StdEncoding.AppendEncode(dst, []byte(c.Str[i]))
			dst = append(dst, '"')
		case value.Decimal:
			dst = append(dst, '"')
			dst = value.AppendDecimal(dst, c.Dec[i], c.Type.Scale)
			dst = append(dst, '"')
		case value.Timestamp:
			dst = append(dst, '"')
			dst = value.AppendTimestamp(dst, c.I64[i])
			dst = append(dst, '"')
		default:
			dst = value.AppendJSON(dst, c.Type, c.Get(i))
		}
	}
	return append(dst, ']')
}

type wireColumn struct {
	Name          string        `json:"name"`
	Type          string        `json:"type"`
	TypeSignature wireSignature `json:"typeSignature"`
}

type wireSignature struct {
	RawType   string         `json:"rawType"`
	Arguments []wireArgument `json:"arguments"`
}

type wireArgument struct {
	Kind  string `json:"kind"`
	Value any    `json:"value"`
}

// typeName is a type's name; clients that do not say that they know of the precision of times get none.
func typeName(t value.Type, parametric bool) string {
	if !parametric {
		switch t.Kind {
		case value.Timestamp, value.TimestampTZ, value.Time:
			return t.Name()
		}
	}
	return t.String()
}

func signature(t value.Type, parametric bool) wireSignature {
	s := wireSignature{RawType: t.Name(), Arguments: []wireArgument{}}
	long := func(n int64) { s.Arguments = append(s.Arguments, wireArgument{"LONG", n}) }
	typ := func(t value.Type) { s.Arguments = append(s.Arguments, wireArgument{"TYPE", signature(t, parametric)}) }
	switch t.Kind {
	case value.Varchar:
		long(1<<31 - 1) // without a limit
	case value.Decimal:
		long(int64(t.Precision))
		long(int64(t.Scale))
	case value.Timestamp, value.TimestampTZ, value.Time:
		if parametric {
			long(3)
		}
	case value.Array:
		typ(*t.Elem)
	case value.Map:
		typ(*t.Key)
		typ(*t.Elem)
	case value.Row:
		for _, f := range t.Fields {
			v := map[string]any{"typeSignature": signature(f.Type, parametric)}
			if f.Name != "" {
				v["fieldName"] = map[string]string{"name": f.Name}
			}
			s.Arguments = append(s.Arguments, wireArgument{"NAMED_TYPE", v})
		}
	}
	return s
}

type wireError struct {
	Message       string         `json:"message"`
	ErrorCode     int            `json:"errorCode"`
	ErrorName     string         `json:"errorName"`
	ErrorType     sqlerr.Kind    `json:"errorType"`
	ErrorLocation *wireLocation  `json:"errorLocation,omitempty"`
	FailureInfo   map[string]any `json:"failureInfo"`
}

type wireLocation struct {
	LineNumber   int `json:"lineNumber"`
	ColumnNumber int `json:"columnNumber"`
}

type wireWarning struct {
	WarningCode struct {
		Code int    `json:"code"`
		Name string `json:"name"`
	} `json:"warningCode"`
	Message string `json:"message"`
}

type wireStats struct {
	State             string `json:"state"`
	Queued            bool   `json:"queued"`
	Scheduled         bool   `json:"scheduled"`
	Nodes             int    `json:"nodes"`
	TotalSplits       int    `json:"totalSplits"`
	QueuedSplits      int    `json:"queuedSplits"`
	RunningSplits     int    `json:"runningSplits"`
	CompletedSplits   int    `json:"completedSplits"`
	CPUTimeMillis     int64  `json:"cpuTimeMillis"`
	WallTimeMillis    int64  `json:"wallTimeMillis"`
	QueuedTimeMillis  int64  `json:"queuedTimeMillis"`
	ElapsedTimeMillis int64  `json:"elapsedTimeMillis"`
	ProcessedRows     int64  `json:"processedRows"`
	ProcessedBytes    int64  `json:"processedBytes"`
	PeakMemoryBytes   int64  `json:"peakMemoryBytes"`
	SpilledBytes      int64  `json:"spilledBytes"`
}

type wireResults struct {
	ID               string          `json:"id"`
	InfoURI          string          `json:"infoUri"`
	PartialCancelURI string          `json:"partialCancelUri,omitempty"`
	NextURI          string          `json:"nextUri,omitempty"`
	Columns          []wireColumn    `json:"columns,omitempty"`
	Data             json.RawMessage `json:"data,omitempty"`
	Stats            wireStats       `json:"stats"`
	Error            *wireError      `json:"error,omitempty"`
	Warnings         []wireWarning   `json:"warnings"`
	UpdateType       string          `json:"updateType,omitempty"`
}

// write answers with a page.
func (q *query) write(w http.ResponseWriter, p *page, token int) {
	res := wireResults{ID: q.id, InfoURI: q.base + "/v1/query/" + q.id, Warnings: []wireWarning{}, UpdateType: p.update}
	elapsed := time.Since(q.begun).Milliseconds()
	res.Stats = wireStats{State: p.state, Queued: p.state == "QUEUED", Scheduled: p.state != "QUEUED", Nodes: 1, WallTimeMillis: elapsed,
		ElapsedTimeMillis: elapsed, ProcessedRows: p.rows, PeakMemoryBytes: p.bytes}
	if !p.last {
		phase := "executing"
		if token == 0 {
			phase = "queued"
		}
		res.NextURI = q.base + "/v1/statement/" + phase + "/" + q.id + "/" + q.slug + "/" + strconv.Itoa(p.next)
	}
	for _, c := range p.columns {
		res.Columns = append(res.Columns, wireColumn{c.Name, typeName(c.Type, q.parametric), signature(c.Type, q.parametric)})
	}
	for _, t := range p.warnings {
		ww := wireWarning{Message: t}
		ww.WarningCode.Code, ww.WarningCode.Name = 1, "UNDECODABLE_MESSAGES"
		res.Warnings = append(res.Warnings, ww)
	}
	if e := p.err; e != nil {
		res.Error = &wireError{Message: e.Error(), ErrorCode: e.Code.Number, ErrorName: e.Code.Name, ErrorType: e.Code.Kind,
			FailureInfo: map[string]any{"type": "io.trino.spi.TrinoException", "message": e.Error(), "suppressed": []any{}, "stack": []any{}}}
		if e.Pos.Line > 0 {
			res.Error.ErrorLocation = &wireLocation{e.Pos.Line, e.Pos.Column}
			res.Error.FailureInfo["errorLocation"] = res.Error.ErrorLocation
		}
	}
	h := w.Header()
	set := func(name, v string) {
		if v != "" {
			h.Add("X-Trino-"+name, v)
			h.Add("X-Presto-"+name, v)
		}
	}
	if p.last {
		c := p.changes
		set("Set-Catalog", c.SetCatalog)
		set("Set-Schema", c.SetSchema)
		for k, v := range c.SetSession {
			set("Set-Session", k+"="+url.QueryEscape(v))
		}
		for _, k := range c.ClearSession {
			set("Clear-Session", k)
		}
		for k, v := range c.AddedPrepare {
			set("Added-Prepare", url.QueryEscape(k)+"="+url.QueryEscape(v))
		}
		for _, k := range c.Deallocated {
			set("Deallocated-Prepare", url.QueryEscape(k))
		}
		if c.StartedTransaction != "" {
			set("Started-Transaction-Id", q.id)
		}
		if c.ClearTransaction {
			set("Clear-Transaction-Id", "true")
		}
		if c.SetTimeZone != "" {
			set("Set-Session", "time_zone_id="+url.QueryEscape(c.SetTimeZone))
		}
	}
	// The rows are JSON already: they are put in as they are, not encoded again.
	head, err := json.Marshal(res)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	if len(p.data) == 0 {
		w.Write(head)
		return
	}
	w.Write(head[:len(head)-1])
	io.WriteString(w, `,"data":`)
	w.Write(p.data)
	io.WriteString(w, "}")
}
