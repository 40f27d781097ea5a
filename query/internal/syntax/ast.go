package syntax

import (
	"github.com/daybook/daybook/query/internal/sqlerr"
	"github.com/daybook/daybook/query/internal/value"
)

// A Statement is one parsed statement.
type Statement interface{ statement() }

type (
	// QueryStatement is a SELECT, VALUES or TABLE with all around it.
	QueryStatement struct{ Query *Query }
	// Explain asks for the plan of a statement.
	Explain struct {
		Analyze bool
		Of      Statement
	}
	// ShowCatalogs lists catalogs.
	ShowCatalogs struct{ Like *string }
	// ShowSchemas lists schemas of a catalog ("" : the session's).
	ShowSchemas struct {
		Catalog string
		Like    *string
		Escape  string
	}
	// ShowTables lists tables of a schema (no parts: the session's).
	ShowTables struct {
		Pos    sqlerr.Pos
		Schema []string
		Like   *string
		Escape string
	}
	// ShowColumns describes a table; DESCRIBE is the same.
	ShowColumns struct{ Table *Table }
	// ShowCreateTable writes a table's definition.
	ShowCreateTable struct{ Table *Table }
	// ShowFunctions lists functions.
	ShowFunctions struct{ Like *string }
	// ShowSession lists session properties.
	ShowSession struct{}
	// Use sets the session's catalog and schema.
	Use struct {
		Pos             sqlerr.Pos
		Catalog, Schema string
	}
	// SetSession sets a session property.
	SetSession struct {
		Name  string
		Value Expr
	}
	// ResetSession unsets a session property.
	ResetSession struct{ Name string }
	// SetTimeZone sets the session's zone; nil: the default.
	SetTimeZone struct{ Zone Expr }
	// Prepare names a statement's text.
	Prepare struct{ Name, Text string }
	// Execute runs a prepared statement, or Text if Immediate.
	Execute struct {
		Pos       sqlerr.Pos
		Name      string
		Immediate bool
		Text      string
		Using     []Expr
	}
	// Deallocate forgets a prepared statement.
	Deallocate struct {
		Pos  sqlerr.Pos
		Name string
	}
	// DescribePrepared tells the parameters (Input) or columns of a prepared statement.
	DescribePrepared struct {
		Pos   sqlerr.Pos
		Input bool
		Name  string
	}
	// Transaction is START TRANSACTION, COMMIT or ROLLBACK; reads are always of one snapshot per statement.
	Transaction struct{ Verb string }
)

func (*QueryStatement) statement()   {}
func (*Explain) statement()          {}
func (*ShowCatalogs) statement()     {}
func (*ShowSchemas) statement()      {}
func (*ShowTables) statement()       {}
func (*ShowColumns) statement()      {}
func (*ShowCreateTable) statement()  {}
func (*ShowFunctions) statement()    {}
func (*ShowSession) statement()      {}
func (*Use) statement()              {}
func (*SetSession) statement()       {}
func (*ResetSession) statement()     {}
func (*SetTimeZone) statement()      {}
func (*Prepare) statement()          {}
func (*Execute) statement()          {}
func (*Deallocate) statement()       {}
func (*DescribePrepared) statement() {}
func (*Transaction) statement()      {}

// A Query is a body with what surrounds it.
type Query struct {
	With          []CTE
	Body          Body
	OrderBy       []OrderItem
	Limit, Offset Expr // an integer literal, a Param or nil
}

// A CTE is one named query of WITH.
type CTE struct {
	Pos     sqlerr.Pos
	Name    string
	Columns []string
	Query   *Query
}

// A Body is a *Select, a *SetOp or a *Query in parentheses.
type Body interface{ body() }

func (*Select) body() {}
func (*SetOp) body()  {}
func (*Query) body()  {}

// Select is one SELECT without ORDER BY and LIMIT.
type Select struct {
	Pos      sqlerr.Pos
	Distinct bool
	Items    []Item
	From     []TableExpr // joined by comma
	Where    Expr
	GroupBy  []Expr
	Having   Expr
}

// An Item is one expression of a select list; Alias is "" if none is given.
type Item struct {
	Expr  Expr // a *Star for * and t.*
	Alias string
}

// SetOp is UNION, INTERSECT or EXCEPT.
type SetOp struct {
	Op          string // "UNION", "INTERSECT", "EXCEPT"
	All         bool
	Left, Right Body
	Pos         sqlerr.Pos
}

// OrderItem is one sort key.
type OrderItem struct {
	Expr       Expr
	Desc       bool
	NullsFirst bool
}

// A TableExpr is a *Table, a *Derived or a *Join.
type TableExpr interface{ tableExpr() }

func (*Table) tableExpr()   {}
func (*Derived) tableExpr() {}
func (*Join) tableExpr()    {}

// Table names a table by up to three parts.
type Table struct {
	Pos     sqlerr.Pos
	Parts   []string
	Alias   string
	Columns []string
}

// Derived is a query in FROM. Alias may be "".
type Derived struct {
	Pos     sqlerr.Pos
	Query   *Query
	Alias   string
	Columns []string
}

// The kinds of Join.
const (
	InnerJoin = "INNER"
	LeftJoin  = "LEFT"
	RightJoin = "RIGHT"
	FullJoin  = "FULL"
	CrossJoin = "CROSS"
)

// Join joins two tables.
type Join struct {
	Pos         sqlerr.Pos
	Kind        string
	Left, Right TableExpr
	On          Expr
	Using       []string
}

// An Expr is an expression; Position is where it, or its first named part, begins.
type Expr interface{ Position() sqlerr.Pos }

type at struct{ Pos sqlerr.Pos }

// Position gives the place in the text.
func (a at) Position() sqlerr.Pos { return a.Pos }

