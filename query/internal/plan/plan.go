// Package plan turns a parsed query into a tree of operators with every name resolved, every type checked,
// only the columns that are used, and conditions as near to the scans as they go.
package plan

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/daybook/daybook/query/internal/expr"
	"github.com/daybook/daybook/query/internal/value"
)

// A Col is one column that a node gives.
type Col struct {
	Name string
	Type value.Type
}

// A Node is an operator of a plan.
type Node interface {
	Cols() []Col
	Children() []Node
	describe() string
}

// A Table is what a catalog says of a table.
type Table struct {
	Catalog, Schema, Name string
	Columns               []TableColumn
	Source                Source
}

// A TableColumn is one column of a table.
type TableColumn struct {
	Col
	Comment string
}

// A Request says what a scan needs of a table.
type Request struct {
	Columns []int // indexes into Table.Columns; none: only the number of rows counts
	Bounds  Bounds
	Splits  int // about how many splits; more than 1 allows rows in any order
}

// Bounds narrow a scan where that is cheap; rows outside may still come.
type Bounds struct {
	PublishMin, PublishMax     int64 // __publish_time__ in ms, inclusive
	PartitionMin, PartitionMax int64 // __partition__, inclusive
}

// NoBounds lets everything through.
var NoBounds = Bounds{math.MinInt64, math.MaxInt64, math.MinInt64, math.MaxInt64}

// A Source gives the rows of a table.
type Source interface {
	// Splits cuts the table into independent streams, in order.
	Splits(ctx context.Context, r Request) ([]Split, error)
}

// A Split is a stream of batches. It is used by one goroutine and must be closed.
type Split interface {
	// Next gives the next batch, io.EOF at the end.
	Next(ctx context.Context) (*value.Batch, error)
	Close()
}

// Scan reads a table.
type Scan struct {
	Table   *Table
	Columns []int
	Bounds  Bounds
}

// Cols are the columns that are read.
func (s *Scan) Cols() []Col {
	out := make([]Col, len(s.Columns))
	for i, c := range s.Columns {
		out[i] = s.Table.Columns[c].Col
	}
	return out
}

// Children of a scan: none.
func (*Scan) Children() []Node { return nil }

func (s *Scan) describe() string {
	var names []string
	for _, c := range s.Cols() {
		names = append(names, c.Name)
	}
	d := fmt.Sprintf("Scan %s.%q.%q [%s]", s.Table.Catalog, s.Table.Schema, s.Table.Name, strings.Join(names, ", "))
	b := s.Bounds
	if b.PublishMin != NoBounds.PublishMin {
		d += " from " + string(value.AppendTimestamp(nil, b.PublishMin))
	}
	if b.PublishMax != NoBounds.PublishMax {
		d += " to " + string(value.AppendTimestamp(nil, b.PublishMax))
	}
	if b.PartitionMin != NoBounds.PartitionMin || b.PartitionMax != NoBounds.PartitionMax {
		d += fmt.Sprintf(" partitions %d..%d", b.PartitionMin, b.PartitionMax)
	}
	return d
}

// Values gives constant rows.
type Values struct {
	Columns []Col
	Rows    [][]any // boxed as value.Vec.Get gives them
}

// Cols are the columns.
func (v *Values) Cols() []Col { return v.Columns }

// Children of constant rows: none.
func (*Values) Children() []Node { return nil }

func (v *Values) describe() string { return fmt.Sprintf("Values %d rows", len(v.Rows)) }

// Filter keeps the rows for which Cond is true.
type Filter struct {
	In   Node
	Cond expr.Expr
}

// Cols are those of the input.
func (f *Filter) Cols() []Col { return f.In.Cols() }

// Children is the input.
func (f *Filter) Children() []Node { return []Node{f.In} }

func (f *Filter) describe() string { return "Filter " + expr.String(f.Cond) }

// Project computes expressions.
type Project struct {
	In    Node
	Exprs []expr.Expr
	Names []string
}

// Cols are the expressions.
func (p *Project) Cols() []Col {
	out := make([]Col, len(p.Exprs))
	for i, e := range p.Exprs {
		out[i] = Col{p.Names[i], e.Type()}
	}
	return out
}

// Children is the input.
func (p *Project) Children() []Node { return []Node{p.In} }

func (p *Project) describe() string {
	var s []string
	for _, e := range p.Exprs {
		s = append(s, expr.String(e))
	}
	return "Project " + strings.Join(s, ", ")
}

// An Agg is one aggregate function over expressions of the input.
type Agg struct {
	Name     string
	Args     []expr.Expr
	Distinct bool
	Filter   expr.Expr // nil: all rows
	T        value.Type
}

// String is the call as EXPLAIN prints it.
func (a *Agg) String() string {
	var s []string
	for _, e := range a.Args {
		s = append(s, expr.String(e))
	}
	d := ""
	if a.Distinct {
		d = "distinct "
	}
	out := a.Name + "(" + d + strings.Join(s, ", ") + ")"
	if a.Filter != nil {
		out += " filter " + expr.String(a.Filter)
	}
	return out
}

