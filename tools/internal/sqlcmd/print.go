package sqlcmd

import (
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/daybook/daybook/query/client"
	"github.com/daybook/daybook/tools/internal/tabular"
)

// A result is the answer to one statement, row by row.
type result struct{ *client.Rows }

// names are the names of the columns.
func (r result) names() []string {
	out := make([]string, len(r.Columns()))
	for i, c := range r.Columns() {
		out[i] = c.Name
	}
	return out
}

// tableRows is how many rows a table measures its columns by: a longer result is printed as several
// tables under one header each, so that memory stays bounded.
const tableRows = 10_000

// print writes a result in a format and answers the number of its rows.
func print(w io.Writer, r result, f tabular.Format) (int, error) {
	switch f {
	case tabular.JSON:
		return printJSON(w, r)
	case tabular.CSV:
		return printCSV(w, r)
	}
	return printTable(w, r)
}

func printTable(w io.Writer, r result) (int, error) {
	names := r.names()
	binary := make([]bool, len(names))
	for i, c := range r.Columns() {
		binary[i] = c.Type == "varbinary"
	}
	n := 0
	var rows [][]string
	flush := func() error {
		if len(rows) == 0 && n > 0 || len(names) == 0 {
			return nil
		}
		err := tabular.Write(w, names, rows)
		rows = rows[:0]
		return err
	}
	for {
		row, err := r.Next()
		if err == io.EOF {
			return n, flush()
		}
		if err != nil {
			return n, err
		}
		cells := make([]string, len(row))
		for i, v := range row {
			if s, ok := v.(string); ok && binary[i] {
				v = bytesCell(s)
			}
			cells[i] = cell(v, "NULL")
		}
		rows = append(rows, cells)
		n++
		if len(rows) == tableRows {
			if err := flush(); err != nil {
				return n, err
			}
		}
	}
}

// printJSON writes one object a line, with the columns in their order.
func printJSON(w io.Writer, r result) (int, error) {
	names := r.names()
	n := 0
	var b strings.Builder
	for ; ; n++ {
		row, err := r.Next()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		b.Reset()
		b.WriteByte('{')
		for i, v := range row {
			if i > 0 {
				b.WriteByte(',')
			}
			name, err := json.Marshal(names[i])
			if err != nil {
				return n, err
			}
			val, err := json.Marshal(v)
			if err != nil {
				return n, err
			}
			b.Write(name)
			b.WriteByte(':')
			b.Write(val)
		}
		b.WriteString("}\n")
		if _, err := io.WriteString(w, b.String()); err != nil {
			return n, err
		}
	}
}

func printCSV(w io.Writer, r result) (int, error) {
	c := csv.NewWriter(w)
	n := 0
	wroteHeader := false
	for ; ; n++ {
		row, err := r.Next()
		if !wroteHeader && (err == nil || err == io.EOF) {
			wroteHeader = true
			if err := c.Write(r.names()); err != nil {
				return n, err
			}
		}
		if err == io.EOF {
			c.Flush()
			return n, c.Error()
		}
		if err != nil {
			return n, err
		}
		cells := make([]string, len(row))
		for i, v := range row {
			cells[i] = cell(v, "")
		}
		if err := c.Write(cells); err != nil {
			return n, err
		}
	}
}

// bytesCell shows a varbinary, which comes as base64, to people: as the text it is, or as SQL writes bytes.
func bytesCell(s string) string {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return s
	}
	if utf8.Valid(b) && bytes.IndexFunc(b, unicode.IsControl) < 0 {
		return string(b)
	}
	return fmt.Sprintf("X'%X'", b)
}

// cell is a value as text; null stands for NULL.
func cell(v any, null string) string {
	switch v := v.(type) {
	case nil:
		return null
	case string:
		return v
	case json.Number:
		return v.String()
	case []any, map[string]any:
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(b)
	default:
		return fmt.Sprint(v)
	}
}
