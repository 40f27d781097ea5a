package tabular

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestColumnsAreAsWideAsTheirCells(t *testing.T) {
	var b strings.Builder
	if err := Write(&b, []string{"name", "n"}, [][]string{{"grüße", "1"}, {"two\nlines\x1b", "22"}}); err != nil {
		t.Fatal(err)
	}
	want := "name                  n\n" + "grüße                 1\n" + `two\u000alines\u001b  22` + "\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestValuesForPeople(t *testing.T) {
	for in, want := range map[string]string{
		`null`:                               "",
		`"text"`:                             "text\n",
		`12345678901234567890`:               "12345678901234567890\n",
		`["a",1,null]`:                       "a\n1\n-\n",
		`[]`:                                 "",
		`[[1]]`:                              "[\n  [\n    1\n  ]\n]\n",
		`{"b":1,"long":"<x>","a":{},"l":[]}`: "b     1\nlong  <x>\n",
		`{"o":{"k":1}}`:                      "o  {\n  \"k\": 1\n}\n",
	} {
		dec := json.NewDecoder(strings.NewReader(in))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := WriteValue(&b, v); err != nil || b.String() != want {
			t.Errorf("%s: %q, %v; want %q", in, b.String(), err, want)
		}
	}
}

func TestOutputFlagTakesItsFormatsOnly(t *testing.T) {
	var f Format
	cmd := &cobra.Command{Use: "x"}
	Flag(cmd, &f, Table, JSON)
	if f != Table {
		t.Errorf("the default is %q", f)
	}
	if err := cmd.ParseFlags([]string{"-o", "csv"}); err == nil || !strings.Contains(err.Error(), "table, json") {
		t.Errorf("-o csv: %v", err)
	}
	if err := cmd.ParseFlags([]string{"-o", "json"}); err != nil || f != JSON {
		t.Errorf("-o json: %q, %v", f, err)
	}
}
