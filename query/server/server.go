// Package server speaks Trino's REST protocol over an engine: POST /v1/statement, GET and DELETE of
// nextUri, DELETE /v1/query/{id}, /v1/info and /v1/info/state, with X-Trino- or X-Presto- headers.
package server
