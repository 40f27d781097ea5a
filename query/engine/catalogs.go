package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/daybook/daybook/query/catalog"
	"github.com/daybook/daybook/query/internal/expr"
	"github.com/daybook/daybook/query/internal/plan"
	"github.com/daybook/daybook/query/internal/scan"
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/syntax"
	"github.com/daybook/daybook/query/internal/value"
)

const (
	systemCatalog = "system"
	infoSchema    = "information_schema"
)

func analyzed(rows int64, d time.Duration) string {
	return fmt.Sprintf("- Output: %d rows in %s", rows, d.Round(time.Millisecond))
}

func knownCatalog(name string) error {
	if name != catalog.Name && name != systemCatalog {
		return sqlerr.CatalogNotFound.Errorf("Catalog '%s' does not exist", name)
	}
	return nil
}

func (r *run) schemas(ctx context.Context, cat string) ([]string, error) {
	if cat == systemCatalog {
		return []string{infoSchema, "runtime"}, nil
	}
	ns, err := r.e.cfg.Catalog.Namespaces(ctx)
	if err != nil {
		return nil, sqlerr.PulsarRead.Wrap(err, "list namespaces")
	}
	out := append(slices.Clone(ns), infoSchema)
	slices.Sort(out)
	return out, nil
}

func (r *run) topics(ctx context.Context, ns string) ([]catalog.Topic, error) {
	ts, err := r.e.cfg.Catalog.Topics(ctx, ns)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return nil, sqlerr.PulsarRead.Wrap(err, "list topics of %s", ns)
	}
	return ts, err
}

// Table finds a table by its name; the same name gives the same table, with its fences, in one statement.
func (r *run) Table(ctx context.Context, cat, schema, name string) (*plan.Table, error) {
	if err := knownCatalog(cat); err != nil {
		return nil, err
	}
	key := strings.ToLower(cat + "\x00" + schema + "\x00" + name)
	if t, ok := r.tables[key]; ok {
		return t, nil
	}
	t, err := r.open(ctx, cat, schema, name)
	if err == nil {
		r.tables[key] = t
	}
	return t, err
}

func (r *run) open(ctx context.Context, cat, schema, name string) (*plan.Table, error) {
	missing := sqlerr.TableNotFound.Errorf("Table '%s.%s.%s' does not exist", cat, schema, name)
	if strings.EqualFold(schema, infoSchema) || cat == systemCatalog {
		t, ok := r.systemTable(cat, strings.ToLower(schema), strings.ToLower(name))
		if !ok {
			return nil, missing
		}
		return t, nil
	}
	ns, topic, err := r.find(ctx, schema, name)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, sqlerr.SchemaNotFound.Errorf("Schema '%s' does not exist", schema)
	}
	if err != nil {
		return nil, err
	}
	if topic == nil {
		return nil, missing
	}
	if a := r.e.cfg.Authorizer; a != nil {
		ok, err := a.CanRead(ctx, r.s.User, topicName(ns, topic.Name))
		if err != nil {
			return nil, sqlerr.PulsarRead.Wrap(err, "authorize %s", topic.Name)
		}
		if !ok {
			return nil, sqlerr.PermissionDenied.Errorf("Access Denied: Cannot select from table %s.%s.%s", cat, ns, topic.Name)
		}
	}
	src, err := scan.Open(ctx, r.e.cfg.Topics, r.e.cfg.Catalog, ns, *topic, r.warn)
	if err != nil {
		return nil, err
	}
	return &plan.Table{Catalog: cat, Schema: ns, Name: topic.Name, Columns: src.Columns(), Source: src}, nil
}

// find finds a topic whatever the case of its name; a name that only differs in case from two others is ambiguous.
func (r *run) find(ctx context.Context, schema, name string) (string, *catalog.Topic, error) {
	ns := schema
	ts, err := r.topics(ctx, ns)
	if errors.Is(err, catalog.ErrNotFound) {
		all, err := r.e.cfg.Catalog.Namespaces(ctx)
		if err != nil {
			return "", nil, sqlerr.PulsarRead.Wrap(err, "list namespaces")
		}
		i := slices.IndexFunc(all, func(s string) bool { return strings.EqualFold(s, schema) })
		if i < 0 {
			return "", nil, catalog.ErrNotFound
		}
		ns = all[i]
		if ts, err = r.topics(ctx, ns); err != nil {
			return "", nil, err
		}
	} else if err != nil {
		return "", nil, err
	}
	var found *catalog.Topic
	for i := range ts {
		if ts[i].Name == name {
			return ns, &ts[i], nil
		}
		if strings.EqualFold(ts[i].Name, name) {
			if found != nil {
				return "", nil, sqlerr.AmbiguousName.Errorf("There are several topics that match the table name %s: %s and %s", name, found.Name, ts[i].Name)
			}
			found = &ts[i]
		}
	}
	return ns, found, nil
}

// rowsSource is a table whose rows are made when it is scanned.
type rowsSource struct {
	cols []plan.TableColumn
	make func(ctx context.Context) ([][]any, error)
}

