package e2e

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/daybook/daybook/tests/cluster"
)

// What is set reaches the broker and is shown by its admin API; what has no effect is named when the server starts.
func TestSettingsReachTheBroker(t *testing.T) {
	const limit = 32 << 20 // the largest that may be set
	s := cluster.Start(t, cluster.Options{Args: []string{
		"--set", "maxMessageSize=33554432", "--set", "allowAutoTopicCreationType=partitioned", "--set", "defaultNumPartitions=2",
		"--set", "zookeeperServers=zk:2181"}})
	if !strings.Contains(s.Log(), "zookeeperServers") {
		t.Errorf("the setting without effect is not named:\n%s", s.Log())
	}
	resp, err := http.Get(s.Admin + "/admin/v2/brokers/configuration/runtime")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), `"maxMessageSize":"33554432"`) {
		t.Errorf("the admin API shows %s, %v", body, err)
	}

	file := t.TempDir() + "/large"
	writeFile(t, file, limit-1024) // room for the message's metadata
	s.Run("produce", "large", "-f", file)
	if out := s.Run("topics", "list", "public/default"); !strings.Contains(out, "large-partition-0") {
		t.Errorf("the topic was not created with partitions: %s", out)
	}
	if out := s.Run("consume", "large", "-s", "all", "-p", "Earliest", "-n", "1", "-o", "value"); len(strings.TrimSpace(out)) != limit-1024 {
		t.Errorf("of the largest message %d bytes came back", len(out))
	}
	writeFile(t, file, limit+1)
	if _, err := s.TryRun("produce", "large", "-f", file); err == nil {
		t.Error("a message larger than the limit was taken")
	}
}

// writeFile writes n letters.
func writeFile(t *testing.T, name string, n int) {
	t.Helper()
	if err := os.WriteFile(name, bytes.Repeat([]byte("x"), n), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWrongSettingsAreOneLine(t *testing.T) {
	for set, want := range map[string]string{
		"noSuchSetting=1": "no such setting", "maxMessageSize=5MB": "want a number", "clusterName=other": "standalone", "maxMessageSize": "key=value",
	} {
		dir := t.TempDir()
		refused(t, []string{"standalone", "--data-dir", dir, "--broker-port=0", "--http-port=0", "--set", set}, set[:10], want)
	}
}
