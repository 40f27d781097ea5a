package settings

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daybook/daybook/broker/server"
)

// base is a configuration with something in every field that settings reach.
func base() server.Config {
	return server.Config{Cluster: "standalone", RetentionTime: -1, RetentionBytes: -1}
}

func TestEverySettingArrives(t *testing.T) {
	for _, test := range []struct {
		set  []string
		want func(c *server.Config)
	}{
		{[]string{"maxMessageSize=1048576"}, func(c *server.Config) { c.MaxMessageSize = 1 << 20 }},
		{[]string{"allowAutoTopicCreation=false"}, func(c *server.Config) { c.NoAutoTopicCreation = true }},
		{[]string{"allowAutoTopicCreation=True"}, func(c *server.Config) {}},
		{[]string{"allowAutoTopicCreationType=partitioned"}, func(c *server.Config) { c.AutoPartitions = 1 }},
		{[]string{"defaultNumPartitions=7", "allowAutoTopicCreationType=partitioned"}, func(c *server.Config) { c.AutoPartitions = 7 }},
		{[]string{"defaultNumPartitions=7"}, func(c *server.Config) {}},
		{[]string{"defaultNumPartitions=7", "allowAutoTopicCreationType=non-partitioned"}, func(c *server.Config) {}},
		{[]string{"allowAutoSubscriptionCreation=false"}, func(c *server.Config) { c.NoAutoSubscriptionCreation = true }},
		{[]string{"defaultRetentionTimeInMinutes=90"}, func(c *server.Config) { c.RetentionTime = 90 * time.Minute }},
		{[]string{"defaultRetentionTimeInMinutes=0"}, func(c *server.Config) { c.RetentionTime = 0 }},
		{[]string{"defaultRetentionSizeInMB=3"}, func(c *server.Config) { c.RetentionBytes = 3 << 20 }},
		{[]string{"defaultRetentionSizeInMB=-1"}, func(c *server.Config) { c.RetentionBytes = -1 }},
		{[]string{"advertisedAddress=broker.example.org"}, func(c *server.Config) { c.AdvertisedAddress = "broker.example.org" }},
		{[]string{"advertisedAddress=::1"}, func(c *server.Config) { c.AdvertisedAddress = "::1" }},
		{[]string{"clusterName=standalone"}, func(c *server.Config) {}},
		{[]string{" maxMessageSize = 2048 ", "maxMessageSize=4096"}, func(c *server.Config) { c.MaxMessageSize = 4096 }},
	} {
		s, err := Parse(test.set)
		if err != nil {
			t.Errorf("%v: %v", test.set, err)
			continue
		}
		got, want := base(), base()
		unused, err := s.Apply(&got)
		if err != nil || len(unused) > 0 {
			t.Errorf("%v: unused %v, %v", test.set, unused, err)
		}
		test.want(&want)
		want.Settings = s
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v: got %+v, want %+v", test.set, got, want)
		}
	}
}

func TestWrongSettingsAreRefusedAndChangeNothing(t *testing.T) {
	for _, test := range []struct {
		set  string
		want error
	}{
		{"maxMessageSize", ErrSyntax},
		{"", ErrSyntax},
		{"=1", ErrSyntax},
		{"maxMessagesize=1048576", ErrUnknown},
		{"noSuchSetting=1", ErrUnknown},
		{"maxMessageSize=", ErrValue},
		{"maxMessageSize=0", ErrValue},
		{"maxMessageSize=99999999999", ErrValue},
		{"maxMessageSize=5MB", ErrValue},
		{"allowAutoTopicCreation=yes", ErrValue},
		{"allowAutoSubscriptionCreation=", ErrValue},
		{"allowAutoTopicCreationType=some", ErrValue},
		{"defaultNumPartitions=0", ErrValue},
		{"defaultRetentionTimeInMinutes=-2", ErrValue},
		{"defaultRetentionTimeInMinutes=9223372036854775807", ErrValue},
		{"defaultRetentionSizeInMB=9223372036854775807", ErrValue},
		{"advertisedAddress=", ErrValue},
		{"advertisedAddress=host:6650", ErrValue},
		{"advertisedAddress=http://host", ErrValue},
		{"clusterName=other", ErrValue},
	} {
		c := base()
		s, err := Parse([]string{"allowAutoTopicCreation=false", test.set})
		if err == nil {
			_, err = s.Apply(&c)
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%q: %v, want %v", test.set, err, test.want)
		}
		if !reflect.DeepEqual(c, base()) {
			t.Errorf("%q changed the configuration to %+v", test.set, c)
		}
	}
	if _, err := Parse([]string{"maxmessagesize=1"}); err == nil || !strings.Contains(err.Error(), "maxMessageSize") {
		t.Errorf("a wrong letter case is answered with %v", err)
	}
}

// A key of Pulsar's without effect is reported and not shown as set.
func TestUnusedSettingsAreNamed(t *testing.T) {
	s, err := Parse([]string{"zookeeperServers=zk:2181", "brokerServicePort=6650", "maxMessageSize=2048"})
	if err != nil {
		t.Fatal(err)
	}
	c := base()
	unused, err := s.Apply(&c)
	if want := []string{"brokerServicePort", "zookeeperServers"}; err != nil || !slices.Equal(unused, want) {
		t.Errorf("unused are %v, %v, want %v", unused, err, want)
	}
	if want := map[string]string{"maxMessageSize": "2048"}; !reflect.DeepEqual(c.Settings, want) {
		t.Errorf("shown are %v, want %v", c.Settings, want)
	}
}

func TestKnownNamesAreSortedAndHoldTheUsed(t *testing.T) {
	if !slices.IsSorted(knownNames()) {
		t.Error("known.txt is not sorted")
	}
	for _, k := range Used() {
		if !Known(k) {
			t.Errorf("%s takes effect but is none of Pulsar's", k)
		}
	}
}
