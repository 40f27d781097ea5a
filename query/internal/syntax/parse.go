// Package syntax turns the text of a statement in the ANSI/Trino dialect into a tree with places in the
// text.
//
// It owns the lexer. Queries are rewritten token by token into text that github.com/xwb1989/sqlparser
// reads, in which every name, literal and call is a sentinel, and the tree that sqlparser.Parse makes of it
// is converted to our own; statements that are not queries are parsed by hand. No other package sees
// sqlparser's types.
//
// A statement may have 1 MiB, 200,000 words and 150 levels of nesting; whatever the text, the result is a tree or a
// *sqlerr.Error with the place, never a panic.
package syntax

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/xwb1989/sqlparser"

	"github.com/daybook/daybook/query/internal/sqlerr"
)

// Parse reads one statement; a semicolon may follow it. It gives the number of parameters (?) in it.
func Parse(text string) (stmt Statement, params int, err error) {
	toks, err := lex(text)
	if err != nil {
		return nil, 0, err
	}
	r := &rewriter{text: text, toks: toks}
	stmt, err = r.statement()
	if err != nil {
		return nil, 0, err
	}
	r.acceptOp(";")
	if t := r.peek(); t.kind != tEOF {
		return nil, 0, unexpected(t, "<EOF>")
	}
	return stmt, r.params, nil
}

func (r *rewriter) statement() (Statement, error) {
	t := r.peek()
	if t.kind == tEOF {
		return nil, sqlerr.SyntaxError.At(t.pos, "mismatched input '<EOF>'. Expecting: a statement")
	}
	if t.op("(") || t.is("SELECT") || t.is("VALUES") || t.is("WITH") || t.is("TABLE") {
		q, err := r.apart((*rewriter).query)
		if err != nil {
			return nil, err
		}
		return &QueryStatement{q}, nil
	}
	r.next()
	if t.kind != tIdent {
		return nil, unexpected(t, "a statement")
	}
	switch t.upper {
	case "EXPLAIN":
		e := &Explain{Analyze: r.accept("ANALYZE")}
		r.accept("VERBOSE")
		if p := r.peek(); p.op("(") && !r.isQuery(r.i+1) {
			r.i = p.match + 1 // (TYPE …, FORMAT …): there is one form of plan
		}
		var err error
		e.Of, err = r.statement()
		return e, err
	case "SHOW":
		return r.show()
	case "DESCRIBE", "DESC":
		if p := r.peek(); (p.is("INPUT") || p.is("OUTPUT")) && r.ahead(1).kind == tIdent {
			r.next()
			name, err := r.identifier()
			return &DescribePrepared{Pos: p.pos, Input: p.is("INPUT"), Name: name}, err
		}
		tab, err := r.tableName()
		return &ShowColumns{tab}, err
	case "USE":
		u := &Use{Pos: r.peek().pos}
		parts, err := r.names()
		if err != nil {
			return nil, err
		}
		switch len(parts) {
		case 1:
			u.Schema = parts[0]
		case 2:
			u.Catalog, u.Schema = parts[0], parts[1]
		default:
			return nil, sqlerr.SyntaxError.At(u.Pos, "too many parts in schema name")
		}
		return u, nil
	case "SET":
		if r.accept("TIME") {
			if err := r.expect("ZONE"); err != nil {
				return nil, err
			}
			if r.accept("LOCAL") {
				return &SetTimeZone{}, nil
			}
			e, err := r.exprs()
			if err != nil {
				return nil, err
			}
			return &SetTimeZone{e[0]}, nil
		}
		if err := r.expect("SESSION"); err != nil {
			return nil, err
		}
		parts, err := r.names()
		if err != nil {
			return nil, err
		}
		if err := r.expectOp("="); err != nil {
			return nil, err
		}
		e, err := r.exprs()
		if err != nil {
			return nil, err
		}
		return &SetSession{Name: strings.Join(parts, "."), Value: e[0]}, nil
	case "RESET":
		if err := r.expect("SESSION"); err != nil {
			return nil, err
		}
		parts, err := r.names()
		return &ResetSession{strings.Join(parts, ".")}, err
	case "PREPARE":
		name, err := r.identifier()
		if err != nil {
			return nil, err
		}
		if err := r.expect("FROM"); err != nil {
			return nil, err
		}
		from := r.peek().off
		if _, err := r.statement(); err != nil {
			return nil, err
		}
		r.params = 0
		return &Prepare{Name: name, Text: strings.TrimSpace(r.text[from:r.peek().off])}, nil
	case "EXECUTE":
		e := &Execute{Pos: r.peek().pos}
		if r.accept("IMMEDIATE") {
			s := r.next()
			if s.kind != tString {
				return nil, unexpected(s, "<string>")
			}
			e.Immediate, e.Text = true, s.text
		} else {
			name, err := r.identifier()
			if err != nil {
				return nil, err
			}
			e.Name = name
		}
		if r.accept("USING") {
			using, err := r.exprs()
			if err != nil {
				return nil, err
			}
			e.Using = using
		}
		return e, nil
	case "DEALLOCATE":
		if err := r.expect("PREPARE"); err != nil {
			return nil, err
		}
		d := &Deallocate{Pos: r.peek().pos}
		var err error
		d.Name, err = r.identifier()
		return d, err
	case "START", "BEGIN":
		if t.upper == "START" {
			if err := r.expect("TRANSACTION"); err != nil {
				return nil, err
			}
		}
		for p := r.peek(); p.kind == tIdent || p.op(","); p = r.peek() { // modes: READ ONLY, ISOLATION LEVEL …
			r.next()
		}
		return &Transaction{"START"}, nil
	case "COMMIT", "ROLLBACK":
		r.accept("WORK")
		return &Transaction{t.upper}, nil
	case "INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "CREATE", "DROP", "ALTER", "GRANT", "REVOKE", "CALL", "ANALYZE",
		"REFRESH", "COMMENT", "DENY":
		return nil, unsupported(t, t.upper+": topics are written by publishing to them; here they are only read, so this statement")
	}
	return nil, unexpected(t, "a statement")
}