func (s *rowsSource) Splits(_ context.Context, r plan.Request) ([]plan.Split, error) {
	return []plan.Split{&rowsSplit{s: s, cols: r.Columns}}, nil
}

type rowsSplit struct {
	s    *rowsSource
	cols []int
	rows [][]any
	read bool
}

func (s *rowsSplit) Next(ctx context.Context) (*value.Batch, error) {
	if !s.read {
		rows, err := s.s.make(ctx)
		if err != nil {
			return nil, err
		}
		s.rows, s.read = rows, true
	}
	n := min(len(s.rows), value.BatchSize)
	if n == 0 {
		return nil, io.EOF
	}
	b := &value.Batch{Len: n}
	for _, c := range s.cols {
		v := value.NewVec(s.s.cols[c].Type, n)
		for i := range n {
			v.Set(i, s.rows[i][c])
		}
		b.Cols = append(b.Cols, v)
	}
	s.rows = s.rows[n:]
	return b, nil
}

func (*rowsSplit) Close() {}

func (r *run) systemTable(cat, schema, name string) (*plan.Table, bool) {
	V, I := value.VarcharType, value.BigIntType
	var cols []plan.TableColumn
	add := func(t value.Type, names ...string) {
		for _, n := range names {
			cols = append(cols, plan.TableColumn{Col: plan.Col{Name: n, Type: t}})
		}
	}
	var rows func(ctx context.Context) ([][]any, error)
	eachTopic := func(ctx context.Context, f func(ns string, t catalog.Topic) error) error {
		if cat != catalog.Name {
			return nil
		}
		all, err := r.e.cfg.Catalog.Namespaces(ctx)
		if err != nil {
			return sqlerr.PulsarRead.Wrap(err, "list namespaces")
		}
		for _, ns := range all {
			ts, err := r.topics(ctx, ns)
			if err != nil && !errors.Is(err, catalog.ErrNotFound) {
				return err
			}
			for _, t := range ts {
				if a := r.e.cfg.Authorizer; a != nil {
					if ok, err := a.CanRead(ctx, r.s.User, topicName(ns, t.Name)); err != nil || !ok {
						continue
					}
				}
				if err := f(ns, t); err != nil {
					return err
				}
			}
		}
		return nil
	}
	switch schema + "." + name {
	case infoSchema + ".schemata":
		add(V, "catalog_name", "schema_name")
		rows = func(ctx context.Context) ([][]any, error) {
			all, err := r.schemas(ctx, cat)
			var out [][]any
			for _, s := range all {
				out = append(out, []any{cat, s})
			}
			return out, err
		}
	case infoSchema + ".tables":
		add(V, "table_catalog", "table_schema", "table_name", "table_type")
		rows = func(ctx context.Context) ([][]any, error) {
			var out [][]any
			for _, n := range []string{"columns", "schemata", "tables"} {
				out = append(out, []any{cat, infoSchema, n, "BASE TABLE"})
			}
			if cat == systemCatalog {
				out = append(out, []any{cat, "runtime", "nodes", "BASE TABLE"})
			}
			err := eachTopic(ctx, func(ns string, t catalog.Topic) error {
				out = append(out, []any{cat, ns, strings.ToLower(t.Name), "BASE TABLE"})
				return nil
			})
			return out, err
		}
	case infoSchema + ".columns":
		add(V, "table_catalog", "table_schema", "table_name", "column_name")
		add(I, "ordinal_position")
		add(V, "column_default", "is_nullable", "data_type", "comment")
		rows = func(ctx context.Context) ([][]any, error) {
			var out [][]any
			err := eachTopic(ctx, func(ns string, t catalog.Topic) error {
				s, err := r.e.cfg.Catalog.Schema(ctx, ns, t.Name)
				if err != nil && !errors.Is(err, catalog.ErrNotFound) {
					return sqlerr.PulsarRead.Wrap(err, "schema of %s", t.Name)
				}
				tc, err := scan.Columns(s)
				if err != nil {
					return nil // a topic that SQL cannot show has no columns
				}
				for i, c := range tc {
					out = append(out, []any{cat, ns, strings.ToLower(t.Name), c.Name, int64(i) + 1, nil, "YES", c.Type.String(), c.Comment})
				}
				return nil
			})
			return out, err
		}
	case "runtime.nodes":
		if cat != systemCatalog {
			return nil, false
		}
		add(V, "node_id", "http_uri", "node_version")
		add(value.BooleanType, "coordinator")
		add(V, "state")
		rows = func(context.Context) ([][]any, error) {
			return [][]any{{r.e.cfg.NodeID, "", r.e.cfg.Version, true, "active"}}, nil
		}
	default:
		return nil, false
	}
	return &plan.Table{Catalog: cat, Schema: schema, Name: name, Columns: cols, Source: &rowsSource{cols: cols, make: rows}}, true
}

