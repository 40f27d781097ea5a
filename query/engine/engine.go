// Package engine runs one SQL statement from text to batches of rows.
//
// A statement is parsed (internal/syntax), its names and types are resolved against the catalog
// (internal/plan), and it runs as a tree of operators (internal/exec) over splits of topics
// (internal/scan). When a table is first named it takes a fence per partition: the statement sees every
// message confirmed before, and none after, however often it scans the table.
//
// An Engine is safe for concurrent use. A statement uses at most Config.Workers goroutines for scanning and
// at most Config.MemoryLimit bytes for what it has to hold; beyond that it fails with
// EXCEEDED_LOCAL_MEMORY_LIMIT, and with CLUSTER_OUT_OF_MEMORY where all statements together hold too much. Cancelling its context ends it.
package engine

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
	"github.com/daybook/daybook/query/catalog"
	"github.com/daybook/daybook/query/internal/exec"
	"github.com/daybook/daybook/query/internal/plan"
	"github.com/daybook/daybook/query/internal/scan"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/syntax"
	"github.com/daybook/daybook/query/internal/value"
)

// An Authorizer decides what a user may read. A nil Authorizer allows everything.
type Authorizer interface {
	// CanRead reports whether user may consume topic (persistent://tenant/namespace/topic).
	CanRead(ctx context.Context, user, topic string) (bool, error)
}

// Config says what an Engine works on. Catalog and Topics are needed.
type Config struct {
	Catalog     catalog.Source
	Topics      scan.Log // see Ledgers
	Authorizer  Authorizer
	Log         *slog.Logger
	NodeID      string           // name of this node in system.runtime.nodes; "": daybook
	Version     string           // version() and /v1/info
	Workers     int              // goroutines scanning for one statement; 0: 2
	MemoryLimit int64            // bytes one statement may hold; 0: 512 MiB
	TotalMemory int64            // bytes all statements together may hold; 0: twice MemoryLimit
	Now         func() time.Time // nil: time.Now
}

// Ledgers reads topics from their ledgers, up to fences from f.
func Ledgers(f topicread.FenceSource, c *topicread.Client) scan.Log { return ledgers{f, c} }

type ledgers struct {
	topicread.FenceSource
	c *topicread.Client
}

func (l ledgers) Read(f chain.Fence, run topicread.Run) scan.Reader {
	return l.c.Read(f, run, topicread.Options{})
}

// A Session is what a client's request says about itself. The zero value is a session without a user.
type Session struct {
	User       string
	Catalog    string // "": pulsar
	Schema     string // "": public/default, if Catalog is pulsar
	TimeZone   string // "": UTC
	Source     string
	Properties map[string]string
	Prepared   map[string]string // name to text
}

// A Column is one column of a result.
type Column struct {
	Name string
	Type value.Type
}

// Changes are what a statement changes in its session; the client keeps the session.
type Changes struct {
	SetCatalog, SetSchema string
	SetSession            map[string]string
	ClearSession          []string
	AddedPrepare          map[string]string
	Deallocated           []string
	StartedTransaction    string
	ClearTransaction      bool
	SetTimeZone           string
}

// A Result gives a statement's rows. It is used by one goroutine and must be closed.
type Result struct {
	Columns []Column
	// UpdateType names a statement that changes the session instead of giving rows: "SET SESSION", …
	UpdateType string
	Changes    Changes

	op     exec.Op
	ctx    context.Context
	cancel context.CancelFunc
	warn   *scan.Warnings
	mem    *exec.Memory
	rows   int64
}

// Next gives the next rows, io.EOF after the last. Every other error is a *sqlerr.Error. Strings in a batch
// are valid until the next call.
func (r *Result) Next() (b *value.Batch, err error) {
	defer caught(&err)
	if r.op == nil {
		return nil, io.EOF
	}
	b, err = r.op.Next(r.ctx)
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, r.failed(err)
	}
	r.rows += int64(b.Len)
	return b, nil
}

func (r *Result) failed(err error) error {
	if cause := context.Cause(r.ctx); cause != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		err = cause
	}
	return sqlerr.From(err)
}

