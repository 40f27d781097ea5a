package adminapi_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daybook/daybook/broker/brokertest"
	"github.com/daybook/daybook/broker/internal/adminapi"
	"github.com/daybook/daybook/broker/internal/ownership"
	"github.com/daybook/daybook/broker/internal/schemaregistry"
	"github.com/daybook/daybook/broker/internal/topic"
)

// TestOverRealTopics makes, fills, inspects, restarts and deletes a topic through the API.
func TestOverRealTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := brokertest.New(t)
		defer d.Close()
		call := func(method, path, body string, status int, parts ...string) *httptest.ResponseRecorder {
			t.Helper()
			h := adminapi.New(adminapi.Config{
				Topics: adminapi.Registry(d.Topics), Policies: d.Policies, Schemas: schemaregistry.New(d.Store, time.Now),
				Owners: ownership.NewSingle(ownership.Broker{ID: "self"}),
			})
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, "/admin/v2/persistent/public/default"+path, strings.NewReader(body)))
			if w.Code != status {
				t.Errorf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, status)
			}
			for _, p := range parts {
				if !strings.Contains(w.Body.String(), p) {
					t.Errorf("%s %s: %s lacks %s", method, path, w.Body, p)
				}
			}
			return w
		}
		call("PUT", "/orders", `{"k":"v"}`, 204)
		call("PUT", "/orders", ``, 409)
		call("PUT", "/orders/subscription/sub", `{"ledgerId":-1,"entryId":-1}`, 204)
		call("PUT", "/orders/subscription/sub", ``, 409)
		call("GET", "/orders/examinemessage", "", 412)
		call("PUT", "/orders/properties", `{"l":"w"}`, 204)
		call("DELETE", "/orders/properties?key=k", "", 204)

		p, err := brokertest.Produce(t.Context(), d.Topic("orders"), topic.ProducerRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []string{"one", "two", "three"} {
			p.SendText("", v)
		}
		synctest.Wait()
		if len(p.Results()) != 3 || p.Results()[2].Err != nil {
			t.Fatalf("sent: %+v", p.Results())
		}
		first := p.Results()[0].Position

		call("GET", "/orders/stats", "", 200, `"msgInCounter":3`, `"msgBacklog":3`, `"producerName":"standalone-`)
		call("GET", "/orders/internalStats", "", 200, `"numberOfEntries":3`, `"lastConfirmedEntry":"`+p.Results()[2].Position.String(), `"sub":{"markDeletePosition"`)
		if got := call("GET", "/orders/subscription/sub/position/2", "", 200).Body.String(); got != "two" {
			t.Errorf("the second message is %q", got)
		}
		call("POST", "/orders/subscription/sub/skip/2", "", 204)
		if got := call("GET", "/orders/subscription/sub/position/1", "", 200).Body.String(); got != "three" {
			t.Errorf("after skipping two, the first message is %q", got)
		}
		var id struct{ LedgerID, EntryID int64 }
		w := call("GET", "/orders/messageid/0", "", 200)
		if err := json.Unmarshal(w.Body.Bytes(), &id); err != nil || id.LedgerID != int64(first.Ledger) || id.EntryID != 0 {
			t.Errorf("the first message is at %s, want %v (%v)", w.Body, first, err)
		}

		p.Close()
		d.Restart()
		call("GET", "/orders/properties", "", 200, `{"l":"w"}`)
		call("GET", "/orders/subscriptions", "", 200, `["sub"]`)
		if got := call("GET", "/orders/subscription/sub/position/1", "", 200).Body.String(); got != "three" {
			t.Errorf("after a restart the first message is %q", got)
		}
		call("POST", "/orders/subscription/sub/resetcursor", `{"ledgerId":-1,"entryId":-1}`, 204)
		if got := call("GET", "/orders/subscription/sub/position/1", "", 200).Body.String(); got != "one" {
			t.Errorf("after a reset the first message is %q", got)
		}
		call("POST", "/orders/subscription/sub/skip_all", "", 204)
		call("GET", "/orders/subscription/sub/position/1", "", 404)
		call("DELETE", "/orders/subscription/sub", "", 204)
		call("POST", "/orders/terminate", "", 200, `"entryId":2`)
		call("DELETE", "/orders", "", 204)
		call("GET", "/orders/stats", "", 404, "Topic persistent://public/default/orders not found")

		call("PUT", "/parts/partitions", "2", 204)
		call("PUT", "/parts", "", 409)
		call("PUT", "/parts/subscription/sub", "", 204)
		call("POST", "/parts/partitions", "3", 204)
		call("GET", "/parts-partition-2/subscriptions", "", 200, `["sub"]`)
		call("GET", "/parts/partitioned-stats", "", 200, `"partitions":3`)
		call("DELETE", "/parts/partitions", "", 204)
		call("GET", "", "", 200, `[]`)
	})
}
