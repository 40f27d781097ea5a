package syntax

import (
	"slices"
	"strconv"
	"strings"

	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// A node is what a sentinel name in the rewritten text stands for.
type node struct {
	kind nodeKind
	pos  sqlerr.Pos
	lit  *Literal
	name []string // column, table, call (lower case), field, alias
	cols []string // column aliases, USING
	typ  value.Type
	flag bool // try; desc; paren term
	// select
	op         string // the set operator in front, "" for the first
	all        bool
	level      *level
	nullsFirst bool
	param      int
}

// A level is what surrounds the set operations of one query.
type level struct {
	with          []CTE
	limit, offset Expr
}

type nodeKind uint8

const (
	nLiteral nodeKind = iota
	nName
	nParam
	nCall
	nCast
	nField
	nFilter
	nOrder
	nSelect
	nAlias
	nUsing
	nTuple
)

// A rewriter turns tokens into text that sqlparser reads: every identifier, literal and call becomes a
// sentinel (q17, :q17, q17(…)) that names a node, keywords and operators are emitted one by one, and what
// the grammar lacks becomes a call or leaves the text for a node. So no name, number or string ever
// passes through sqlparser's own lexer, and every part keeps its place in the original.
type rewriter struct {
	text   string
	toks   []token
	i      int
	nodes  []node
	out    []byte
	marks  []mark
	params int
	depth  int
	noIn   bool // POSITION(a IN b): IN ends the expression
}

type mark struct{ out, tok int }

func (r *rewriter) peek() token { return r.toks[r.i] }

func (r *rewriter) ahead(n int) token { return r.toks[min(r.i+n, len(r.toks)-1)] }

func (r *rewriter) next() token {
	t := r.toks[r.i]
	if r.i < len(r.toks)-1 {
		r.i++
	}
	return t
}

func (r *rewriter) emit(s string) {
	r.marks = append(r.marks, mark{len(r.out), r.i})
	r.out = append(r.out, s...)
	r.out = append(r.out, ' ')
}

func (r *rewriter) add(n node) string {
	r.nodes = append(r.nodes, n)
	return "q" + strconv.Itoa(len(r.nodes)-1)
}

// wrap puts a call around what was emitted since start; the caller emits the rest of it.
func (r *rewriter) wrap(start int, n node) {
	head := r.add(n) + "("
	r.out = slices.Insert(r.out, start, []byte(head)...)
	for i := len(r.marks) - 1; i >= 0 && r.marks[i].out >= start; i-- {
		r.marks[i].out += len(head)
	}
}

func unexpected(t token, expecting string) error {
	if expecting != "" {
		return sqlerr.SyntaxError.At(t.pos, "mismatched input '%s'. Expecting: %s", clip(t.text, t.kind), expecting)
	}
	return sqlerr.SyntaxError.At(t.pos, "mismatched input '%s'", clip(t.text, t.kind))
}

func clip(s string, k tokenKind) string {
	if k == tEOF {
		return "<EOF>"
	}
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

func unsupported(t token, what string) error {
	return sqlerr.NotSupported.At(t.pos, "%s is not supported", what)
}

func (r *rewriter) expectOp(o string) error {
	if !r.peek().op(o) {
		return unexpected(r.peek(), "'"+o+"'")
	}
	r.next()
	return nil
}

func (r *rewriter) expect(w string) error {
	if !r.peek().is(w) {
		return unexpected(r.peek(), "'"+w+"'")
	}
	r.next()
	return nil
}

func (r *rewriter) accept(w string) bool {
	if r.peek().is(w) {
		r.next()
		return true
	}
	return false
}

func (r *rewriter) acceptOp(o string) bool {
	if r.peek().op(o) {
		r.next()
		return true
	}
	return false
}

// identifier takes a name. Unquoted names are lower-cased: Trino's names do not tell case apart.
func (r *rewriter) identifier() (string, error) {
	t := r.peek()
	if t.kind == tQuoted || t.kind == tIdent && !reserved[t.upper] {
		r.next()
		return identText(t), nil
	}
	return "", unexpected(t, "<identifier>")
}

func identText(t token) string {
	if t.kind == tIdent {
		return strings.ToLower(t.text)
	}
	return t.text
}

func (r *rewriter) names() ([]string, error) {
	var parts []string
	for {
		id, err := r.identifier()
		if err != nil {
			return nil, err
		}
		parts = append(parts, id)
		if !r.peek().op(".") {
			return parts, nil
		}
		r.next()
	}
}

func (r *rewriter) nameList() ([]string, error) {
	if err := r.expectOp("("); err != nil {
		return nil, err
	}
	var cols []string
	for {
		id, err := r.identifier()
		if err != nil {
			return nil, err
		}
		cols = append(cols, id)
		if r.acceptOp(")") {
			return cols, nil
		}
		if err := r.expectOp(","); err != nil {
			return nil, err
		}
	}
}

// isQuery reports whether the tokens from i on, right after a parenthesis, are a query.
func (r *rewriter) isQuery(i int) bool {
	for {
		t := r.toks[i]
		if t.is("SELECT") || t.is("VALUES") || t.is("WITH") {
			return true
		}
		if !t.op("(") {
			return false
		}
		after := r.toks[t.match+1]
		if !after.op(")") && !isSetOp(after) && !after.is("ORDER") && !after.is("LIMIT") && !after.is("OFFSET") && !after.is("FETCH") {
			return false
		}
		i++
	}
}

func isSetOp(t token) bool { return t.is("UNION") || t.is("INTERSECT") || t.is("EXCEPT") }

// query rewrites a query up to its end, which the caller checks.
func (r *rewriter) query() error {
	if r.depth++; r.depth > maxDepth {
		return sqlerr.SyntaxError.At(r.peek().pos, "statement is nested more than %d levels deep", maxDepth)
	}
	defer func() { r.depth-- }()
	noIn := r.noIn
	r.noIn = false
	defer func() { r.noIn = noIn }()
	lv := &level{}
	if t := r.peek(); t.is("WITH") {
		r.next()
		if r.peek().is("RECURSIVE") {
			return unsupported(r.peek(), "WITH RECURSIVE")
		}
		for {
			c := CTE{Pos: r.peek().pos}
			var err error
			if c.Name, err = r.identifier(); err != nil {
				return err
			}
			if r.peek().op("(") {
				if c.Columns, err = r.nameList(); err != nil {
					return err
				}
			}
			if err := r.expect("AS"); err != nil {
				return err
			}
			if err := r.expectOp("("); err != nil {
				return err
			}
			if c.Query, err = r.apart((*rewriter).query); err != nil {
				return err
			}
			if err := r.expectOp(")"); err != nil {
				return err
			}
			lv.with = append(lv.with, c)
			if !r.acceptOp(",") {
				break
			}
		}
	}
	op, all := "", false
	for {
		if err := r.term(node{kind: nSelect, pos: r.peek().pos, op: op, all: all, level: lv}); err != nil {
			return err
		}
		t := r.peek()
		if !isSetOp(t) {
			break
		}
		r.emit("union all")
		r.next()
		op, all = t.upper, false
		if r.accept("ALL") {
			all = true
		} else {
			r.accept("DISTINCT")
		}
	}
	if r.accept("ORDER") {
		if err := r.expect("BY"); err != nil {
			return err
		}
		r.emit("order by")
		for {
			start := len(r.out)
			n := node{kind: nOrder, pos: r.peek().pos}
			if err := r.expr(); err != nil {
				return err
			}
			if r.accept("DESC") {
				n.flag = true
			} else {
				r.accept("ASC")
			}
			if r.peek().is("NULLS") {
				r.next()
				switch {
				case r.accept("FIRST"):
					n.nullsFirst = true
				case r.accept("LAST"):
				default:
					return unexpected(r.peek(), "'FIRST', 'LAST'")
				}
			}
			r.wrap(start, n)
			r.emit(")")
			if !r.acceptOp(",") {
				break
			}
			r.emit(",")
		}
	}
	for {
		switch t := r.peek(); {
		case t.is("OFFSET") && lv.offset == nil && lv.limit == nil || t.is("OFFSET") && lv.offset == nil:
			r.next()
			e, err := r.rowCount()
			if err != nil {
				return err
			}
			lv.offset = e
			if !r.accept("ROWS") {
				r.accept("ROW")
			}
		case t.is("LIMIT") && lv.limit == nil:
			r.next()
			if r.accept("ALL") {
				continue
			}
			e, err := r.rowCount()
			if err != nil {
				return err
			}
			lv.limit = e
		case t.is("FETCH") && lv.limit == nil:
			r.next()
			if !r.accept("FIRST") && !r.accept("NEXT") {
				return unexpected(r.peek(), "'FIRST', 'NEXT'")
			}
			lv.limit = &Literal{at: at{t.pos}, Kind: IntLiteral, Text: "1"}
			if k := r.peek().kind; k == tInt || k == tParam {
				e, err := r.rowCount()
				if err != nil {
					return err
				}
				lv.limit = e
			}
			if !r.accept("ROWS") && !r.accept("ROW") {
				return unexpected(r.peek(), "'ROW', 'ROWS'")
			}
			if r.peek().is("WITH") {
				return unsupported(r.peek(), "FETCH FIRST WITH TIES")
			}
			if err := r.expect("ONLY"); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

func (r *rewriter) rowCount() (Expr, error) {
	t := r.next()
	switch t.kind {
	case tInt:
		return &Literal{at: at{t.pos}, Kind: IntLiteral, Text: t.text}, nil
	case tParam:
		r.params++
		return &Param{at: at{t.pos}, Index: r.params - 1}, nil
	}
	return nil, unexpected(t, "<integer>, '?'")
}

// apart rewrites and parses a part of the text on its own.
func (r *rewriter) apart(part func(*rewriter) error) (*Query, error) {
	out, marks := r.out, r.marks
	r.out, r.marks = nil, nil
	defer func() { r.out, r.marks = out, marks }()
	if err := part(r); err != nil {
		return nil, err
	}
	return r.parse()
}

// term rewrites one operand of set operations.
func (r *rewriter) term(n node) error {
	t := r.peek()
	switch {
	case t.is("SELECT"):
		return r.selectCore(n)
	case t.op("("):
		if !r.isQuery(r.i + 1) {
			return unexpected(r.ahead(1), "<query>")
		}
		r.next()
		n.flag = true
		r.emit("select /* " + r.add(n) + " */ * from (")
		if err := r.query(); err != nil {
			return err
		}
		if err := r.expectOp(")"); err != nil {
			return err
		}
		r.emit(") as " + r.add(node{kind: nAlias, pos: t.pos}))
		return nil
	case t.is("VALUES"):
		r.next()
		n.flag = true
		r.emit("select /* " + r.add(n) + " */ * from (")
		inner := &level{}
		for first := true; ; first = false {
			row := node{kind: nSelect, pos: r.peek().pos, level: inner}
			if !first {
				r.emit("union all")
				row.op, row.all = "UNION", true
			}
			r.emit("select /* " + r.add(row) + " */")
			if v := r.peek(); v.op("(") && !r.isQuery(r.i+1) && r.endsRow(v.match+1) {
				r.next()
				if err := r.exprList(); err != nil {
					return err
				}
				if err := r.expectOp(")"); err != nil {
					return err
				}
			} else if err := r.expr(); err != nil {
				return err
			}
			if !r.acceptOp(",") {
				break
			}
		}
		r.emit(") as " + r.add(node{kind: nAlias, pos: t.pos}))
		return nil
	case t.is("TABLE"):
		r.next()
		pos := r.peek().pos
		parts, err := r.names()
		if err != nil {
			return err
		}
		r.emit("select /* " + r.add(n) + " */ * from " + r.add(node{kind: nName, pos: pos, name: parts}))
		return nil
	}
	return unexpected(t, "'SELECT', 'VALUES', 'WITH', '('")
}

func (r *rewriter) endsRow(i int) bool {
	t := r.toks[i]
	return t.kind == tEOF || t.op(",") || t.op(")") || t.op(";") || isSetOp(t) || t.is("ORDER") || t.is("LIMIT") || t.is("OFFSET") || t.is("FETCH")
}

func (r *rewriter) exprList() error {
	for {
		if err := r.expr(); err != nil {
			return err
		}
		if !r.peek().op(",") {
			return nil
		}
		r.emit(",")
		r.next()
	}
}

func (r *rewriter) selectCore(n node) error {
	r.emit("select /* " + r.add(n) + " */")
	r.next()
	if r.accept("DISTINCT") {
		if r.peek().is("ON") {
			return unsupported(r.peek(), "DISTINCT ON")
		}
		r.emit("distinct")
	} else {
		r.accept("ALL")
	}
	for {
		if err := r.item(); err != nil {
			return err
		}
		if !r.peek().op(",") {
			break
		}
		r.emit(",")
		r.next()
	}
	if r.peek().is("FROM") {
		r.emit("from")
		r.next()
		for {
			if err := r.tableRef(); err != nil {
				return err
			}
			if !r.peek().op(",") {
				break
			}
			r.emit(",")
			r.next()
		}
	}
	if r.peek().is("WHERE") {
		r.emit("where")
		r.next()
		if err := r.expr(); err != nil {
			return err
		}
	}
	if r.peek().is("GROUP") {
		r.emit("group by")
		r.next()
		if err := r.expect("BY"); err != nil {
			return err
		}
		if !r.accept("ALL") { // with one set of keys both mean the same
			r.accept("DISTINCT")
		}
		for {
			if t := r.peek(); t.is("ROLLUP") || t.is("CUBE") || t.is("GROUPING") && r.ahead(1).is("SETS") {
				return unsupported(t, t.upper+" in GROUP BY")
			}
			if err := r.expr(); err != nil {
				return err
			}
			if !r.peek().op(",") {
				break
			}
			r.emit(",")
			r.next()
		}
	}
	if r.peek().is("HAVING") {
		r.emit("having")
		r.next()
		if err := r.expr(); err != nil {
			return err
		}
	}
	if t := r.peek(); t.is("WINDOW") || t.is("QUALIFY") {
		return unsupported(t, t.upper)
	}
	return nil
}

func (r *rewriter) item() error {
	t := r.peek()
	if t.op("*") {
		r.emit("*")
		r.next()
		return nil
	}
	// a.b.* : a chain of names that ends with a star
	if t.kind == tIdent && !reserved[t.upper] || t.kind == tQuoted {
		j := r.i
		for r.toks[j].kind == tIdent || r.toks[j].kind == tQuoted {
			if !r.toks[j+1].op(".") {
				break
			}
			if r.toks[j+2].op("*") {
				var parts []string
				for k := r.i; k <= j; k += 2 {
					parts = append(parts, identText(r.toks[k]))
				}
				r.emit(r.add(node{kind: nName, pos: t.pos, name: parts}) + ".*")
				r.i = j + 3
				return nil
			}
			j += 2
		}
	}
	if err := r.expr(); err != nil {
		return err
	}
	t = r.peek()
	if t.is("AS") {
		r.next()
		t = r.peek()
		id, err := r.identifier()
		if err != nil {
			return err
		}
		r.emit("as " + r.add(node{kind: nAlias, pos: t.pos, name: []string{id}}))
		return nil
	}
	if r.startsAlias() {
		r.emit("as " + r.add(node{kind: nAlias, pos: t.pos, name: []string{identText(t)}}))
		r.next()
	}
	return nil
}

// startsAlias reports whether the next token is an alias without AS.
func (r *rewriter) startsAlias() bool {
	t, n := r.peek(), r.ahead(1)
	if t.kind == tQuoted {
		return true
	}
	if t.kind != tIdent || reserved[t.upper] {
		return false
	}
	count := n.kind == tInt || n.kind == tParam
	switch t.upper {
	case "LIMIT":
		return !count && !n.is("ALL")
	case "OFFSET":
		return !count
	case "FETCH":
		return !n.is("FIRST") && !n.is("NEXT")
	case "WINDOW":
		return !(r.ahead(2).is("AS") && n.kind == tIdent)
	case "TABLESAMPLE":
		return !n.is("BERNOULLI") && !n.is("SYSTEM")
	case "QUALIFY":
		return n.kind == tOp && !n.op("(") || n.kind == tEOF
	}
	return true
}

func (r *rewriter) tableRef() error {
	if r.depth++; r.depth > maxDepth {
		return sqlerr.SyntaxError.At(r.peek().pos, "statement is nested more than %d levels deep", maxDepth)
	}
	defer func() { r.depth-- }()
	if err := r.tableFactor(); err != nil {
		return err
	}
	for {
		t := r.peek()
		switch {
		case t.is("JOIN"):
			r.emit("join")
			r.next()
		case t.is("INNER"):
			r.next()
			if err := r.expect("JOIN"); err != nil {
				return err
			}
			r.emit("join")
		case t.is("LEFT"), t.is("RIGHT"), t.is("FULL"):
			r.next()
			r.accept("OUTER")
			if err := r.expect("JOIN"); err != nil {
				return err
			}
			if t.is("FULL") {
				r.emit("straight_join")
			} else {
				r.emit(strings.ToLower(t.upper) + " join")
			}
		case t.is("CROSS"):
			r.next()
			if err := r.expect("JOIN"); err != nil {
				return err
			}
			r.emit("natural join")
		case t.is("NATURAL"):
			return unsupported(t, "NATURAL JOIN")
		case t.is("ON"):
			r.emit("on")
			r.next()
			if err := r.expr(); err != nil {
				return err
			}
			continue
		case t.is("USING"):
			r.next()
			cols, err := r.nameList()
			if err != nil {
				return err
			}
			r.emit("on :" + r.add(node{kind: nUsing, pos: t.pos, cols: cols}))
			continue
		default:
			return nil
		}
		if err := r.tableFactor(); err != nil {
			return err
		}
	}
}

func (r *rewriter) tableFactor() error {
	t := r.peek()
	switch {
	case t.op("("):
		r.emit("(")
		r.next()
		if r.isQuery(r.i) {
			if err := r.query(); err != nil {
				return err
			}
			if err := r.expectOp(")"); err != nil {
				return err
			}
			r.emit(")")
			return r.tableAlias(t, true)
		}
		if err := r.tableRef(); err != nil {
			return err
		}
		if err := r.expectOp(")"); err != nil {
			return err
		}
		r.emit(")")
		return nil
	case t.is("UNNEST"), t.is("LATERAL"), t.is("TABLE") && r.ahead(1).op("("):
		return unsupported(t, t.upper+" in FROM")
	}
	parts, err := r.names()
	if err != nil {
		return err
	}
	if r.peek().op("(") {
		return unsupported(t, "a table function")
	}
	if len(parts) > 3 {
		return sqlerr.SyntaxError.At(t.pos, "too many dots in table name: %s", strings.Join(parts, "."))
	}
	r.emit(r.add(node{kind: nName, pos: t.pos, name: parts}))
	return r.tableAlias(t, false)
}

func (r *rewriter) tableAlias(start token, must bool) error {
	n := node{kind: nAlias, pos: start.pos}
	if t := r.peek(); t.is("TABLESAMPLE") && (r.ahead(1).is("BERNOULLI") || r.ahead(1).is("SYSTEM")) {
		return unsupported(t, "TABLESAMPLE")
	}
	if r.accept("AS") {
		id, err := r.identifier()
		if err != nil {
			return err
		}
		n.name = []string{id}
	} else if r.startsAlias() {
		n.name = []string{identText(r.next())}
	}
	if n.name != nil && r.peek().op("(") {
		cols, err := r.nameList()
		if err != nil {
			return err
		}
		n.cols = cols
	}
	if n.name != nil || must {
		r.emit("as " + r.add(n))
	}
	return nil
}

// expr rewrites an expression up to the first token that cannot belong to it. The order of operations is
// left to sqlparser.
func (r *rewriter) expr() error {
	if r.depth++; r.depth > maxDepth {
		return sqlerr.SyntaxError.At(r.peek().pos, "statement is nested more than %d levels deep", maxDepth)
	}
	defer func() { r.depth-- }()
	operand := true
	for {
		t := r.peek()
		if operand {
			switch {
			case t.op("-"), t.op("+"):
				r.emit(t.text)
				r.next()
			case t.is("NOT"):
				r.emit("not")
				r.next()
			default:
				if err := r.primary(); err != nil {
					return err
				}
				operand = false
			}
			continue
		}
		switch {
		case t.kind == tOp:
			switch t.text {
			case "+", "-", "*", "/", "%", "=", "<", ">", "<=", ">=", "<>":
				r.emit(t.text)
			case "!=":
				r.emit("<>")
			case "||":
				r.emit("|")
			case "->", "=>", "::":
				return unsupported(t, "'"+t.text+"'")
			default:
				return nil
			}
			r.next()
			operand = true
		case t.is("AND"), t.is("OR"), t.is("LIKE"), t.is("BETWEEN"), t.is("ESCAPE"):
			r.emit(strings.ToLower(t.upper))
			r.next()
			operand = true
			if n := r.peek(); t.is("BETWEEN") && (n.is("SYMMETRIC") || n.is("ASYMMETRIC")) {
				return unsupported(n, n.upper)
			}
		case t.is("NOT"):
			if n := r.ahead(1); !n.is("IN") && !n.is("LIKE") && !n.is("BETWEEN") {
				return unexpected(n, "'BETWEEN', 'IN', 'LIKE'")
			}
			r.emit("not")
			r.next()
		case t.is("IN"):
			if r.noIn {
				return nil
			}
			r.emit("in (")
			r.next()
			if err := r.expectOp("("); err != nil {
				return err
			}
			if r.isQuery(r.i) {
				if err := r.query(); err != nil {
					return err
				}
			} else if err := r.exprList(); err != nil {
				return err
			}
			if err := r.expectOp(")"); err != nil {
				return err
			}
			r.emit(")")
		case t.is("IS"):
			r.next()
			not := r.accept("NOT")
			switch w := r.peek(); {
			case w.is("NULL"), w.is("TRUE"), w.is("FALSE"):
				s := "is "
				if not {
					s += "not "
				}
				r.emit(s + strings.ToLower(w.upper))
				r.next()
			case w.is("DISTINCT"):
				r.next()
				if err := r.expect("FROM"); err != nil {
					return err
				}
				if not {
					r.emit("not regexp")
				} else {
					r.emit("regexp")
				}
				operand = true
			default:
				return unexpected(w, "'NULL', 'TRUE', 'FALSE', 'DISTINCT'")
			}
		default:
			return nil
		}
	}
}

func (r *rewriter) literal(l *Literal) {
	r.emit(":" + r.add(node{kind: nLiteral, pos: l.Pos, lit: l}))
}

// call emits the head of a sentinel call; the caller emits arguments and ")".
func (r *rewriter) call(pos sqlerr.Pos, name string) {
	r.emit(r.add(node{kind: nCall, pos: pos, name: []string{name}}) + "(")
}

var bareFunctions = map[string]bool{"CURRENT_DATE": true, "CURRENT_TIMESTAMP": true, "CURRENT_TIME": true, "LOCALTIMESTAMP": true,
	"LOCALTIME": true, "CURRENT_USER": true, "CURRENT_CATALOG": true, "CURRENT_SCHEMA": true}

func (r *rewriter) primary() error {
	start := len(r.out)
	if err := r.simple(); err != nil {
		return err
	}
	for n := 0; ; n++ {
		t := r.peek()
		if n > maxDepth {
			return sqlerr.SyntaxError.At(t.pos, "expression is nested more than %d levels deep", maxDepth)
		}
		switch {
		case t.op("["):
			r.next()
			r.wrap(start, node{kind: nCall, pos: t.pos, name: []string{"$subscript"}})
			r.emit(",")
			if err := r.expr(); err != nil {
				return err
			}
			if err := r.expectOp("]"); err != nil {
				return err
			}
			r.emit(")")
		case t.op("."):
			r.next()
			id, err := r.identifier()
			if err != nil {
				return err
			}
			r.wrap(start, node{kind: nField, pos: t.pos, name: []string{id}})
			r.emit(")")
		case t.is("AT") && r.ahead(1).is("TIME") && r.ahead(2).is("ZONE"):
			r.i += 3
			r.wrap(start, node{kind: nCall, pos: t.pos, name: []string{"at_timezone"}})
			r.emit(",")
			if err := r.simple(); err != nil {
				return err
			}
			r.emit(")")
		default:
			return nil
		}
	}
}

func (r *rewriter) simple() error {
	t := r.peek()
	switch t.kind {
	case tString:
		r.literal(&Literal{at: at{t.pos}, Kind: StringLiteral, Text: t.text})
		r.next()
		return nil
	case tBinary:
		r.literal(&Literal{at: at{t.pos}, Kind: BinaryLiteral, Text: t.text})
		r.next()
		return nil
	case tInt, tDecimal, tDouble:
		r.literal(&Literal{at: at{t.pos}, Kind: IntLiteral + LiteralKind(t.kind-tInt), Text: t.text})
		r.next()
		return nil
	case tParam:
		r.emit(":" + r.add(node{kind: nParam, pos: t.pos, param: r.params}))
		r.params++
		r.next()
		return nil
	case tOp:
		if !t.op("(") {
			return unexpected(t, "<expression>")
		}
		r.next()
		if r.isQuery(r.i) {
			r.emit("(")
			if err := r.query(); err != nil {
				return err
			}
			if err := r.expectOp(")"); err != nil {
				return err
			}
			r.emit(")")
			return nil
		}
		noIn := r.noIn
		r.noIn = false
		defer func() { r.noIn = noIn }()
		r.emit("(")
		if err := r.exprList(); err != nil {
			return err
		}
		if err := r.expectOp(")"); err != nil {
			return err
		}
		r.emit(")")
		return nil
	case tEOF:
		return unexpected(t, "<expression>")
	}
	// Words.
	n := r.ahead(1)
	if t.kind == tIdent {
		switch t.upper {
		case "NULL", "TRUE", "FALSE":
			l := &Literal{at: at{t.pos}, Kind: NullLiteral}
			if t.upper != "NULL" {
				l.Kind, l.Text = BoolLiteral, t.upper
			}
			r.literal(l)
			r.next()
			return nil
		case "CASE":
			return r.caseExpr()
		case "ANY", "SOME", "ALL":
			if n.op("(") && r.isQuery(r.i+2) {
				return unsupported(t, "a comparison with "+t.upper+" of a query")
			}
		case "EXISTS":
			r.next()
			if !r.peek().op("(") || !r.isQuery(r.i+1) {
				return unexpected(r.peek(), "'(' <query>")
			}
			r.emit("exists (")
			r.next()
			if err := r.query(); err != nil {
				return err
			}
			if err := r.expectOp(")"); err != nil {
				return err
			}
			r.emit(")")
			return nil
		case "CAST", "TRY_CAST":
			if n.op("(") {
				return r.cast(t)
			}
		case "EXTRACT":
			if n.op("(") {
				r.i += 2
				f := r.next()
				if f.kind != tIdent {
					return unexpected(f, "<field>")
				}
				if err := r.expect("FROM"); err != nil {
					return err
				}
				r.call(t.pos, "$extract")
				r.literal(&Literal{at: at{f.pos}, Kind: StringLiteral, Text: f.upper})
				r.emit(",")
				return r.closeCall()
			}
		case "POSITION":
			if n.op("(") {
				r.i += 2
				r.call(t.pos, "$position")
				noIn := r.noIn
				r.noIn = true
				if err := r.expr(); err != nil {
					return err
				}
				r.noIn = noIn
				if err := r.expect("IN"); err != nil {
					return err
				}
				r.emit(",")
				return r.closeCall()
			}
		case "SUBSTRING":
			if n.op("(") {
				r.i += 2
				r.call(t.pos, "substring")
				for i := 0; ; i++ {
					if err := r.expr(); err != nil {
						return err
					}
					if i == 0 && r.accept("FROM") || i == 1 && r.accept("FOR") || r.acceptOp(",") {
						r.emit(",")
						continue
					}
					if err := r.expectOp(")"); err != nil {
						return err
					}
					r.emit(")")
					return nil
				}
			}
		case "TRIM":
			if n.op("(") {
				return r.trim(t)
			}
		case "ARRAY":
			if n.op("[") {
				r.i += 2
				r.call(t.pos, "$array")
				if !r.peek().op("]") {
					if err := r.exprList(); err != nil {
						return err
					}
				}
				if err := r.expectOp("]"); err != nil {
					return err
				}
				r.emit(")")
				return nil
			}
		case "INTERVAL":
			if n.kind == tString || (n.op("-") || n.op("+")) && r.ahead(2).kind == tString {
				return r.interval(t)
			}
		case "DOUBLE":
			if n.is("PRECISION") && r.ahead(2).kind == tString {
				r.next()
				n = r.ahead(1)
			}
		}
		if bareFunctions[t.upper] {
			r.next()
			r.call(t.pos, strings.ToLower(t.upper))
			if r.acceptOp("(") {
				if r.peek().kind != tInt {
					return unexpected(r.peek(), "<precision>")
				}
				r.next()
				if err := r.expectOp(")"); err != nil {
					return err
				}
			}
			r.emit(")")
			return nil
		}
		if n.kind == tString {
			if typ, ok := literalTypes[t.upper]; ok {
				r.i += 2
				r.literal(&Literal{at: at{t.pos}, Kind: TypedLiteral, Text: n.text, Type: typ})
				return nil
			}
			if t.upper == "U" {
				return unsupported(t, "a Unicode string literal")
			}
		}
	}
	// LEFT(…), RIGHT(…) and IF(…) are functions although LEFT and RIGHT are reserved; so is GROUPING(…).
	if t.kind == tIdent && reserved[t.upper] && !(n.op("(") && (t.upper == "LEFT" || t.upper == "RIGHT")) {
		return unexpected(t, "<expression>")
	}
	if n.op("(") {
		r.i += 2
		return r.function(t, identText(t))
	}
	parts, err := r.names()
	if err != nil {
		return err
	}
	if r.peek().op("(") { // a qualified function: only its name counts
		r.next()
		return r.function(t, parts[len(parts)-1])
	}
	r.emit(r.add(node{kind: nName, pos: t.pos, name: parts}))
	return nil
}

var literalTypes = map[string]value.Type{"DATE": value.DateType, "TIMESTAMP": value.TimestampType, "TIME": value.TimeType,
	"DECIMAL": {Kind: value.Decimal}, "DOUBLE": value.DoubleType, "PRECISION": value.DoubleType, "REAL": value.RealType,
	"BIGINT": value.BigIntType, "INTEGER": value.IntegerType, "INT": value.IntegerType, "SMALLINT": value.SmallIntType,
	"TINYINT": value.TinyIntType, "BOOLEAN": value.BooleanType, "VARCHAR": value.VarcharType, "CHAR": value.VarcharType}

// closeCall takes the last argument and the parenthesis.
func (r *rewriter) closeCall() error {
	if err := r.expr(); err != nil {
		return err
	}
	if err := r.expectOp(")"); err != nil {
		return err
	}
	r.emit(")")
	return nil
}

func (r *rewriter) function(t token, name string) error {
	start := len(r.out)
	noIn := r.noIn
	r.noIn = false
	defer func() { r.noIn = noIn }()
	r.call(t.pos, strings.ToLower(name))
	if r.accept("DISTINCT") {
		r.emit("distinct")
	} else {
		r.accept("ALL")
	}
	switch p := r.peek(); {
	case p.op("*"):
		r.emit("*")
		r.next()
	case p.op(")"):
	default:
		if err := r.exprList(); err != nil {
			return err
		}
	}
	if p := r.peek(); p.is("ORDER") {
		return unsupported(p, "ORDER BY in an aggregate")
	}
	if err := r.expectOp(")"); err != nil {
		return err
	}
	r.emit(")")
	if p := r.peek(); p.is("FILTER") && r.ahead(1).op("(") {
		r.i += 2
		if err := r.expect("WHERE"); err != nil {
			return err
		}
		r.wrap(start, node{kind: nFilter, pos: p.pos})
		r.emit(",")
		if err := r.closeCall(); err != nil {
			return err
		}
	}
	if p := r.peek(); p.is("OVER") && (r.ahead(1).op("(") || r.ahead(1).kind == tIdent) {
		return unsupported(p, "a window function")
	}
	if p := r.peek(); (p.is("IGNORE") || p.is("RESPECT")) && r.ahead(1).is("NULLS") {
		return unsupported(p, p.upper+" NULLS")
	}
	if p := r.peek(); p.is("WITHIN") && r.ahead(1).is("GROUP") {
		return unsupported(p, "WITHIN GROUP")
	}
	return nil
}

func (r *rewriter) caseExpr() error {
	r.emit("case")
	r.next()
	if !r.peek().is("WHEN") {
		if err := r.expr(); err != nil {
			return err
		}
	}
	for n := 0; ; n++ {
		if !r.peek().is("WHEN") {
			if n == 0 {
				return unexpected(r.peek(), "'WHEN'")
			}
			break
		}
		r.emit("when")
		r.next()
		if err := r.expr(); err != nil {
			return err
		}
		if err := r.expect("THEN"); err != nil {
			return err
		}
		r.emit("then")
		if err := r.expr(); err != nil {
			return err
		}
	}
	if r.accept("ELSE") {
		r.emit("else")
		if err := r.expr(); err != nil {
			return err
		}
	}
	if err := r.expect("END"); err != nil {
		return err
	}
	r.emit("end")
	return nil
}

func (r *rewriter) cast(t token) error {
	r.i += 2
	start := len(r.out)
	if err := r.expr(); err != nil {
		return err
	}
	if err := r.expect("AS"); err != nil {
		return err
	}
	typ, err := r.typeName()
	if err != nil {
		return err
	}
	if err := r.expectOp(")"); err != nil {
		return err
	}
	r.wrap(start, node{kind: nCast, pos: t.pos, typ: typ, flag: t.upper == "TRY_CAST"})
	r.emit(")")
	return nil
}

func (r *rewriter) trim(t token) error {
	r.i += 2
	name := "trim"
	side := false
	switch p := r.peek(); {
	case p.is("LEADING"):
		name, side = "ltrim", true
	case p.is("TRAILING"):
		name, side = "rtrim", true
	case p.is("BOTH"):
		side = true
	}
	if side {
		r.next()
		if r.accept("FROM") {
			r.call(t.pos, name)
			return r.closeCall()
		}
	}
	start := len(r.out)
	if err := r.expr(); err != nil {
		return err
	}
	if r.accept("FROM") { // TRIM(chars FROM text): the arguments the other way round
		r.wrap(start, node{kind: nCall, pos: t.pos, name: []string{"$" + name}})
		r.emit(",")
		return r.closeCall()
	}
	if side {
		return unexpected(r.peek(), "'FROM'")
	}
	r.wrap(start, node{kind: nCall, pos: t.pos, name: []string{name}})
	if r.acceptOp(",") {
		r.emit(",")
		return r.closeCall()
	}
	if err := r.expectOp(")"); err != nil {
		return err
	}
	r.emit(")")
	return nil
}

var intervalUnits = map[string]bool{"YEAR": true, "MONTH": true, "DAY": true, "HOUR": true, "MINUTE": true, "SECOND": true}

func (r *rewriter) interval(t token) error {
	l := &Literal{at: at{t.pos}, Kind: IntervalLiteral}
	r.next()
	if r.peek().kind == tOp {
		l.Negative = r.next().op("-")
	}
	l.Text = r.next().text
	u := r.next()
	if u.kind != tIdent || !intervalUnits[u.upper] {
		return unexpected(u, "'DAY', 'HOUR', 'MINUTE', 'MONTH', 'SECOND', 'YEAR'")
	}
	l.Unit = u.upper
	if r.accept("TO") {
		u := r.next()
		if u.kind != tIdent || !intervalUnits[u.upper] {
			return unexpected(u, "'HOUR', 'MINUTE', 'MONTH', 'SECOND'")
		}
		l.To = u.upper
	}
	r.literal(l)
	return nil
}

var typeNames = map[string]value.Type{"BOOLEAN": value.BooleanType, "TINYINT": value.TinyIntType, "SMALLINT": value.SmallIntType,
	"INTEGER": value.IntegerType, "INT": value.IntegerType, "BIGINT": value.BigIntType, "REAL": value.RealType, "DOUBLE": value.DoubleType,
	"VARCHAR": value.VarcharType, "CHAR": value.VarcharType, "STRING": value.VarcharType, "JSON": value.VarcharType,
	"VARBINARY": value.VarbinaryType, "DATE": value.DateType, "TIME": value.TimeType, "TIMESTAMP": value.TimestampType}

// typeName reads a type as CAST names it.
func (r *rewriter) typeName() (value.Type, error) {
	if r.depth++; r.depth > maxDepth {
		return value.Type{}, sqlerr.SyntaxError.At(r.peek().pos, "type is nested more than %d levels deep", maxDepth)
	}
	defer func() { r.depth-- }()
	t := r.next()
	if t.kind != tIdent && t.kind != tQuoted {
		return value.Type{}, unexpected(t, "<type>")
	}
	name := strings.ToUpper(t.text)
	args := func(most int) ([]int, error) {
		var out []int
		if !r.acceptOp("(") {
			return nil, nil
		}
		for {
			a := r.next()
			n, err := strconv.Atoi(a.text)
			if a.kind != tInt || err != nil || len(out) == most {
				return nil, unexpected(a, "<integer>")
			}
			out = append(out, n)
			if r.acceptOp(")") {
				return out, nil
			}
			if err := r.expectOp(","); err != nil {
				return nil, err
			}
		}
	}
	switch name {
	case "DECIMAL", "NUMERIC", "DEC":
		a, err := args(2)
		if err != nil {
			return value.Type{}, err
		}
		p, s := 38, 0
		if len(a) > 0 {
			p = a[0]
		}
		if len(a) > 1 {
			s = a[1]
		}
		if p < 1 || p > value.MaxPrecision || s > p {
			return value.Type{}, sqlerr.InvalidFunctionArg.At(t.pos, "DECIMAL precision must be in range [1, 38] and scale in range [0, precision]")
		}
		return value.DecimalType(p, s), nil
	case "ARRAY":
		closing := ")"
		if r.acceptOp("<") {
			closing = ">"
		} else if err := r.expectOp("("); err != nil {
			return value.Type{}, err
		}
		e, err := r.typeName()
		if err != nil {
			return value.Type{}, err
		}
		return value.ArrayOf(e), r.expectOp(closing)
	case "MAP":
		if err := r.expectOp("("); err != nil {
			return value.Type{}, err
		}
		k, err := r.typeName()
		if err != nil {
			return value.Type{}, err
		}
		if err := r.expectOp(","); err != nil {
			return value.Type{}, err
		}
		v, err := r.typeName()
		if err != nil {
			return value.Type{}, err
		}
		return value.MapOf(k, v), r.expectOp(")")
	case "ROW":
		if err := r.expectOp("("); err != nil {
			return value.Type{}, err
		}
		var fields []value.Field
		for {
			f := value.Field{}
			if n := r.ahead(1); (r.peek().kind == tIdent || r.peek().kind == tQuoted) && (n.kind == tIdent || n.kind == tQuoted) && !(r.peek().is("DOUBLE") && n.is("PRECISION")) {
				f.Name = identText(r.next())
			}
			var err error
			if f.Type, err = r.typeName(); err != nil {
				return value.Type{}, err
			}
			fields = append(fields, f)
			if r.acceptOp(")") {
				return value.RowOf(fields...), nil
			}
			if err := r.expectOp(","); err != nil {
				return value.Type{}, err
			}
		}
	}
	typ, ok := typeNames[name]
	if !ok {
		return value.Type{}, sqlerr.TypeNotFound.At(t.pos, "Unknown type: %s", strings.ToLower(t.text))
	}
	switch name {
	case "DOUBLE":
		r.accept("PRECISION")
	case "VARCHAR", "CHAR":
		if _, err := args(1); err != nil {
			return value.Type{}, err
		}
	case "TIMESTAMP", "TIME":
		if _, err := args(1); err != nil {
			return value.Type{}, err
		}
		if p := r.peek(); (p.is("WITH") || p.is("WITHOUT")) && r.ahead(1).is("TIME") && r.ahead(2).is("ZONE") {
			r.i += 3
			if p.is("WITH") {
				if name == "TIME" {
					return value.Type{}, unsupported(p, "TIME WITH TIME ZONE")
				}
				typ = value.TimestampTZType
			}
		}
	}
	return typ, nil
}