// Warnings tells what could not be read, so far.
func (r *Result) Warnings() []string {
	if r.warn == nil {
		return nil
	}
	return r.warn.Texts()
}

// MemoryBytes is what the statement holds now.
func (r *Result) MemoryBytes() int64 {
	if r.mem == nil {
		return 0
	}
	return r.mem.Used()
}

// Close ends the statement.
func (r *Result) Close() {
	if r.cancel != nil {
		r.cancel()
	}
	if r.op != nil {
		r.op.Close()
		r.op = nil
	}
	if r.mem != nil {
		r.mem.Release()
	}
}

func caught(err *error) {
	if p := recover(); p != nil {
		*err = &sqlerr.Error{Code: sqlerr.GenericInternal, Message: "internal error", Cause: errors.New(strings.TrimSpace(string(debug.Stack())))}
		if e, ok := p.(error); ok {
			(*err).(*sqlerr.Error).Message = "internal error: " + e.Error()
		}
	}
}

// An Engine runs statements.
type Engine struct {
	cfg Config
	mem exec.Memory // of all statements
}

// New makes an engine.
func New(cfg Config) *Engine {
	if cfg.Workers <= 0 {
		cfg.Workers = 2
	}
	if cfg.MemoryLimit <= 0 {
		cfg.MemoryLimit = 512 << 20
	}
	if cfg.TotalMemory <= 0 {
		cfg.TotalMemory = 2 * cfg.MemoryLimit
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NodeID == "" {
		cfg.NodeID = "daybook"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Engine{cfg: cfg, mem: exec.Memory{Limit: cfg.TotalMemory}}
}

// Version is what version() says.
func (e *Engine) Version() string { return e.cfg.Version }

// Logger is where the engine writes failures of its own.
func (e *Engine) Logger() *slog.Logger { return e.cfg.Log }

// Execute starts a statement. ctx must last until the result is closed. Errors are *sqlerr.Error.
func (e *Engine) Execute(ctx context.Context, s Session, text string) (res *Result, err error) {
	defer caught(&err)
	if s.Catalog == "" {
		s.Catalog = catalog.Name
	}
	if s.Schema == "" && s.Catalog == catalog.Name {
		s.Schema = catalog.DefaultSchema
	}
	if _, ok := value.Zone(s.TimeZone); !ok {
		return nil, sqlerr.InvalidSessionProp.Errorf("Time zone not supported: %s", s.TimeZone)
	}
	stmt, params, err := syntax.Parse(text)
	if err != nil {
		return nil, err
	}
	var cancel context.CancelFunc = func() {}
	if v := s.Properties["query_max_run_time"]; v != "" {
		d, ok := duration(v)
		if !ok {
			return nil, sqlerr.InvalidSessionProp.Errorf("query_max_run_time is invalid: %s", v)
		}
		ctx, cancel = context.WithTimeout(ctx, d)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	r := &run{e: e, s: s, warn: &scan.Warnings{}, tables: map[string]*plan.Table{}}
	res, err = r.statement(ctx, stmt, params, nil)
	if err != nil {
		cancel()
		return nil, sqlerr.From(err)
	}
	res.ctx, res.cancel, res.warn = ctx, cancel, r.warn
	return res, nil
}

// sessionProperties are those that SET SESSION takes, with what they mean.
var sessionProperties = map[string]string{
	"query_max_run_time": "Maximum run time of a query, such as 10m",
}

func duration(s string) (time.Duration, bool) {
	s = strings.ReplaceAll(s, " ", "")
	if n, ok := strings.CutSuffix(s, "d"); ok {
		d, err := time.ParseDuration(n + "h")
		return d * 24, err == nil && d > 0
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d > 0
}

// run is one statement.
type run struct {
	e      *Engine
	s      Session
	warn   *scan.Warnings
	tables map[string]*plan.Table
	depth  int
}

func (r *run) env(params []syntax.Expr) *plan.Env {
	return &plan.Env{Catalog: r, DefaultCatalog: r.s.Catalog, Schema: r.s.Schema, User: r.s.User, Version: r.e.cfg.Version,
		Zone: r.s.TimeZone, Now: r.e.cfg.Now(), Params: params}
}

func (r *run) statement(ctx context.Context, stmt syntax.Statement, params int, using []syntax.Expr) (*Result, error) {
	if params != len(using) {
		if _, ok := stmt.(*syntax.Execute); !ok {
			return nil, sqlerr.InvalidArguments.Errorf("Incorrect number of parameters: expected %d but found %d", params, len(using))
		}
	}
	switch t := stmt.(type) {
	case *syntax.QueryStatement:
		p, err := plan.Bind(ctx, r.env(using), t.Query)
		if err != nil {
			return nil, err
		}
		return r.start(ctx, p)
	case *syntax.Explain:
		return r.explain(ctx, t, using)
	case *syntax.Execute:
		text := t.Text
		if !t.Immediate {
			var ok bool
			if text, ok = r.s.Prepared[t.Name]; !ok {
				return nil, sqlerr.NotFound.At(t.Pos, "Prepared statement not found: %s", t.Name)
			}
		}
		if r.depth++; r.depth > 1 {
			return nil, sqlerr.NotSupported.At(t.Pos, "EXECUTE of an EXECUTE is not supported")
		}
		inner, n, err := syntax.Parse(text)
		if err != nil {
			return nil, err
		}
		return r.statement(ctx, inner, n, t.Using)
	case *syntax.Prepare:
		return &Result{UpdateType: "PREPARE", Changes: Changes{AddedPrepare: map[string]string{t.Name: t.Text}}}, nil
	case *syntax.Deallocate:
		if _, ok := r.s.Prepared[t.Name]; !ok {
			return nil, sqlerr.NotFound.At(t.Pos, "Prepared statement not found: %s", t.Name)
		}
		return &Result{UpdateType: "DEALLOCATE", Changes: Changes{Deallocated: []string{t.Name}}}, nil
	case *syntax.Use:
		return r.use(ctx, t)
	case *syntax.SetSession:
		if _, ok := sessionProperties[t.Name]; !ok {
			return nil, sqlerr.InvalidSessionProp.At(t.Value.Position(), "Session property '%s' does not exist", t.Name)
		}
		typ, v, err := plan.Constant(ctx, r.env(nil), t.Value)
		if err != nil {
			return nil, err
		}
		text := string(value.AppendText(nil, typ, v))
		if _, ok := duration(text); !ok {
			return nil, sqlerr.InvalidSessionProp.At(t.Value.Position(), "%s is invalid: %s", t.Name, text)
		}
		return &Result{UpdateType: "SET SESSION", Changes: Changes{SetSession: map[string]string{t.Name: text}}}, nil
	case *syntax.ResetSession:
		return &Result{UpdateType: "RESET SESSION", Changes: Changes{ClearSession: []string{t.Name}}}, nil
	case *syntax.SetTimeZone:
		zone := "UTC"
		if t.Zone != nil {
			_, v, err := plan.Constant(ctx, r.env(nil), t.Zone)
			if err != nil {
				return nil, err
			}
			zone, _ = v.(string)
			if _, ok := value.Zone(zone); !ok || zone == "" {
				return nil, sqlerr.InvalidSessionProp.At(t.Zone.Position(), "Time zone not supported: %s", zone)
			}
		}
		return &Result{UpdateType: "SET TIME ZONE", Changes: Changes{SetTimeZone: zone}}, nil
	case *syntax.Transaction:
		if t.Verb == "START" {
			return &Result{UpdateType: "START TRANSACTION", Changes: Changes{StartedTransaction: "read-only"}}, nil
		}
		return &Result{UpdateType: t.Verb, Changes: Changes{ClearTransaction: true}}, nil
	case *syntax.DescribePrepared:
		return r.describePrepared(ctx, t)
	}
	return r.show(ctx, stmt)
}

func (r *run) start(ctx context.Context, p *plan.Plan) (*Result, error) {
	mem := &exec.Memory{Limit: r.e.cfg.MemoryLimit, Parent: &r.e.mem}
	op, err := exec.Run(ctx, p, exec.Options{Workers: r.e.cfg.Workers, Memory: mem})
	if err != nil {
		mem.Release()
		return nil, err
	}
	res := &Result{op: op, mem: mem}
	for _, c := range p.Columns {
		res.Columns = append(res.Columns, Column(c))
	}
	return res, nil
}

func (r *run) explain(ctx context.Context, t *syntax.Explain, using []syntax.Expr) (*Result, error) {
	q, ok := t.Of.(*syntax.QueryStatement)
	if !ok {
		return nil, sqlerr.NotSupported.Errorf("EXPLAIN is for queries")
	}
	p, err := plan.Bind(ctx, r.env(using), q.Query)
	if err != nil {
		return nil, err
	}
	text := p.Explain()
	if t.Analyze {
		from := r.e.cfg.Now()
		res, err := r.start(ctx, p)
		if err != nil {
			return nil, err
		}
		defer res.Close()
		res.ctx = ctx
		for {
			if _, err := res.Next(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
		}
		text += "\n" + analyzed(res.rows, r.e.cfg.Now().Sub(from))
	}
	var lines [][]any
	for l := range strings.SplitSeq(text, "\n") {
		lines = append(lines, []any{l})
	}
	return r.rows([]Column{{"Query Plan", value.VarcharType}}, lines), nil
}

// rows is a result of rows that are already there.
func (r *run) rows(cols []Column, rows [][]any) *Result {
	v := &plan.Values{Rows: rows}
	for _, c := range cols {
		v.Columns = append(v.Columns, plan.Col(c))
	}
	op, err := exec.Run(context.Background(), &plan.Plan{Root: v}, exec.Options{Memory: &exec.Memory{Limit: r.e.cfg.MemoryLimit}})
	if err != nil {
		panic(err) // constant rows cannot fail to start
	}
	return &Result{Columns: cols, op: op}
}

func (r *run) use(ctx context.Context, t *syntax.Use) (*Result, error) {
	c := r.s.Catalog
	if t.Catalog != "" {
		c = strings.ToLower(t.Catalog)
	}
	if err := knownCatalog(c); err != nil {
		return nil, sqlerr.WithPos(err, t.Pos)
	}
	all, err := r.schemas(ctx, c)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(s string) bool { return strings.EqualFold(s, t.Schema) })
	if i < 0 {
		return nil, sqlerr.SchemaNotFound.At(t.Pos, "Schema '%s.%s' does not exist", c, t.Schema)
	}
	return &Result{UpdateType: "USE", Changes: Changes{SetCatalog: c, SetSchema: all[i]}}, nil
}

func (r *run) describePrepared(ctx context.Context, t *syntax.DescribePrepared) (*Result, error) {
	text, ok := r.s.Prepared[t.Name]
	if !ok {
		return nil, sqlerr.NotFound.At(t.Pos, "Prepared statement not found: %s", t.Name)
	}
	stmt, n, err := syntax.Parse(text)
	if err != nil {
		return nil, err
	}
	V, I := value.VarcharType, value.BigIntType
	if t.Input {
		var rows [][]any
		for i := range n {
			rows = append(rows, []any{int64(i), "unknown"})
		}
		return r.rows([]Column{{"Position", I}, {"Type", V}}, rows), nil
	}
	cols := []Column{{"Column Name", V}, {"Catalog", V}, {"Schema", V}, {"Table", V}, {"Type", V}, {"Type Size", I}, {"Aliased", value.BooleanType}}
	var rows [][]any
	if q, ok := stmt.(*syntax.QueryStatement); ok {
		params := make([]syntax.Expr, n)
		for i := range params {
			params[i] = &syntax.Literal{}
		}
		p, err := plan.Bind(ctx, r.env(params), q.Query)
		if err != nil {
			return nil, err
		}
		for _, c := range p.Columns {
			rows = append(rows, []any{c.Name, "", "", "", c.Type.String(), int64(0), false})
		}
	}
	return r.rows(cols, rows), nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// topicName is the full name of a topic.
func topicName(namespace, local string) string {
	return topicname.Persistent.String() + "://" + namespace + "/" + local
}
