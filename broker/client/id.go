package client

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A MessageID is the place of a message in its topic.
type MessageID struct {
	Ledger, Entry int64
	// Batch is the message's index in its batch, Partition that of its partition; each -1 if there is none.
	Batch, Partition int32
}

// The ends of a topic, as places to start at.
var (
	Earliest = MessageID{Ledger: -1, Entry: -1, Batch: -1, Partition: -1}
	Latest   = MessageID{Ledger: math.MaxInt64, Entry: math.MaxInt64, Batch: -1, Partition: -1}
)

// String is "ledger:entry:partition", or "ledger:entry:partition:batch" within a batch, as Pulsar's tools
// print ids.
func (id MessageID) String() string {
	s := fmt.Sprintf("%d:%d:%d", id.Ledger, id.Entry, id.Partition)
	if id.Batch >= 0 {
		s += ":" + strconv.Itoa(int(id.Batch))
	}
	return s
}

// ParseMessageID is the inverse of String. It also takes "earliest", "latest" and "ledger:entry".
func ParseMessageID(s string) (MessageID, error) {
	switch s {
	case "earliest":
		return Earliest, nil
	case "latest":
		return Latest, nil
	}
	id := MessageID{Batch: -1, Partition: -1}
	parts := strings.Split(s, ":")
	bad := fmt.Errorf("message id %q: want ledger:entry[:partition[:batch]]", s)
	if len(parts) < 2 || len(parts) > 4 {
		return id, bad
	}
	var n [4]int64
	for i, p := range parts {
		bits := 64
		if i >= 2 {
			bits = 32
		}
		var err error
		if n[i], err = strconv.ParseInt(p, 10, bits); err != nil {
			return id, bad
		}
	}
	id.Ledger, id.Entry = n[0], n[1]
	if len(parts) > 2 {
		id.Partition = int32(n[2])
	}
	if len(parts) > 3 {
		id.Batch = int32(n[3])
	}
	return id, nil
}

// before reports whether id is before o in the same partition.
func (id MessageID) before(o MessageID) bool {
	switch {
	case id.Ledger != o.Ledger:
		return id.Ledger < o.Ledger
	case id.Entry != o.Entry:
		return id.Entry < o.Entry
	}
	return id.Batch < o.Batch
}
