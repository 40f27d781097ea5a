// Package tabular prints what a command found, as an aligned table for people or as JSON for programs.
package tabular

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// A Format is one of the values of a command's --output flag.
type Format string

// The formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	CSV   Format = "csv"
)

// Flag adds -o, --output to cmd, with completion and a check of its value. The first of formats is the
// default.
func Flag(cmd *cobra.Command, f *Format, formats ...Format) {
	*f = formats[0]
	names := make([]string, len(formats))
	for i, n := range formats {
		names[i] = string(n)
	}
	cmd.Flags().VarP(&flagValue{f, names}, "output", "o", "output format: "+strings.Join(names, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

type flagValue struct {
	f     *Format
	names []string
}

func (v *flagValue) String() string { return string(*v.f) }
func (v *flagValue) Type() string   { return "format" }
func (v *flagValue) Set(s string) error {
	if !slices.Contains(v.names, s) {
		return fmt.Errorf("want one of %s", strings.Join(v.names, ", "))
	}
	*v.f = Format(s)
	return nil
}

// Write prints rows under a header line, in columns as wide as their widest cell. Cells are printed on one
// line each: control characters appear as \u escapes.
func Write(w io.Writer, header []string, rows [][]string) error {
	width := make([]int, len(header))
	for i, h := range header {
		width[i] = utf8.RuneCountInString(h)
	}
	for _, r := range rows {
		for i := range r {
			r[i] = oneLine(r[i])
			width[i] = max(width[i], utf8.RuneCountInString(r[i]))
		}
	}
	var b strings.Builder
	line := func(cells []string) {
		for i, c := range cells {
			b.WriteString(c)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)+2))
			}
		}
		b.WriteByte('\n')
	}
	line(header)
	for _, r := range rows {
		line(r)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func oneLine(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r < 0x20 || r == 0x7f {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// WriteJSON prints v indented, with a newline.
func WriteJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// WriteValue prints a decoded JSON value for people: a list of scalars one a line, an object as
// "key  value" lines, everything else as indented JSON.
func WriteValue(w io.Writer, v any) error {
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		_, err := fmt.Fprintln(w, v)
		return err
	case []any:
		if slices.ContainsFunc(v, func(e any) bool { return !scalar(e) }) {
			return WriteJSON(w, v)
		}
		for _, e := range v {
			if _, err := fmt.Fprintln(w, text(e)); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		keys := make([]string, 0, len(v))
		wide := 0
		for k, e := range v {
			keys = append(keys, k)
			if scalar(e) {
				wide = max(wide, len(k))
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			if scalar(v[k]) {
				fmt.Fprintf(w, "%-*s  %s\n", wide, k, text(v[k]))
			}
		}
		for _, k := range keys {
			if !scalar(v[k]) && !empty(v[k]) {
				b, err := json.MarshalIndent(v[k], "", "  ")
				if err != nil {
					return err
				}
				fmt.Fprintf(w, "%s  %s\n", k, b)
			}
		}
		return nil
	default:
		_, err := fmt.Fprintln(w, text(v))
		return err
	}
}

func scalar(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

func empty(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

func text(v any) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprint(v)
}
