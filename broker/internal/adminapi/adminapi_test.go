package adminapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/message"
)

const nsURL = "/admin/v2/namespaces/rec/ns"
const topicURL = "/admin/v2/persistent/rec/ns/"

func TestTenants(t *testing.T) {
	s := newServer(t)
	const url = "/admin/v2/tenants/"
	s.fails("PUT", url+"rec", `{"allowedClusters":["standalone"]}`, 409, "Tenant already exist")
	s.fails("PUT", url+"a%2Fb", `{"allowedClusters":["standalone"]}`, 412, "Tenant name is not valid")
	s.fails("PUT", url+"new", "", 412, "TenantInfo is null")
	s.fails("PUT", url+"new", "{}", 412, "Clusters cannot be null")
	s.fails("PUT", url+"new", `{"allowedClusters":["other"]}`, 412, "Clusters do not exist")
	s.fails("PUT", url+"new", `{"allowedClusters":[]}`, 412, "Clusters cannot be empty or blank")
	s.ok("PUT", url+"new", `{"allowedClusters":["standalone"]}`)
	s.ok("POST", url+"new", `{"adminRoles":["bob"],"allowedClusters":["standalone"]}`)
	s.is("GET", url+"new", "", `{"adminRoles":["bob"],"allowedClusters":["standalone"]}`)
	s.fails("POST", url+"none", `{"allowedClusters":["standalone"]}`, 404, "Tenant none not found")
	s.fails("DELETE", url+"rec", "", 409, "The tenant still has active namespaces")
	s.fails("DELETE", url+"none", "", 404, "Tenant doesn't exist")
	s.ok("DELETE", url+"new", "")
	s.is("GET", "/admin/v2/tenants", "", `["public","pulsar","rec"]`)
}

func TestNamespaces(t *testing.T) {
	s := newServer(t)
	s.fails("PUT", nsURL, "", 409, "Namespace already exists")
	s.fails("PUT", "/admin/v2/namespaces/none/x", "", 404, "Tenant not found")
	s.fails("PUT", "/admin/v2/namespaces/rec/a%20b", "", 412, "Tenant name or namespace is not valid")
	s.ok("PUT", "/admin/v2/namespaces/rec/b16", `{"bundles":{"numBundles":16},"replication_clusters":["standalone"]}`)
	if got := s.ok("GET", "/admin/v2/namespaces/rec/b16/bundles", ""); !strings.Contains(got, `"0xf0000000","0xffffffff"],"numBundles":16`) {
		t.Errorf("bundles %s", got)
	}
	s.is("GET", "/admin/v2/namespaces/rec", "", `["rec/b16","rec/ns"]`)
	s.fails("DELETE", nsURL, "", 409, "Cannot delete non empty namespace")
	s.ok("DELETE", "/admin/v2/namespaces/rec/b16", "")
	s.fails("DELETE", "/admin/v2/namespaces/rec/b16", "", 404, "Namespace does not exist")

	const auto = nsURL + "/autoTopicCreation"
	const detail = "Invalid configuration for autoTopicCreationOverride. the detail is "
	s.fails("POST", auto, `{"allowAutoTopicCreation":true,"topicType":"partitioned","defaultNumPartitions":null}`, 412,
		detail+"[defaultNumPartitions] cannot be null when the type is partitioned.")
	s.fails("POST", auto, `{"allowAutoTopicCreation":true,"topicType":"partitioned","defaultNumPartitions":-1}`, 412,
		detail+"[defaultNumPartitions] cannot be less than 1 for partition type.")
	s.fails("POST", auto, `{"allowAutoTopicCreation":true,"topicType":"non-partitioned","defaultNumPartitions":3}`, 412,
		detail+"[defaultNumPartitions] is not allowed to be set when the type is non-partition.")
	s.fails("POST", "/admin/v2/namespaces/rec/none/autoTopicCreation", `{}`, 404, "Namespace does not exist")
	s.fails("POST", "/admin/v2/namespaces/none/none/autoTopicCreation", `{}`, 404, "Tenant does not exist")
	s.ok("POST", auto, `{"allowAutoTopicCreation":true,"topicType":"partitioned","defaultNumPartitions":3}`)
	s.is("GET", auto, "", `{"allowAutoTopicCreation":true,"topicType":"partitioned","defaultNumPartitions":3}`)
	s.is("GET", topicURL+"auto/partitions?checkAllowAutoCreation=true", "", `{"partitions":3,"deleted":false}`)
	s.topic("auto-partition-2")
	s.ok("DELETE", auto, "")
	s.is("GET", auto, "", ``)

	s.ok("PUT", nsURL+"/properties", `{"a":"1","b":"2"}`)
	s.ok("PUT", nsURL+"/property/c/x%2Fy", "")
	s.ok("DELETE", nsURL+"/property/a", "")
	s.is("GET", nsURL+"/properties", "", `{"b":"2","c":"x/y"}`)
	s.is("GET", nsURL+"/property/c", "", `x/y`)
	s.ok("DELETE", nsURL+"/properties", "")
	s.is("GET", nsURL+"/properties", "", `{}`)

	s.fails("POST", nsURL+"/maxTopicsPerNamespace", "-1", 412, "maxTopicsPerNamespace must be 0 or more")
	s.fails("POST", nsURL+"/replication", `["other"]`, 403, "Invalid cluster id: other")
	s.fails("POST", nsURL+"/retention", `{}`, 405, "HTTP 405 Method Not Allowed") // not enforced, so not taken
	s.fails("DELETE", nsURL+"/retention", "", 405, "HTTP 405 Method Not Allowed") // and no topic "retention" of a domain "namespaces"

	s.ok("PUT", nsURL+"/0xc0000000_0xffffffff/unload", "")
	var unloaded []string
	for _, n := range s.topics.unloaded {
		unloaded = append(unloaded, n.Local)
	}
	slices.Sort(unloaded)
	if want := []string{"p-partition-1", "t"}; !slices.Equal(unloaded, want) { // those whose names hash there
		t.Errorf("unloaded %v, want %v", unloaded, want)
	}
	s.fails("PUT", nsURL+"/0x00000000_0xffffffff/unload", "", 412, "Bundle range 0x00000000_0xffffffff not found")
}

