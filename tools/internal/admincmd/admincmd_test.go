package admincmd

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// transcript runs one command line against a server that answers with status and body, and tells the request.
func transcript(t *testing.T, line []string, status int, body string) (request, out string, err error) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		request = strings.TrimSpace(r.Method + " " + r.URL.RequestURI() + " " + string(b))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	defer srv.Close()
	root := &cobra.Command{Use: "daybook", SilenceErrors: true, SilenceUsage: true}
	root.AddGroup(&cobra.Group{ID: "admin"})
	root.AddCommand(Commands(func() string { return srv.URL + "/" })...)
	root.SetArgs(line)
	var b bytes.Buffer
	root.SetOut(&b)
	root.SetErr(&b)
	err = root.ExecuteContext(t.Context())
	return request, b.String(), err
}

func TestCommandsAreCalls(t *testing.T) {
	for _, c := range []struct{ line, request, body, out string }{
		{"tenants list", "GET /admin/v2/tenants", `["public","pulsar"]`, "public\npulsar\n"},
		{"tenants list -o json", "GET /admin/v2/tenants", `["public"]`, "[\n  \"public\"\n]\n"},
		{"tenants create acme", `PUT /admin/v2/tenants/acme {"adminRoles":[],"allowedClusters":["standalone"]}`, "", ""},
		{"tenants delete acme -f", "DELETE /admin/v2/tenants/acme?force=true", "", ""},
		{"namespaces create acme/a%b", "PUT /admin/v2/namespaces/acme/a%25b", "", ""},
		{"topics list public/default", "GET /admin/v2/persistent/public/default", `[]`, ""},
		{"topics create t", "PUT /admin/v2/persistent/public/default/t", "", ""},
		{"topics create non-persistent://a/b/c/d", "PUT /admin/v2/non-persistent/a/b/c%2Fd", "", ""},
		{"topics create-partitioned-topic -p 4 a/b/c", "PUT /admin/v2/persistent/a/b/c/partitions 4", "", ""},
		{"topics delete t --force", "DELETE /admin/v2/persistent/public/default/t?force=true", "", ""},
		{"topics partitioned-stats t --per-partition", "GET /admin/v2/persistent/public/default/t/partitioned-stats?perPartition=true", `{"b":{},"a":1.50}`, "a  1.50\n"},
		{"topics create-subscription -s x/y -m 3:4 t", `PUT /admin/v2/persistent/public/default/t/subscription/x%2Fy {"entryId":4,"ledgerId":3,"partitionIndex":-1}`, "", ""},
		{"topics reset-cursor -s s -m earliest t", `POST /admin/v2/persistent/public/default/t/subscription/s/resetcursor {"entryId":-1,"ledgerId":-1,"partitionIndex":-1}`, "", ""},
		{"topics skip -s s -n 7 t", "POST /admin/v2/persistent/public/default/t/subscription/s/skip/7", "", ""},
		{"topics lookup t", "GET /lookup/v2/topic/persistent/public/default/t", `{"brokerUrl":"pulsar://h:1","big":12345678901234567}`, "big        12345678901234567\nbrokerUrl  pulsar://h:1\n"},
		{"schemas get -v 2 t", "GET /admin/v2/schemas/public/default/t/schema/2", "plain text", "plain text\n"},
		{"brokers healthcheck", "GET /admin/v2/brokers/health", "ok", "ok\n"},
	} {
		request, out, err := transcript(t, strings.Fields(c.line), 200, c.body)
		if err != nil || request != c.request || out != c.out {
			t.Errorf("%s:\n  %s\n  prints %q, %v\nwant\n  %s\n  %q", c.line, request, out, err, c.request, c.out)
		}
	}
}

func TestRefusalsAreTold(t *testing.T) {
	for _, c := range []struct {
		status     int
		body, want string
	}{
		{404, `{"reason":"Tenant not found"}`, "Tenant not found (HTTP 404)"},
		{404, `{"reason":"HTTP 404 Not Found"}`, "HTTP 404 Not Found"},
		{409, "in use\n", "in use (HTTP 409)"},
		{502, "<html>proxy</html>", "502 Bad Gateway (HTTP 502)"},
		{500, "", "500 Internal Server Error (HTTP 500)"},
	} {
		if _, out, err := transcript(t, []string{"tenants", "list"}, c.status, c.body); err == nil || err.Error() != c.want || out != "" {
			t.Errorf("%d %s: %q, %v; want %q", c.status, c.body, out, err, c.want)
		}
	}
}

func TestWrongArgumentsReachNoServer(t *testing.T) {
	for line, want := range map[string]string{
		"topics list public":                         "tenant/namespace",
		"topics list a/b/c":                          "tenant/namespace",
		"topics stats persistent://a/b":              "want a name such as",
		"topics stats foo://a/b/c":                   "persistent://",
		"topics reset-cursor t -s s -m 1":            "ledger:entry",
		"topics reset-cursor t -s s -t 1x":           "duration",
		"topics reset-cursor t -s s -t -5s":          "duration",
		"topics reset-cursor t -s s -t 1s -m latest": "none of the others",
		"topics skip t":                              "subscription",
		"schemas upload -f /nosuch t":                "/nosuch",
	} {
		request, _, err := transcript(t, strings.Fields(line), 200, "")
		if err == nil || !strings.Contains(err.Error(), want) || request != "" {
			t.Errorf("%s: %v, want %q; request %q", line, err, want, request)
		}
	}
}