func (r *rewriter) tableName() (*Table, error) {
	t := &Table{Pos: r.peek().pos}
	var err error
	if t.Parts, err = r.names(); err != nil {
		return nil, err
	}
	if len(t.Parts) > 3 {
		return nil, sqlerr.SyntaxError.At(t.Pos, "too many dots in table name: %s", strings.Join(t.Parts, "."))
	}
	return t, nil
}

func (r *rewriter) like() (pattern *string, escape string, err error) {
	if !r.accept("LIKE") {
		return nil, "", nil
	}
	t := r.next()
	if t.kind != tString {
		return nil, "", unexpected(t, "<string>")
	}
	if r.accept("ESCAPE") {
		e := r.next()
		if e.kind != tString || len([]rune(e.text)) != 1 {
			return nil, "", unexpected(e, "<character>")
		}
		escape = e.text
	}
	return &t.text, escape, nil
}

func (r *rewriter) show() (Statement, error) {
	t := r.next()
	from := func() ([]string, error) {
		if r.accept("FROM") || r.accept("IN") {
			return r.names()
		}
		return nil, nil
	}
	switch {
	case t.is("CATALOGS"):
		l, _, err := r.like()
		return &ShowCatalogs{l}, err
	case t.is("SCHEMAS"):
		s := &ShowSchemas{}
		parts, err := from()
		if err != nil {
			return nil, err
		}
		if len(parts) > 1 {
			return nil, sqlerr.SyntaxError.At(t.pos, "a catalog has one name")
		}
		if len(parts) == 1 {
			s.Catalog = parts[0]
		}
		s.Like, s.Escape, err = r.like()
		return s, err
	case t.is("TABLES"):
		s := &ShowTables{Pos: r.ahead(1).pos}
		parts, err := from()
		if err != nil {
			return nil, err
		}
		if len(parts) > 2 {
			return nil, sqlerr.SyntaxError.At(s.Pos, "too many parts in schema name")
		}
		s.Schema = parts
		s.Like, s.Escape, err = r.like()
		return s, err
	case t.is("COLUMNS"):
		if !r.accept("FROM") && !r.accept("IN") {
			return nil, unexpected(r.peek(), "'FROM', 'IN'")
		}
		tab, err := r.tableName()
		return &ShowColumns{tab}, err
	case t.is("CREATE"):
		if err := r.expect("TABLE"); err != nil {
			return nil, err
		}
		tab, err := r.tableName()
		return &ShowCreateTable{tab}, err
	case t.is("FUNCTIONS"):
		l, _, err := r.like()
		return &ShowFunctions{l}, err
	case t.is("SESSION"):
		_, _, err := r.like()
		return &ShowSession{}, err
	}
	return nil, unexpected(t, "'CATALOGS', 'COLUMNS', 'CREATE', 'FUNCTIONS', 'SCHEMAS', 'SESSION', 'TABLES'")
}

// exprs parses a list of expressions outside a query.
func (r *rewriter) exprs() ([]Expr, error) {
	lv := &level{}
	q, err := r.apart(func(r *rewriter) error {
		r.emit("select /* " + r.add(node{kind: nSelect, pos: r.peek().pos, level: lv}) + " */")
		return r.exprList()
	})
	if err != nil {
		return nil, err
	}
	var out []Expr
	for _, it := range q.Body.(*Select).Items {
		out = append(out, it.Expr)
	}
	return out, nil
}

var positionRE = regexp.MustCompile(`at position (\d+)(?: near '([^']*)')?`)

// parse gives the rewritten text to sqlparser and converts what comes back.
func (r *rewriter) parse() (q *Query, err error) {
	defer func() {
		if p := recover(); p != nil {
			// sqlparser has panicked on odd input before; a statement must not take the process with it.
			q, err = nil, sqlerr.SyntaxError.Errorf("statement cannot be parsed: %v", p)
		}
	}()
	tree, perr := sqlparser.Parse(string(r.out))
	if perr != nil {
		return nil, r.syntaxError(perr)
	}
	sel, ok := tree.(sqlparser.SelectStatement)
	if !ok {
		return nil, sqlerr.SyntaxError.Errorf("statement is not a query")
	}
	c := converter{nodes: r.nodes}
	return c.query(sel)
}

var errConvert = errors.New("syntax: unknown sentinel")

// syntaxError maps sqlparser's position in the rewritten text back to the token it stems from.
func (r *rewriter) syntaxError(err error) error {
	m := positionRE.FindStringSubmatch(err.Error())
	if m == nil {
		return sqlerr.SyntaxError.Errorf("%v", err)
	}
	at, _ := strconv.Atoi(m[1])
	at -= 1 + len(m[2]) // the position is behind the token
	tok := 0
	for _, k := range r.marks {
		if k.out > max(at, 0) {
			break
		}
		tok = k.tok
	}
	if strings.Contains(err.Error(), "max nesting level reached") {
		return sqlerr.SyntaxError.At(r.toks[tok].pos, "statement is nested too deeply")
	}
	return unexpected(r.toks[tok], "")
}

func sentinel(nodes []node, s string) *node {
	if len(s) > 1 && s[0] == 'q' {
		if i, err := strconv.Atoi(s[1:]); err == nil && i < len(nodes) {
			return &nodes[i]
		}
	}
	panic(fmt.Errorf("%w %q", errConvert, s))
}