func TestTopics(t *testing.T) {
	s := newServer(t)
	s.fails("PUT", topicURL+"t", "null", 409, "This topic already exists")
	s.fails("PUT", topicURL+"p", "", 409, "This topic already exists")
	s.fails("PUT", topicURL+"p-partition-1", "", 409, "This topic already exists")
	s.fails("PUT", topicURL+"p-partition-3", "", 412, `Can't create topic persistent://rec/ns/p-partition-3 with "-partition-" followed by a number`)
	s.fails("PUT", "/admin/v2/persistent/rec/none/t", "", 404, "Namespace not found")
	s.fails("PUT", topicURL+"a%2Fb", "", 412, "Topic name is not valid")
	s.fails("PUT", "/admin/v2/non-persistent/rec/ns/x", "", 405, "Topic non-persistent://rec/ns/x is not persistent, and only persistent topics are served")
	s.ok("PUT", topicURL+"odd+name%3A%25%2B", `{"k":"v"}`)
	s.topic("odd name:%+")
	s.is("GET", topicURL+"odd+name%3A%25%2B/properties", "", `{"k":"v"}`)
	s.ok("PUT", topicURL+"t/properties", `{"k":"v","l":"w"}`)
	s.ok("PUT", topicURL+"t/properties", `{"k":"x"}`)
	s.ok("DELETE", topicURL+"t/properties?key=l", "")
	s.is("GET", topicURL+"t/properties", "", `{"k":"x"}`)

	s.topic("t").busy = true
	if got := s.ok("GET", topicURL+"t/stats", ""); !strings.Contains(got, `"publishers":[{"accessMode":"Shared","msgRateIn":0.0,`) {
		t.Errorf("stats %s", got)
	}
	if got := s.ok("GET", topicURL+"t/stats?excludePublishers=true", ""); !strings.Contains(got, `"publishers":[]`) {
		t.Errorf("stats %s", got)
	}
	s.fails("DELETE", topicURL+"t", "", 412, "Topic has 1 connected producers")
	s.ok("DELETE", topicURL+"t?force=true", "")
	s.fails("DELETE", topicURL+"t", "", 404, "Topic persistent://rec/ns/t not found")
	s.fails("DELETE", topicURL+"p", "", 409, "persistent://rec/ns/p is a partitioned topic. Instead of calling delete topic please call delete-partitioned-topic.")

	s.fails("POST", topicURL+"p/terminate", "", 405, "Termination of a partitioned topic is not allowed")
	s.is("POST", topicURL+"p-partition-1/terminate", "", `{"ledgerId":3,"entryId":-1,"partitionIndex":1}`)
	s.ok("POST", topicURL+"p/terminate/partitions", "")
	if !s.topic("p-partition-0").terminated || !s.topic("p-partition-2").terminated {
		t.Error("not all partitions are terminated")
	}
	s.ok("PUT", topicURL+"p/unload", "")
	if len(s.topics.unloaded) != 3 {
		t.Errorf("unloaded %v", s.topics.unloaded)
	}
	s.fails("PUT", topicURL+"none/unload", "", 404, "Topic persistent://rec/ns/none not found")
	s.is("GET", nsURL+"/topics?mode=NON_PERSISTENT", "", `[]`)
	s.is("GET", "/admin/v2/non-persistent/rec/ns", "", `[]`)
}