// LiteralKind tells literals apart.
type LiteralKind uint8

// The kinds of literals.
const (
	NullLiteral LiteralKind = iota
	BoolLiteral
	IntLiteral
	DecimalLiteral
	DoubleLiteral
	StringLiteral
	BinaryLiteral
	TypedLiteral    // Type and Text
	IntervalLiteral // Text, Unit, To, Negative
)

type (
	// Literal is a constant. Text is decoded: no quotes, no doubled quotes.
	Literal struct {
		at
		Kind     LiteralKind
		Text     string
		Type     value.Type
		Unit, To string
		Negative bool
	}
	// Column names a column, perhaps qualified, perhaps followed by fields of rows.
	Column struct {
		at
		Parts []string
	}
	// Star is * or t.*.
	Star struct {
		at
		Qualifier []string
	}
	// Param is the Index-th question mark, counted from 0.
	Param struct {
		at
		Index int
	}
	// Binary is an arithmetic operator, ||, a comparison, IS DISTINCT FROM or IS NOT DISTINCT FROM.
	Binary struct {
		at
		Op          string
		Left, Right Expr
	}
	// Logical is AND or OR of two or more.
	Logical struct {
		at
		Or   bool
		Args []Expr
	}
	// Not is NOT.
	Not struct {
		at
		X Expr
	}
	// Unary is - or +.
	Unary struct {
		at
		Op string
		X  Expr
	}
	// Is is IS [NOT] NULL, TRUE or FALSE.
	Is struct {
		at
		X    Expr
		What string
		Not  bool
	}
	// Between is [NOT] BETWEEN.
	Between struct {
		at
		X, Low, High Expr
		Not          bool
	}
	// In is [NOT] IN a list or a query.
	In struct {
		at
		X     Expr
		List  []Expr
		Query *Query
		Not   bool
	}
	// Like is [NOT] LIKE.
	Like struct {
		at
		X, Pattern, Escape Expr
		Not                bool
	}
	// Exists is EXISTS.
	Exists struct {
		at
		Query *Query
	}
	// Subquery is a scalar subquery.
	Subquery struct {
		at
		Query *Query
	}
	// Call is a function or aggregate; Name is lower case. Star is f(*).
	Call struct {
		at
		Name     string
		Distinct bool
		Star     bool
		Args     []Expr
		Filter   Expr
	}
	// Case is CASE; Operand is nil for the searched form.
	Case struct {
		at
		Operand Expr
		Whens   []When
		Else    Expr
	}
	// Cast is CAST and TRY_CAST.
	Cast struct {
		at
		X    Expr
		Type value.Type
		Try  bool
	}
	// Field takes a field of a row: x.name.
	Field struct {
		at
		X    Expr
		Name string
	}
	// Tuple is (a, b, …).
	Tuple struct {
		at
		Args []Expr
	}
)

// When is one branch of a Case.
type When struct{ Cond, Then Expr }

// Children gives the expressions that e is made of, without those of subqueries.
func Children(e Expr) []Expr {
	switch e := e.(type) {
	case *Binary:
		return []Expr{e.Left, e.Right}
	case *Logical:
		return e.Args
	case *Not:
		return []Expr{e.X}
	case *Unary:
		return []Expr{e.X}
	case *Is:
		return []Expr{e.X}
	case *Between:
		return []Expr{e.X, e.Low, e.High}
	case *In:
		return append([]Expr{e.X}, e.List...)
	case *Like:
		if e.Escape != nil {
			return []Expr{e.X, e.Pattern, e.Escape}
		}
		return []Expr{e.X, e.Pattern}
	case *Call:
		if e.Filter != nil {
			return append(append([]Expr(nil), e.Args...), e.Filter)
		}
		return e.Args
	case *Case:
		var out []Expr
		if e.Operand != nil {
			out = append(out, e.Operand)
		}
		for _, w := range e.Whens {
			out = append(out, w.Cond, w.Then)
		}
		if e.Else != nil {
			out = append(out, e.Else)
		}
		return out
	case *Cast:
		return []Expr{e.X}
	case *Field:
		return []Expr{e.X}
	case *Tuple:
		return e.Args
	}
	return nil
}

// Walk visits e and what it is made of, without subqueries.
func Walk(e Expr, visit func(Expr)) {
	visit(e)
	for _, c := range Children(e) {
		Walk(c, visit)
	}
}

// Replace rebuilds e with its columns replaced, where e is made of operators, calls, CASE and casts.
func Replace(e Expr, f func(*Column) Expr) Expr {
	list := func(es []Expr) []Expr {
		out := make([]Expr, len(es))
		for i, x := range es {
			out[i] = Replace(x, f)
		}
		return out
	}
	switch e := e.(type) {
	case *Column:
		return f(e)
	case *Binary:
		return &Binary{e.at, e.Op, Replace(e.Left, f), Replace(e.Right, f)}
	case *Logical:
		return &Logical{e.at, e.Or, list(e.Args)}
	case *Not:
		return &Not{e.at, Replace(e.X, f)}
	case *Unary:
		return &Unary{e.at, e.Op, Replace(e.X, f)}
	case *Is:
		return &Is{e.at, Replace(e.X, f), e.What, e.Not}
	case *Call:
		c := *e
		c.Args = list(e.Args)
		return &c
	case *Cast:
		return &Cast{e.at, Replace(e.X, f), e.Type, e.Try}
	case *Case:
		c := &Case{at: e.at}
		if e.Operand != nil {
			c.Operand = Replace(e.Operand, f)
		}
		for _, w := range e.Whens {
			c.Whens = append(c.Whens, When{Replace(w.Cond, f), Replace(w.Then, f)})
		}
		if e.Else != nil {
			c.Else = Replace(e.Else, f)
		}
		return c
	}
	return e
}
