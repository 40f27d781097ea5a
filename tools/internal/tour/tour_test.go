package tour

import (
	"bytes"
	"encoding/json"
	"testing"
)

// Every line of the data set is an object with exactly the fields of the schema, in the order of time.
func TestDataFitsItsSchema(t *testing.T) {
	var s struct{ Fields []struct{ Name string } }
	if err := json.Unmarshal([]byte(Schema), &s); err != nil {
		t.Fatal(err)
	}
	n, last := 0, 0.0
	for line := range bytes.Lines(earthquakes) {
		var row map[string]any
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatalf("line %d: %v", n+1, err)
		}
		for _, f := range s.Fields {
			if _, ok := row[f.Name]; !ok {
				t.Errorf("line %d has no %s", n+1, f.Name)
			}
		}
		if len(row) != len(s.Fields) {
			t.Errorf("line %d has %d fields, the schema %d", n+1, len(row), len(s.Fields))
		}
		if at := row["time"].(float64); at < last {
			t.Errorf("line %d is out of order", n+1)
		} else {
			last = at
		}
		n++
	}
	if n != 1707 {
		t.Errorf("%d lines; the README says 1,707", n)
	}
}