func TestPartitions(t *testing.T) {
	s := newServer(t)
	s.fails("PUT", topicURL+"p/partitions", "2", 409, "This topic already exists")
	s.fails("PUT", topicURL+"t/partitions", "2", 409, "This topic already exists")
	s.fails("PUT", topicURL+"q/partitions", "0", 406, "Number of partitions should be more than 0")
	s.fails("PUT", topicURL+"q-partition-1/partitions", "2", 412, "Partitioned Topic Name should not contain '-partition-'")
	s.fails("PUT", topicURL+"q/partitions", `"x"`, 400, "The body is neither a number of partitions nor their metadata")
	s.fails("PUT", "/admin/v2/persistent/rec/none/q/partitions", "2", 404, "Namespace not found")
	s.ok("PUT", topicURL+"q/partitions", `{"properties":{"a":"b"},"partitions":2}`)
	s.is("GET", topicURL+"q/partitions", "", `{"partitions":2,"deleted":false,"properties":{"a":"b"}}`)
	s.is("GET", topicURL+"new/partitions?checkAllowAutoCreation=true", "", `{"partitions":0,"deleted":false}`)
	s.is("GET", "/admin/v2/persistent/rec/ns/partitioned", "", `["persistent://rec/ns/p","persistent://rec/ns/q"]`)

	s.ok("PUT", topicURL+"q/subscription/sub", `{"ledgerId":-1,"entryId":-1,"partitionIndex":-1}`)
	s.ok("POST", topicURL+"q/partitions", `"4"`)
	if _, err := s.topic("q-partition-3").Subscription("sub"); err != nil {
		t.Error("a new partition lacks the subscription of the others")
	}
	s.fails("POST", topicURL+"q/partitions", "3", 422, "Desired partitions 3 can't be less than the current partitions 4.")
	s.fails("POST", topicURL+"t/partitions", "3", 409, "Topic persistent://rec/ns/t is not the partitioned topic.")
	s.ok("PUT", topicURL+"q/properties", `{"c":"d"}`)
	s.is("GET", topicURL+"q/properties", "", `{"a":"b","c":"d"}`)
	s.ok("DELETE", topicURL+"q/properties?key=a", "")
	s.is("GET", topicURL+"q/properties", "", `{"c":"d"}`)

	var st struct {
		MsgRateIn     float64
		Partitions    map[string]any
		Subscriptions map[string]struct{ MsgBacklog int }
		Metadata      partitionedMetadata
	}
	if err := json.Unmarshal([]byte(s.ok("GET", topicURL+"q/partitioned-stats", "")), &st); err != nil {
		t.Fatal(err)
	}
	if st.MsgRateIn != 6 || len(st.Partitions) != 4 || st.Subscriptions["sub"].MsgBacklog != 8 || st.Metadata.Partitions != 4 {
		t.Errorf("stats %+v", st)
	}

	s.topic("q-partition-1").busy = true
	s.fails("DELETE", topicURL+"q/partitions", "", 412, "Topic has active producers/subscriptions")
	s.topic("q-partition-0") // none is deleted if one cannot be
	s.ok("DELETE", topicURL+"q/partitions?force=true", "")
	s.fails("DELETE", topicURL+"q/partitions", "", 404, "Topic persistent://rec/ns/q not found.")
	s.fails("DELETE", topicURL+"t/partitions", "", 409, "persistent://rec/ns/t is a non-partitioned topic. Instead of calling delete-partitioned-topic please call delete.")
	for n := range s.topics.all {
		if strings.HasPrefix(n.Local, "q") {
			t.Errorf("%v is left", n)
		}
	}
}

