// Package sqlerr names the failures of a statement the way Trino's protocol does: a name, a code, a type
// and, where known, the place in the statement's text.
package sqlerr

import (
	"context"
	"errors"
	"fmt"
)

// Kind is the errorType of Trino's protocol.
type Kind string

// The kinds of failure: the user's, the server's, a limit's, or something outside the engine.
const (
	User      Kind = "USER_ERROR"
	Internal  Kind = "INTERNAL_ERROR"
	Resources Kind = "INSUFFICIENT_RESOURCES"
	External  Kind = "EXTERNAL"
)

// A Code is one of Trino's standard error codes.
type Code struct {
	Name   string
	Number int
	Kind   Kind
}

// Trino's standard codes that the engine uses; the numbers are the protocol's.
var (
	SyntaxError             = Code{"SYNTAX_ERROR", 1, User}
	AbandonedQuery          = Code{"ABANDONED_QUERY", 2, User}
	UserCanceled            = Code{"USER_CANCELED", 3, User}
	PermissionDenied        = Code{"PERMISSION_DENIED", 4, User}
	NotFound                = Code{"NOT_FOUND", 5, User}
	FunctionNotFound        = Code{"FUNCTION_NOT_FOUND", 6, User}
	InvalidFunctionArg      = Code{"INVALID_FUNCTION_ARGUMENT", 7, User}
	DivisionByZero          = Code{"DIVISION_BY_ZERO", 8, User}
	InvalidCastArg          = Code{"INVALID_CAST_ARGUMENT", 9, User}
	NotSupported            = Code{"NOT_SUPPORTED", 13, User}
	InvalidSessionProp      = Code{"INVALID_SESSION_PROPERTY", 14, User}
	NumericOutOfRange       = Code{"NUMERIC_VALUE_OUT_OF_RANGE", 19, User}
	SubqueryMultipleRows    = Code{"SUBQUERY_MULTIPLE_ROWS", 28, User}
	TextTooLarge            = Code{"QUERY_TEXT_TOO_LARGE", 35, User}
	UnsupportedSubquery     = Code{"UNSUPPORTED_SUBQUERY", 36, User}
	TypeNotFound            = Code{"TYPE_NOT_FOUND", 43, User}
	CatalogNotFound         = Code{"CATALOG_NOT_FOUND", 44, User}
	SchemaNotFound          = Code{"SCHEMA_NOT_FOUND", 45, User}
	TableNotFound           = Code{"TABLE_NOT_FOUND", 46, User}
	ColumnNotFound          = Code{"COLUMN_NOT_FOUND", 47, User}
	DuplicateNamedQuery     = Code{"DUPLICATE_NAMED_QUERY", 53, User}
	MissingSchemaName       = Code{"MISSING_SCHEMA_NAME", 57, User}
	TypeMismatch            = Code{"TYPE_MISMATCH", 58, User}
	InvalidLiteral          = Code{"INVALID_LITERAL", 59, User}
	MismatchedColAliases    = Code{"MISMATCHED_COLUMN_ALIASES", 61, User}
	AmbiguousName           = Code{"AMBIGUOUS_NAME", 62, User}
	InvalidColumnRef        = Code{"INVALID_COLUMN_REFERENCE", 63, User}
	NestedAggregation       = Code{"NESTED_AGGREGATION", 67, User}
	ExpressionNotInDistinct = Code{"EXPRESSION_NOT_IN_DISTINCT", 69, User}
	ExpressionNotAggregate  = Code{"EXPRESSION_NOT_AGGREGATE", 73, User}
	ExpressionNotScalar     = Code{"EXPRESSION_NOT_SCALAR", 74, User}
	ExpressionNotConstant   = Code{"EXPRESSION_NOT_CONSTANT", 75, User}
	InvalidArguments        = Code{"INVALID_ARGUMENTS", 76, User}
	InvalidLimitClause      = Code{"INVALID_LIMIT_CLAUSE", 90, User}
	GenericInternal         = Code{"GENERIC_INTERNAL_ERROR", 65536, Internal}
	ExceededTimeLimit       = Code{"EXCEEDED_TIME_LIMIT", 131075, Resources}
	ClusterOutOfMemory      = Code{"CLUSTER_OUT_OF_MEMORY", 131076, Resources}
	ExceededLocalMemory     = Code{"EXCEEDED_LOCAL_MEMORY_LIMIT", 131079, Resources}
	// PulsarRead is ours: topics or their metadata cannot be read. Codes of connectors begin at 0x01000000.
	PulsarRead = Code{"PULSAR_READ_ERROR", 0x01000000, External}
)

// A Pos is a place in a statement: line and column count from 1; the zero Pos is no place.
type Pos struct{ Line, Column int }

// String is "line 1:2".
func (p Pos) String() string { return fmt.Sprintf("line %d:%d", p.Line, p.Column) }

// An Error is a failure as the client sees it. Cause, if any, is for the log.
type Error struct {
	Code    Code
	Message string
	Pos     Pos
	Cause   error
}

// Error gives the text as Trino does: with its place in front.
func (e *Error) Error() string {
	if e.Pos.Line > 0 {
		return e.Pos.String() + ": " + e.Message
	}
	return e.Message
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an error of this code.
func (c Code) Errorf(format string, args ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...)}
}

// At makes an error of this code at a place of the text.
func (c Code) At(p Pos, format string, args ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...), Pos: p}
}

// Wrap makes an error of this code with a cause.
func (c Code) Wrap(cause error, format string, args ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...) + ": " + cause.Error(), Cause: cause}
}

// From turns any error into an Error: one of ours as it is, the end of a context into USER_CANCELED or
// EXCEEDED_TIME_LIMIT, everything else into GENERIC_INTERNAL_ERROR.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &Error{Code: UserCanceled, Message: "Query was canceled", Cause: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: ExceededTimeLimit, Message: "Query exceeded the maximum run time", Cause: err}
	}
	return &Error{Code: GenericInternal, Message: err.Error(), Cause: err}
}

// WithPos gives err a place, unless it has one.
func WithPos(err error, p Pos) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Pos.Line == 0 {
		c := *e
		c.Pos = p
		return &c
	}
	return err
}
