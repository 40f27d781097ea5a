// Package settings reads an operator's settings of a broker, "key=value" with the keys and values of Pulsar's
// broker.conf.
//
// # Promises
//
// A setting either takes effect or is spoken of: a value that the key does not take, and a key that nobody knows, is
// an error; a key of Pulsar's that this version makes no use of is reported, so that a file of settings may be
// used as it is without anybody taking for set what is not. The first error wins and nothing is changed by it.
package settings

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/daybook/daybook/broker/server"
)

// Errors of Parse and Apply, wrapped with the setting that is meant.
var (
	// ErrSyntax: not of the form key=value.
	ErrSyntax = errors.New("want key=value")
	// ErrUnknown: a key that neither Pulsar nor Daybook has.
	ErrUnknown = errors.New("no such setting")
	// ErrValue: a value that the key does not take.
	ErrValue = errors.New("not a value of this setting")
)

// The bounds of maxMessageSize in bytes: a message with its metadata has to fit into a stored entry with room to spare,
// and the memory of a connection holds at least one.
const (
	minMessageSize = 1 << 10
	maxMessageSize = 32 << 20
)

// maxAutoPartitions bounds defaultNumPartitions: creating the partitions is one transaction of metadata.
const maxAutoPartitions = 1000

// Settings are settings by key. The zero value has none.
type Settings map[string]string

// Parse reads "key=value" pairs; of a key that comes twice, the last counts. The spaces around key and value do not
// belong to them.
func Parse(pairs []string) (Settings, error) {
	s := make(Settings, len(pairs))
	for _, pair := range pairs {
		key, value, found := strings.Cut(pair, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !found || key == "" {
			return nil, fmt.Errorf("setting %q: %w", pair, ErrSyntax)
		}
		if _, used := appliers[key]; !used && !Known(key) {
			return nil, fmt.Errorf("setting %s: %w%s", key, ErrUnknown, hint(key))
		}
		s[key] = value
	}
	return s, nil
}

// Apply puts the settings into c, over what is there, and names those that have no effect in this version, sorted.
// c.Settings becomes the settings that have one: what the admin API shows.
func (s Settings) Apply(c *server.Config) (unused []string, err error) {
	next := *c
	next.Settings = maps.Clone(c.Settings)
	if next.Settings == nil {
		next.Settings = make(map[string]string, len(s))
	}
	for _, key := range slices.Sorted(maps.Keys(s)) {
		apply, used := appliers[key]
		if !used {
			unused = append(unused, key)
			continue
		}
		if err := apply(s[key], s, &next); err != nil {
			return nil, fmt.Errorf("setting %s=%s: %w", key, s[key], err)
		}
		next.Settings[key] = s[key]
	}
	*c = next
	return unused, nil
}

// Used are the keys that take effect, sorted.
func Used() []string { return slices.Sorted(maps.Keys(appliers)) }

// appliers put the value of one key into a broker's configuration; all has the values of the other keys.
var appliers = map[string]func(value string, all Settings, c *server.Config) error{
	"maxMessageSize": func(v string, _ Settings, c *server.Config) error {
		n, err := number(v, minMessageSize, maxMessageSize)
		c.MaxMessageSize = int(n)
		return err
	},
	"allowAutoTopicCreation": func(v string, _ Settings, c *server.Config) error {
		allow, err := boolean(v)
		c.NoAutoTopicCreation = !allow
		return err
	},
	"allowAutoSubscriptionCreation": func(v string, _ Settings, c *server.Config) error {
		allow, err := boolean(v)
		c.NoAutoSubscriptionCreation = !allow
		return err
	},
	"allowAutoTopicCreationType": func(v string, all Settings, c *server.Config) error {
		switch v {
		case "non-partitioned":
			c.AutoPartitions = 0
			return nil
		case "partitioned":
			n, err := number(cmp.Or(all["defaultNumPartitions"], "1"), 1, maxAutoPartitions)
			c.AutoPartitions = int(n)
			return err
		}
		return fmt.Errorf("%w: want partitioned or non-partitioned", ErrValue)
	},
	// Counts only with allowAutoTopicCreationType=partitioned, but is checked in any case.
	"defaultNumPartitions": func(v string, _ Settings, _ *server.Config) error {
		_, err := number(v, 1, maxAutoPartitions)
		return err
	},
	"defaultRetentionTimeInMinutes": func(v string, _ Settings, c *server.Config) error {
		n, err := number(v, -1, int64(time.Duration(1<<63-1)/time.Minute))
		c.RetentionTime = time.Duration(n) * time.Minute
		return err
	},
	"defaultRetentionSizeInMB": func(v string, _ Settings, c *server.Config) error {
		n, err := number(v, -1, (1<<63-1)>>20)
		c.RetentionBytes = n
		if n > 0 {
			c.RetentionBytes = n << 20
		}
		return err
	},
	"advertisedAddress": func(v string, _ Settings, c *server.Config) error {
		if net.ParseIP(v) == nil && (v == "" || strings.ContainsAny(v, ":/[]@ \t")) {
			return fmt.Errorf("%w: want a host name or address, without a port", ErrValue)
		}
		c.AdvertisedAddress = v
		return nil
	},
	"clusterName": func(v string, _ Settings, c *server.Config) error {
		if v != c.Cluster {
			return fmt.Errorf("%w: the cluster of this server is %q", ErrValue, c.Cluster)
		}
		return nil
	},
}

func number(v string, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%w: want a number from %d to %d", ErrValue, least, most)
	}
	return n, nil
}

func boolean(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%w: want true or false", ErrValue)
}

// known.txt has the names of the settings in Pulsar 4.2's broker.conf and standalone.conf, sorted, one a line.
//
//go:embed known.txt
var knownText string

var knownNames = sync.OnceValue(func() []string { return strings.Fields(knownText) })

// Known reports whether Pulsar has a setting of this name.
func Known(key string) bool {
	_, found := slices.BinarySearch(knownNames(), key)
	return found
}

// hint is ": did you mean …?" for a key that differs from a known one only in the case of letters.
func hint(key string) string {
	for _, k := range knownNames() {
		if strings.EqualFold(k, key) {
			return fmt.Sprintf(": did you mean %s?", k)
		}
	}
	return ""
}