func TestLimitOfTopics(t *testing.T) {
	s := newServer(t)
	s.ok("POST", nsURL+"/maxTopicsPerNamespace", "2")
	s.fails("PUT", topicURL+"q/partitions", "3", 412, "Exceed maximum number of topics in namespace.")
	s.ok("DELETE", nsURL+"/maxTopicsPerNamespace", "")
	s.ok("PUT", topicURL+"q/partitions", "3")
}

func TestSubscriptions(t *testing.T) {
	s := newServer(t)
	const url = topicURL + "t/subscription/"
	s.fails("PUT", url+"s", "", 409, "Subscription already exists for topic")
	s.ok("PUT", url+"at?replicated=true", `{"ledgerId":3,"entryId":2,"properties":{"x":"y"}}`)
	at := s.topic("t").subs["at"]
	if at.markDelete != (ledgerfs.Position{Ledger: 3, Entry: 1}) || at.properties["x"] != "y" || !at.replicated {
		t.Errorf("created %+v", at)
	}
	s.ok("PUT", url+"a%2Fb", `"latest"`)
	if s.topic("t").subs["a/b"].markDelete.Entry != 3 {
		t.Error("not at the end")
	}
	s.fails("PUT", topicURL+"p/subscription/x", `"sideways"`, 400, "The body is not a position: json: cannot unmarshal string into Go value of type adminapi.resetCursor")
	s.ok("PUT", topicURL+"made/subscription/x", "") // creates the topic, as clients may here
	s.topic("made")
	s.is("GET", topicURL+"t/subscriptions", "", `["a/b","at","s"]`)

	s.ok("POST", url+"s/skip_all", "")
	s.ok("POST", url+"s/skip/7", "")
	s.ok("POST", url+"s/expireMessages/100", "")
	s.ok("POST", url+"s/resetcursor/1234", "")
	s.ok("POST", url+"s/resetcursor", `{"ledgerId":3,"entryId":1}`)
	s.ok("POST", url+"s/resetcursor", `{"ledgerId":3,"entryId":1,"excluded":true}`)
	s.ok("POST", url+"s/resetcursor", `{"ledgerId":-1,"entryId":-1}`)
	s.ok("POST", url+"s/resetcursor", `{"ledgerId":9223372036854775807,"entryId":9223372036854775807}`)
	s.ok("POST", topicURL+"t/all_subscription/expireMessages/0", "")
	want := []string{"skip all", "skip 7", "expire before 1700000000000", "seek time 1234", "seek 3:1", "seek 3:2",
		"seek " + subscription.EarliestID.String(), "seek " + subscription.LatestID.String(), "expire before 1700000100000"}
	if got := s.topic("t").subs["s"].calls; !reflect.DeepEqual(got, want) {
		t.Errorf("calls %q\nwant  %q", got, want)
	}
	s.fails("POST", url+"none/skip_all", "", 404, "Subscription none not found for topic persistent://rec/ns/t")
	s.fails("POST", url+"s/skip/x", "", 404, "HTTP 404 Not Found")
	s.fails("POST", topicURL+"p/subscription/s/skip/1", "", 405, "Skip messages on a partitioned topic is not allowed")

	s.ok("PUT", url+"s/properties", `{"q":"r"}`)
	s.is("GET", url+"s/properties", "", `{"q":"r"}`)

	s.topic("t").subs["s"].busy = true
	s.fails("DELETE", url+"s", "", 412, "Subscription has active connected consumers")
	if got := s.ok("GET", topicURL+"t/stats", ""); !strings.Contains(got, `"type":"Key_Shared"`) || !strings.Contains(got, `"keyHashRanges":["[0, 65535]"]`) {
		t.Errorf("stats %s", got)
	}
	s.ok("DELETE", url+"s?force=true", "")
	s.fails("DELETE", url+"s", "", 404, "Subscription s not found for topic persistent://rec/ns/t")
}

