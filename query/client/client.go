// Package client is a small client of Trino's REST protocol.
package client