func like(rows []string, pattern *string, escape string) ([][]any, error) {
	var out [][]any
	for _, s := range rows {
		if pattern != nil {
			ok, err := expr.MatchLike(s, *pattern, escape)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
		}
		out = append(out, []any{s})
	}
	return out, nil
}

func (r *run) show(ctx context.Context, stmt syntax.Statement) (*Result, error) {
	V := value.VarcharType
	switch t := stmt.(type) {
	case *syntax.ShowCatalogs:
		rows, err := like([]string{catalog.Name, systemCatalog}, t.Like, "")
		return r.rows([]Column{{"Catalog", V}}, rows), err
	case *syntax.ShowSchemas:
		c := r.s.Catalog
		if t.Catalog != "" {
			c = strings.ToLower(t.Catalog)
		}
		if err := knownCatalog(c); err != nil {
			return nil, err
		}
		all, err := r.schemas(ctx, c)
		if err != nil {
			return nil, err
		}
		rows, err := like(all, t.Like, t.Escape)
		return r.rows([]Column{{"Schema", V}}, rows), err
	case *syntax.ShowTables:
		return r.showTables(ctx, t)
	case *syntax.ShowColumns, *syntax.ShowCreateTable:
		return r.showTable(ctx, stmt)
	case *syntax.ShowFunctions:
		rows, err := like(slices.Sorted(slices.Values(append(expr.Names(), plan.AggregateNames()...))), t.Like, "")
		return r.rows([]Column{{"Function", V}}, rows), err
	case *syntax.ShowSession:
		var rows [][]any
		for _, k := range sortedKeys(sessionProperties) {
			rows = append(rows, []any{k, r.s.Properties[k], "", "varchar", sessionProperties[k]})
		}
		return r.rows([]Column{{"Name", V}, {"Value", V}, {"Default", V}, {"Type", V}, {"Description", V}}, rows), nil
	}
	return nil, sqlerr.NotSupported.Errorf("statement is not supported")
}

func (r *run) showTables(ctx context.Context, t *syntax.ShowTables) (*Result, error) {
	c, s := r.s.Catalog, r.s.Schema
	switch len(t.Schema) {
	case 1:
		s = t.Schema[0]
	case 2:
		c, s = strings.ToLower(t.Schema[0]), t.Schema[1]
	}
	if err := knownCatalog(c); err != nil {
		return nil, sqlerr.WithPos(err, t.Pos)
	}
	if s == "" {
		return nil, sqlerr.MissingSchemaName.At(t.Pos, "Schema must be specified when session schema is not set")
	}
	var names []string
	switch {
	case strings.EqualFold(s, infoSchema):
		names = []string{"columns", "schemata", "tables"}
	case c == systemCatalog && strings.EqualFold(s, "runtime"):
		names = []string{"nodes"}
	default:
		all, err := r.schemas(ctx, c)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(x string) bool { return strings.EqualFold(x, s) })
		if i < 0 {
			return nil, sqlerr.SchemaNotFound.At(t.Pos, "Schema '%s' does not exist", s)
		}
		ts, err := r.topics(ctx, all[i])
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return nil, err
		}
		for _, tp := range ts {
			names = append(names, strings.ToLower(tp.Name))
		}
		slices.Sort(names)
	}
	rows, err := like(names, t.Like, t.Escape)
	return r.rows([]Column{{"Table", value.VarcharType}}, rows), err
}

func (r *run) showTable(ctx context.Context, stmt syntax.Statement) (*Result, error) {
	V := value.VarcharType
	create, isCreate := stmt.(*syntax.ShowCreateTable)
	var tab *syntax.Table
	if isCreate {
		tab = create.Table
	} else {
		tab = stmt.(*syntax.ShowColumns).Table
	}
	c, s, name := r.s.Catalog, r.s.Schema, tab.Parts[len(tab.Parts)-1]
	switch len(tab.Parts) {
	case 2:
		s = tab.Parts[0]
	case 3:
		c, s = strings.ToLower(tab.Parts[0]), tab.Parts[1]
	}
	t, err := r.Table(ctx, c, s, name)
	if err != nil {
		return nil, sqlerr.WithPos(err, tab.Pos)
	}
	if isCreate {
		var b strings.Builder
		fmt.Fprintf(&b, "CREATE TABLE %s.%q.%q (\n", t.Catalog, t.Schema, t.Name)
		for i, col := range t.Columns {
			fmt.Fprintf(&b, "   %q %s", col.Name, col.Type)
			if i < len(t.Columns)-1 {
				b.WriteByte(',')
			}
			b.WriteByte('\n')
		}
		b.WriteByte(')')
		return r.rows([]Column{{"Create Table", V}}, [][]any{{b.String()}}), nil
	}
	var rows [][]any
	for _, col := range t.Columns {
		rows = append(rows, []any{col.Name, col.Type.String(), "", col.Comment})
	}
	return r.rows([]Column{{"Column", V}, {"Type", V}, {"Extra", V}, {"Comment", V}}, rows), nil
}