func TestMessagesByPosition(t *testing.T) {
	s := newServer(t)
	topic := s.topic("t")
	topic.open = [][]byte{entry(t, 5000, "five"), entry(t, 6000, "six")}
	batch, err := message.AppendBatch(message.AppendBrokerEntry(nil, message.BrokerEntry{Timestamp: 1700000000123, Index: 8}),
		&message.Header{ProducerName: "pro\nducer", PublishTime: 7000, Compression: message.LZ4, SchemaVersion: []byte{1}},
		[]message.Outgoing{{Value: []byte("seven")}, {Value: []byte("eight"), SequenceID: 1}})
	if err != nil {
		t.Fatal(err)
	}
	topic.open = append(topic.open, batch)
	single, err := message.AppendSingle(nil, &message.Header{ProducerName: "p", PublishTime: 8000},
		&message.Outgoing{Key: "k", EventTime: 9000, Value: []byte("keyed"), Properties: []message.Property{{Key: "ä", Value: "😀\n"}}})
	if err != nil {
		t.Fatal(err)
	}
	topic.open = append(topic.open, single)

	w := s.do("GET", topicURL+"t/ledger/5/entry/2", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), "seven") || !strings.HasSuffix(w.Body.String(), "eight") {
		t.Errorf("batch: %d %q", w.Code, w.Body)
	}
	for k, v := range map[string]string{
		"Message-ID": "5:2", "num-batch-message": "2", "publish-time": "1970-01-01T00:00:07Z", "compression": "LZ4", "producer-name": "pro ducer",
		"Broker-Entry-METADATA-timestamp": "2023-11-14T22:13:20.123Z", "Broker-Entry-METADATA-index": "8", "Base64-schema-version": "AQ==",
	} {
		if got := w.Header()["X-Pulsar-"+k]; len(got) != 1 || got[0] != v {
			t.Errorf("%s = %q, want %q", k, got, v)
		}
	}
	w = s.do("GET", topicURL+"t/ledger/5/entry/3", "")
	if got := w.Header()["X-Pulsar-PROPERTY"]; len(got) != 1 || got[0] != `{"\u00e4":"\ud83d\ude00\n"}` {
		t.Errorf("properties %q", got)
	}
	if k, at := w.Header()["X-Pulsar-partition-key"], w.Header()["X-Pulsar-event-time"]; len(k) != 1 || k[0] != "k" || len(at) != 1 || at[0] != "1970-01-01T00:00:09Z" {
		t.Errorf("headers %v", w.Header())
	}
	s.fails("GET", topicURL+"t/ledger/5/entry/4", "", 404, "Message id not found")
	s.fails("GET", topicURL+"t/ledger/4/entry/0", "", 404, "Message id not found")

	sub := topic.subs["s"]
	sub.deleted = "(3:0..3:1],(3:2..5:0]" // 3:1, 3:3 and 5:0 are acknowledged
	for n, want := range map[string]string{"1": "3:0", "2": "3:2", "3": "5:1", "4": "5:2", "5": "5:3"} {
		if got := s.do("GET", topicURL+"t/subscription/s/position/"+n, "").Header()["X-Pulsar-Message-ID"]; len(got) != 1 || got[0] != want {
			t.Errorf("peek %s: %q, want %s", n, got, want)
		}
	}
	s.fails("GET", topicURL+"t/subscription/s/position/6", "", 404, "Message not found")
	if got := s.ok("GET", topicURL+"t/subscription/fresh/position/1", ""); got != "hello" {
		t.Errorf("peek through a new subscription: %q", got)
	}

	for at, want := range map[string]string{"0": "3,\"entryId\":0", "1000": "3,\"entryId\":0", "1001": "3,\"entryId\":1", "5000": "5,\"entryId\":0", "8000": "5,\"entryId\":3", "9999": "5,\"entryId\":4"} {
		if got := s.ok("GET", topicURL+"t/messageid/"+at, ""); !strings.Contains(got, `{"ledgerId":`+want+",") {
			t.Errorf("at %s: %s, want %s", at, got, want)
		}
	}
	for query, want := range map[string]string{
		"": "keyed", "?messagePosition=3": "six", "?initialPosition=earliest&messagePosition=2": "there", "?initialPosition=earliest&messagePosition=99": "keyed",
	} {
		if got := s.ok("GET", topicURL+"t/examinemessage"+query, ""); got != want {
			t.Errorf("examine %s: %q, want %q", query, got, want)
		}
	}
	s.ok("PUT", topicURL+"empty", "")
	s.fails("GET", topicURL+"empty/examinemessage", "", 412, "Could not examine messages due to the total message is zero")
}

