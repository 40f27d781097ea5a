package adminapi

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestAnswersArePulsars asks what was asked of a real Pulsar, and compares status, kind of body, the text of
// failures, and the shape of JSON: fields and the types of their values.
func TestAnswersArePulsars(t *testing.T) {
	b, err := os.ReadFile("testdata/recorded.tsv")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	compared := 0
	for line := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) < 6 || f[0] != "GET" {
			t.Fatalf("recorded line %q", line)
		}
		route, state, contentType, body := f[1], f[2], f[4], f[5]
		status, err := strconv.Atoi(f[3])
		if err != nil {
			t.Fatal(err)
		}
		path := fill(route, state)
		w := s.do("GET", path, "")
		name := fmt.Sprintf("%s (%s)", route, state)
		if why, ok := others[route]; ok {
			if why == notServed && w.Code != 404 && w.Code != 405 {
				t.Errorf("%s is served: %d %s", name, w.Code, w.Body)
			}
			continue
		}
		compared++
		if w.Code != status {
			t.Errorf("%s: status %d %s, Pulsar has %d %s", name, w.Code, w.Body, status, body)
			continue
		}
		if got := w.Header().Get("Content-Type"); contentType == "-" && got != "" || contentType != "-" && !strings.HasPrefix(got, contentType) {
			t.Errorf("%s: content type %q, Pulsar has %q", name, got, contentType)
		}
		if status >= 400 || !json.Valid([]byte(body)) && len(body) < 500 {
			if got := w.Body.String(); got != body {
				t.Errorf("%s: %s, Pulsar has %s", name, got, body)
			}
			continue
		}
		if body == "" || len(body) >= 500 && !json.Valid([]byte(body)) { // nothing, or cut off by the recording
			if (body == "") != (w.Body.Len() == 0) {
				t.Errorf("%s: %q, Pulsar has %q", name, w.Body, body)
			}
			continue
		}
		var got, want any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Errorf("%s: %q is not JSON", name, w.Body)
			continue
		}
		if err := json.Unmarshal([]byte(body), &want); err != nil {
			t.Fatal(err)
		}
		for _, d := range differences("", got, want) {
			t.Errorf("%s: %s", name, d)
		}
	}
	if compared < 300 {
		t.Errorf("only %d answers were compared", compared)
	}
}

// fill puts the names of the state into the route.
func fill(route, state string) string {
	topic, ns, tenant := "t", "ns", "rec"
	switch state {
	case "partitioned topic":
		topic = "p"
	case "no such topic":
		topic = "nope"
	case "no such namespace":
		ns = "nope"
	case "no such tenant":
		tenant = "nope"
	}
	return strings.NewReplacer(
		"{topic-domain}", "persistent", "{tenant}", tenant, "{namespace}", ns, "{topic}", topic, "{subName}", "s",
		"{cluster}", "standalone", "{clusterName}", "standalone", "{brokerId}", "none-brokerId", "{messagePosition}", "1",
		"{ledgerId}", "3", "{entryId}", "0", "{timestamp}", "5", "{bookie}", "none-bookie", "{domainName}", "none-domainName",
		"{broker}", "none-broker", "{policyName}", "none", "{key}", "none-key", "{version}", "0", "{resourcegroup}", "none",
		"{bundle}", "0x00000000_0x40000000", "{group}", "none-group",
	).Replace(route)
}

const (
	notServed = "not served"
	differs   = "differs" // tested elsewhere, or on purpose
)

// others are the recorded routes that are not compared.
var others = map[string]string{
	"/admin/v2/broker-stats/bookieops":                                                     notServed,
	"/admin/v2/broker-stats/broker-resource-availability/{tenant}/{namespace}":             notServed,
	"/admin/v2/broker-stats/load-report":                                                   differs, // of the machine
	"/admin/v2/brokers/configuration":                                                      differs, // nothing is dynamic here
	"/admin/v2/brokers/configuration/runtime":                                              differs, // of the wiring
	"/admin/v2/namespaces/{cluster}/antiAffinity/{group}":                                  notServed,
	"/admin/v2/namespaces/{tenant}/{namespace}/{bundle}/topicHashPositions":                notServed,
	"/admin/v2/persistent/{tenant}/{namespace}/{topic}/backlog":                            notServed,
	"/admin/v2/persistent/{tenant}/{namespace}/{topic}/getMessageIdByIndex":                notServed,
	"/admin/v2/persistent/{tenant}/{namespace}/{topic}/internal-info":                      notServed,
	"/admin/v2/resource-quotas":                                                            notServed,
	"/admin/v2/resource-quotas/{tenant}/{namespace}/{bundle}":                              notServed,
	"/admin/v2/persistent/{tenant}/{namespace}/{topic}/inactiveTopicPolicies?applied=true": differs, // idle topics stay
}

// differences compares shapes. Of lists the first elements are compared, of maps with names as keys the values.
func differences(at string, got, want any) []string {
	if got == nil || want == nil {
		if got != want {
			return []string{fmt.Sprintf("%s: %v, Pulsar has %v", at, got, want)}
		}
		return nil
	}
	if g, w := fmt.Sprintf("%T", got), fmt.Sprintf("%T", want); g != w {
		return []string{fmt.Sprintf("%s: a %s, Pulsar has a %s", at, g, w)}
	}
	switch want := want.(type) {
	case map[string]any:
		got := got.(map[string]any)
		var out []string
		for k, w := range want {
			g, ok := got[k]
			if !ok {
				out = append(out, fmt.Sprintf("%s lacks %q", at, k))
				continue
			}
			out = append(out, differences(at+"."+k, g, w)...)
		}
		for k := range got {
			if _, ok := want[k]; !ok {
				out = append(out, fmt.Sprintf("%s has %q too much", at, k))
			}
		}
		slices.Sort(out)
		return out
	case []any:
		got := got.([]any)
		if len(got) > 0 && len(want) > 0 {
			return differences(at+"[0]", got[0], want[0])
		}
		if len(got) != len(want) {
			return []string{fmt.Sprintf("%s: %d elements, Pulsar has %d", at, len(got), len(want))}
		}
	}
	return nil
}