// Aggregate groups by Keys; without keys there is exactly one group. Columns: keys, then aggregates.
type Aggregate struct {
	In   Node
	Keys []expr.Expr
	Aggs []*Agg
}

// Cols are the keys, then the aggregates.
func (a *Aggregate) Cols() []Col {
	var out []Col
	for _, k := range a.Keys {
		out = append(out, Col{"", k.Type()})
	}
	for _, g := range a.Aggs {
		out = append(out, Col{"", g.T})
	}
	return out
}

// Children is the input.
func (a *Aggregate) Children() []Node { return []Node{a.In} }

func (a *Aggregate) describe() string {
	var k, g []string
	for _, e := range a.Keys {
		k = append(k, expr.String(e))
	}
	for _, e := range a.Aggs {
		g = append(g, e.String())
	}
	return fmt.Sprintf("Aggregate by [%s]: %s", strings.Join(k, ", "), strings.Join(g, ", "))
}

// A SortKey orders by a column of the input.
type SortKey struct {
	Col        int
	Desc       bool
	NullsFirst bool
}

// Sort orders rows; with Limit >= 0 it keeps only the first Limit.
type Sort struct {
	In    Node
	Keys  []SortKey
	Limit int64
}

// Cols are those of the input.
func (s *Sort) Cols() []Col { return s.In.Cols() }

// Children is the input.
func (s *Sort) Children() []Node { return []Node{s.In} }

func (s *Sort) describe() string {
	var k []string
	for _, e := range s.Keys {
		d := fmt.Sprintf("#%d", e.Col)
		if e.Desc {
			d += " desc"
		}
		if e.NullsFirst {
			d += " nulls first"
		}
		k = append(k, d)
	}
	if s.Limit >= 0 {
		return fmt.Sprintf("TopN %d by %s", s.Limit, strings.Join(k, ", "))
	}
	return "Sort by " + strings.Join(k, ", ")
}

// Limit skips Offset rows and passes N (all, if N < 0).
type Limit struct {
	In        Node
	N, Offset int64
}

// Cols are those of the input.
func (l *Limit) Cols() []Col { return l.In.Cols() }

// Children is the input.
func (l *Limit) Children() []Node { return []Node{l.In} }

func (l *Limit) describe() string { return fmt.Sprintf("Limit %d offset %d", l.N, l.Offset) }

// Join is a hash join where there are keys, else a nested loop. Columns: left, then right.
type Join struct {
	Kind         string // of syntax
	Left, Right  Node
	LKeys, RKeys []expr.Expr // over the left's and the right's columns
	Cond         expr.Expr   // over both; nil: none
}

// Cols are the left's, then the right's.
func (j *Join) Cols() []Col { return append(append([]Col(nil), j.Left.Cols()...), j.Right.Cols()...) }

// Children are both inputs.
func (j *Join) Children() []Node { return []Node{j.Left, j.Right} }

func (j *Join) describe() string {
	var k []string
	for i := range j.LKeys {
		k = append(k, expr.String(j.LKeys[i])+" = right "+expr.String(j.RKeys[i]))
	}
	d := j.Kind + " Join on [" + strings.Join(k, ", ") + "]"
	if j.Cond != nil {
		d += " and " + expr.String(j.Cond)
	}
	return d
}

// SetOp is UNION ALL of any number of inputs, or INTERSECT or EXCEPT of two.
type SetOp struct {
	Op  string
	All bool
	Ins []Node
}

// Cols are those of the first input.
func (s *SetOp) Cols() []Col { return s.Ins[0].Cols() }

// Children are the inputs.
func (s *SetOp) Children() []Node { return s.Ins }

func (s *SetOp) describe() string {
	if s.All {
		return s.Op + " ALL"
	}
	return s.Op
}

// A Subplan runs once before the statement and fills in what expressions wait for.
type Subplan struct {
	Root Node
	// Exactly one of these is set.
	Scalar *expr.Late // the value of the only column of the only row
	Exists *expr.Late // whether there is a row
	Set    *expr.Set  // the values of the only column
}

// A Plan is ready to run.
type Plan struct {
	Root     Node
	Columns  []Col // what the client sees
	Subplans []*Subplan
}

// Explain writes the plan as text, one operator a line.
func (p *Plan) Explain() string {
	var b strings.Builder
	for i, s := range p.Subplans {
		fmt.Fprintf(&b, "Subquery %d\n", i+1)
		explain(&b, s.Root, 1)
	}
	explain(&b, p.Root, 0)
	return strings.TrimSuffix(b.String(), "\n")
}

func explain(b *strings.Builder, n Node, depth int) {
	b.WriteString(strings.Repeat("    ", depth) + "- " + n.describe() + "\n")
	for _, c := range n.Children() {
		explain(b, c, depth+1)
	}
}