func TestSchemas(t *testing.T) {
	s := newServer(t)
	const url = "/admin/v2/schemas/rec/ns/t/"
	const def = `{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}`
	body := func(typ, def string) string {
		b, err := json.Marshal(postSchema{Type: typ, Schema: def, Properties: map[string]string{"k": "v"}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	s.is("POST", url+"version", body("JSON", def), `{"version":-1}`)
	s.is("POST", url+"schema", body("JSON", def), `{"version":{"version":0}}`)
	s.is("POST", url+"schema", body("JSON", strings.ReplaceAll(def, ",", " ,\n")), `{"version":{"version":0}}`)
	s.is("POST", url+"version", body("JSON", def), `{"version":0}`)
	const shown = `{"version":0,"type":"JSON","timestamp":1700000100000,"data":"{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"name\":\"a\",\"type\":\"int\"}]}","properties":{"k":"v"}}`
	s.is("GET", url+"schema", "", shown)
	s.is("GET", url+"schema/0", "", shown)
	s.is("GET", url+"schemas", "", `{"getSchemaResponses":[`+shown+`]}`)
	s.fails("GET", url+"schema/1", "", 404, "Schema not found")
	s.fails("POST", url+"schema", body("AVRO", def), 409, "Incompatible schema: exists schema type JSON, new schema type AVRO")
	s.is("POST", url+"compatibility", body("JSON", def), `{"compatibility":true,"schemaCompatibilityStrategy":"FULL"}`)
	s.is("POST", url+"compatibility", body("AVRO", def), `{"compatibility":false,"schemaCompatibilityStrategy":"FULL"}`)
	s.fails("POST", url+"schema", body("AVRO", "{"), 422, "Invalid schema definition data for AVRO schema")
	s.fails("POST", url+"schema", body("NOPE", "{"), 422, "Unknown schema type NOPE")
	s.fails("POST", "/admin/v2/schemas/rec/none/t/schema", body("JSON", def), 404, "Namespace not found")
	s.is("DELETE", url+"schema", "", `{"version":1}`)
	s.fails("GET", url+"schema", "", 404, "Schema not found")
	s.fails("GET", url+"schema/0", "", 404, "Schema not found")
	s.is("POST", url+"schema", body("STRING", ""), `{"version":{"version":2}}`)

	kv := `{"type":"KEY_VALUE","schema":"{\"key\":\"\",\"value\":{\"type\":\"int\"}}","properties":{"key.schema.type":"STRING","value.schema.type":"AVRO","kv.encoding.type":"INLINE"}}`
	s.is("POST", "/admin/v2/schemas/rec/ns/kv/schema", kv, `{"version":{"version":0}}`)
	if got := s.ok("GET", "/admin/v2/schemas/rec/ns/kv/schema", ""); !strings.Contains(got, `"data":"{\"key\":\"\",\"value\":{\"type\":\"int\"}}"`) {
		t.Errorf("key/value schema: %s", got)
	}

	s.ok("DELETE", topicURL+"t", "")
	s.ok("PUT", topicURL+"t", "")
	s.is("POST", url+"schema", body("STRING", ""), `{"version":{"version":0}}`) // another topic of the same name
}

func TestLookupAnswersWithTheClientsHost(t *testing.T) {
	s := newServer(t)
	for host, want := range map[string]string{
		"pulsar.example:9999": `{"brokerUrl":"pulsar://pulsar.example:6650","httpUrl":"http://pulsar.example:8080","nativeUrl":"pulsar://pulsar.example:6650","brokerUrlSsl":""}`,
		"[::1]:8080":          `{"brokerUrl":"pulsar://[::1]:6650","httpUrl":"http://[::1]:8080","nativeUrl":"pulsar://[::1]:6650","brokerUrlSsl":""}`,
	} {
		r := httptest.NewRequest("GET", "/lookup/v2/topic/persistent/rec/ns/t", nil)
		r.Host = host
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Body.String() != want {
			t.Errorf("%s: %s, want %s", host, w.Body, want)
		}
	}
}

func TestWhatIsNotThere(t *testing.T) {
	s := newServer(t)
	s.fails("GET", "/admin/v2/nonsense", "", 404, "HTTP 404 Not Found")
	s.fails("GET", "/admin/v3/functions/public/default", "", 404, "HTTP 404 Not Found")
	s.fails("GET", "/", "", 404, "HTTP 404 Not Found")
	s.fails("GET", "/admin/v2/topical/rec/ns/t/stats", "", 404, "HTTP 404 Not Found")
	s.fails("POST", "/admin/v2/clusters", "", 405, "HTTP 405 Method Not Allowed")
	s.fails("GET", "/admin/v2/persistent/rec/ns//stats", "", 404, "HTTP 404 Not Found")
	s.fails("GET", "/admin/v2"+strings.Repeat("/x", 100), "", 404, "HTTP 404 Not Found")
	s.fails("POST", "/admin/v2/brokers/configuration/allowAutoSubscriptionCreation/%7B%22a%2Fb%22%7D", "", 412, "Can't update non-dynamic configuration")
	if w := s.do("PUT", topicURL+"big", strings.Repeat("x", maxBody+1)); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d", w.Code)
	}
}

func TestScrape(t *testing.T) {
	s := newServer(t)
	s.ok("PUT", topicURL+"quo%22te", "")
	got := s.ok("GET", "/metrics", "")
	for _, want := range []string{
		"\npulsar_broker_topics_count{cluster=\"standalone\"} 5\n",
		"\npulsar_rate_in{cluster=\"standalone\",namespace=\"rec/ns\",topic=\"persistent://rec/ns/quo\\\"te\"} 1.5\n",
		"\npulsar_broker_rate_in{cluster=\"standalone\"} 7.5\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func FuzzPath(f *testing.F) {
	s := newServer(f)
	for _, p := range []string{topicURL + "t/stats", "/lookup/v2/topic/persistent/rec/ns/t", "/admin/v2/persistent/rec/ns/t/subscription/s/position/1", "//", "/%2F"} {
		f.Add("GET", p, "")
	}
	f.Add("PUT", topicURL+"x/partitions", `{"partitions":2}`)
	f.Add("POST", nsURL+"/autoTopicCreation", `{"allowAutoTopicCreation":true}`)
	f.Fuzz(func(t *testing.T, method, path, body string) {
		r, err := http.NewRequest(method, "http://h"+path, strings.NewReader(body))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code >= 400 && !strings.HasPrefix(w.Body.String(), `{"reason":`) {
			t.Fatalf("%s %s %q: %d %s", method, path, body, w.Code, w.Body)
		}
	})
}
