// Package query holds the SQL engine over topics. It is a map, not code:
//
//	engine             one statement from text to batches of rows; sessions; the Authorizer it asks
//	catalog            topics as tables: names, schemas of values, the columns every table has
//	server             Trino's REST protocol over an engine, as an http.Handler
//	client             the other end of that protocol, for the CLI
//	internal/syntax    ANSI/Trino text to our own tree; the only user of sqlparser
//	internal/plan      names resolved, types checked, columns pruned, predicates pushed down
//	internal/expr      typed expressions and functions over columns
//	internal/exec      operators over batches: filter, project, aggregate, sort, join, union
//	internal/scan      a table's messages as batches: splits, fences, JSON and primitive decoding
//	internal/value     types, columns, decimals, dates: values in, values out
//	internal/sqlerr    failures with Trino's names and codes and a place in the text
//	internal/querytest topics in memory, for the tests of all of these
//
// A statement flows one way: syntax ► plan ► exec ► scan, rows come back the same way in batches of
// value.BatchSize, and nobody calls upwards.
package query
