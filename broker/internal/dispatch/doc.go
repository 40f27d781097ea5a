// Package dispatch decides which consumer gets which entry: values in, values out.
package dispatch
