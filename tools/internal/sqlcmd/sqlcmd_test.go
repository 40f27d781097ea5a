package sqlcmd

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// answer is a server of Trino's protocol that gives each statement the same answer, in two pages.
func answer(t *testing.T) string {
	t.Helper()
	const columns = `"columns":[{"name":"id","type":"bigint"},{"name":"text, \"x\"","type":"varchar"},{"name":"raw","type":"varbinary"}]`
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		b, _ := io.ReadAll(r.Body)
		switch {
		case strings.Contains(string(b), "bad"):
			fmt.Fprint(w, `{"id":"q","stats":{"state":"FAILED"},"error":{"message":"line 2:7: no such column","errorCode":1,"errorName":"COLUMN_NOT_FOUND","errorType":"USER_ERROR","errorLocation":{"lineNumber":2,"columnNumber":7}}}`)
		case r.Method == http.MethodPost:
			fmt.Fprintf(w, `{"id":"q","stats":{"state":"RUNNING"},"nextUri":"%s/next",%s,"data":[[9007199254740993,"a,b","aGVsbG8="]]}`, srv.URL, columns)
		default:
			fmt.Fprintf(w, `{"id":"q","stats":{"state":"FINISHED"},%s,"data":[[null,"x\ny","AP8="],[3,null,null]]}`, columns)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func run(t *testing.T, url, in string, args ...string) (out string, err error) {
	t.Helper()
	cmd := Command(func() string { return url })
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var b bytes.Buffer
	cmd.SetOut(&b)
	cmd.SetErr(&b)
	cmd.SetIn(strings.NewReader(in))
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	return b.String(), err
}

func TestRowsInEveryFormat(t *testing.T) {
	url := answer(t)
	for format, want := range map[string]string{
		"table": "id                text, \"x\"  raw\n9007199254740993  a,b        hello\nNULL              x\\u000ay   X'00FF'\n3                 NULL       NULL\n",
		"json":  "{\"id\":9007199254740993,\"text, \\\"x\\\"\":\"a,b\",\"raw\":\"aGVsbG8=\"}\n{\"id\":null,\"text, \\\"x\\\"\":\"x\\ny\",\"raw\":\"AP8=\"}\n{\"id\":3,\"text, \\\"x\\\"\":null,\"raw\":null}\n",
		"csv":   "id,\"text, \"\"x\"\"\",raw\n9007199254740993,\"a,b\",aGVsbG8=\n,\"x\ny\",AP8=\n3,,\n",
	} {
		if out, err := run(t, url, "", "-o", format, "-e", "SELECT 1"); err != nil || out != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", format, err, out, want)
		}
	}
}

func TestScriptsEndWithTheFirstFailure(t *testing.T) {
	url := answer(t)
	out, err := run(t, url, "SELECT 1;\nbad;\nSELECT 2;", "-o", "csv")
	if err == nil || err.Error() != "line 2:7: no such column (COLUMN_NOT_FOUND)" {
		t.Errorf("the failure is told as %v", err)
	}
	if n := strings.Count(out, "id,"); n != 1 {
		t.Errorf("%d statements were answered, want 1:\n%s", n, out)
	}
	for in, want := range map[string]string{"": "no statement", " ;; \n": "no statement"} {
		if _, err := run(t, url, in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
	if _, err := run(t, "nonsense", "", "-e", "SELECT 1"); err == nil || !strings.Contains(err.Error(), "http://host:port") {
		t.Errorf("a wrong URL: %v", err)
	}
}
