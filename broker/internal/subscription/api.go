// Package subscription is one topic's subscription: its consumers, what each was sent and has not yet
// acknowledged, and the goroutine that reads the topic for them.
//
// # Promises
//
// Every message of the topic after the subscription's cursor is delivered until it is acknowledged; nothing is
// delivered twice except after a redelivery request, a seek, a lost consumer or a crash. Exclusive and Failover
// deliver in log order; Key_Shared delivers the entries of one key in log order, also while consumers come and go;
// Shared delivers redelivered entries before new ones. Both hold back a message until its deliver_at_time, never less;
// Exclusive and Failover do not. A consumer is never sent more messages than it has permits
// for, save that the last entry, a batch, may overshoot. An entry that cannot be read is tried again until it can: it is
// never skipped, and what comes after it waits.
//
// # Goroutines
//
// A subscription that has nothing to do owns no goroutine. Whatever creates work (permits, new entries,
// redelivery, a consumer that leaves) calls wake, which starts the one dispatching goroutine if it does not run;
// it ends when nothing is left that it could deliver. Sinks are called without the subscription's lock, one call
// at a time for each consumer, and must not block.
//
// Errors are serr.Errors, ready for the client.
package subscription

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/daybook/daybook/ledgerfs"
)

// A Type is the protocol's CommandSubscribe.SubType, with its numbers.
type Type uint8

// The subscription types.
const (
	Exclusive Type = 0
	Shared    Type = 1
	Failover  Type = 2
	KeyShared Type = 3
)

// String is the name that Pulsar's statistics use.
func (t Type) String() string {
	switch t {
	case Exclusive:
		return "Exclusive"
	case Shared:
		return "Shared"
	case Failover:
		return "Failover"
	case KeyShared:
		return "Key_Shared"
	}
	return fmt.Sprintf("SubType(%d)", uint8(t))
}

// An InitialPosition is where a new subscription starts, with the protocol's numbers.
type InitialPosition uint8

// The initial positions.
const (
	Latest   InitialPosition = 0
	Earliest InitialPosition = 1
)

// The two message ids that stand for the ends of a topic, as clients send them (as signed 64-bit numbers).
var (
	EarliestID = ledgerfs.Position{Ledger: -1, Entry: -1}
	LatestID   = ledgerfs.Position{Ledger: math.MaxInt64, Entry: math.MaxInt64}
)

// A HashRange is a range of sticky-key hashes, both ends included, within 0–65535.
type HashRange struct{ Start, End int32 }

// KeySharedMeta is how a Key_Shared consumer wants its share of the keys.
type KeySharedMeta struct {
	// Sticky is KeySharedMode STICKY: the consumer names its ranges. Otherwise AUTO_SPLIT.
	Sticky          bool
	Ranges          []HashRange
	AllowOutOfOrder bool
}

// A Request describes a consumer that subscribes: the fields of CommandSubscribe.
type Request struct {
	Subscription string
	Type         Type
	// ConsumerID is the client's number of the consumer, unique on its connection.
	ConsumerID   uint64
	ConsumerName string
	// Priority: lower values are served first (Shared), or become active (Failover).
	Priority int32
	Durable  bool
	// Start is the start message id, the first entry to deliver (batch indexes are the client's business);
	// nil where the client sent none. It positions only a cursor that does not exist yet. EarliestID and
	// LatestID are understood.
	Start *ledgerfs.Position
	// StartRollback, where positive, starts a new cursor at the first message published since that long ago.
	StartRollback time.Duration
	Initial       InitialPosition
	ReadCompacted bool
	KeyShared     *KeySharedMeta
	// Epoch is the consumer epoch; deliveries carry it.
	Epoch    uint64
	Metadata map[string]string
	// Properties are the subscription's own, stored when the subscription is created.
	Properties map[string]string
	Replicated bool
	// For statistics.
	Address, ClientVersion string
}

// A Message is one stored entry on its way to a consumer.
type Message struct {
	Position        ledgerfs.Position
	RedeliveryCount uint32
	// Epoch is the consumer epoch under which it was sent.
	Epoch uint64
	// AckSet are the batch indexes that are not acknowledged yet, one bit each; nil means all of them.
	AckSet []int64
	// Messages is the number of permits it used.
	Messages int32
	// Payload is the stored form, beginning with the broker entry metadata (0x0e02 …). Shared: read only.
	Payload []byte
}

// A ConsumerSink takes what a subscription sends to one consumer; a connection implements it. Its methods must
// not block and must not call back into the subscription, except that Resume may be called from any goroutine.
// After CloseConsumer, or once Consumer.Close has returned, no method is called any more.
type ConsumerSink interface {
	// Deliver queues messages in order; it keeps no reference to the slice msgs, but may keep the payloads.
	// False asks to be left alone until Consumer.Resume: the messages are taken, but the outgoing queue is full.
	Deliver(c *Consumer, msgs []Message) (writable bool)
	// CloseConsumer: the consumer is gone (seek, unload, deletion); the client should subscribe again.
	CloseConsumer(c *Consumer)
	// ActiveChanged tells a Failover consumer whether it is the active one.
	ActiveChanged(c *Consumer, active bool)
	// EndOfTopic: the topic was terminated and this consumer's subscription has read all of it.
	EndOfTopic(c *Consumer)
	// Alive reports whether the client still answers, probing its connection if need be; it waits until ctx ends.
	// It is asked, from the goroutine of another client's Subscribe, when this consumer stands in its way.
	Alive(ctx context.Context) bool
}

// An AckID is one message id of an acknowledgement or a redelivery request.
type AckID struct {
	Position ledgerfs.Position
	// AckSet holds a bit for each message of the batch that is still unacknowledged; nil means that the whole
	// entry is meant.
	AckSet []int64
}

// An Ack is the protocol's CommandAck.
type Ack struct {
	// Cumulative acknowledges everything up to and including the last of IDs, for Exclusive and Failover.
	Cumulative bool
	IDs        []AckID
}

// A SeekTarget is where to move a subscription: to Time if it is set, else to Position, the first entry to
// deliver. EarliestID and LatestID are understood.
type SeekTarget struct {
	Position ledgerfs.Position
	// AckSet, where not nil, has a bit for each message of the batch at Position that is still to be delivered.
	AckSet []int64
	Time   time.Time
}

// ConsumerStats is a snapshot of one consumer.
type ConsumerStats struct {
	Name                   string
	ID                     uint64
	Address, ClientVersion string
	ConnectedSince         time.Time
	Type                   Type
	Priority               int32
	AvailablePermits       int
	Unacked                int
	BlockedOnUnacked       bool
	AvgMessagesPerEntry    int
	MsgRateOut             float64 // messages a second, over about the last minute
	MsgThroughputOut       float64 // bytes a second
	MsgRateRedeliver       float64
	MessageAckRate         float64
	MsgOut, BytesOut       int64
	LastAcked              time.Time
	LastConsumed           time.Time
	LastConsumedFlow       time.Time
	KeyHashRanges          []HashRange
	ReadPositionWhenJoined ledgerfs.Position
	Metadata               map[string]string
}

// Stats is a snapshot of a subscription.
type Stats struct {
	Name    string
	Type    Type
	HasType bool // false until the first consumer has connected
	Durable bool
	// Backlog counts entries that are not acknowledged, Pulsar's msgBacklog.
	Backlog int64
	// BacklogBytes is an estimate from the topic's average entry size.
	BacklogBytes int64
	Unacked      int
	// InReplay counts entries that wait to be delivered again.
	InReplay            int
	Delayed             int64
	ActiveConsumer      string // Failover and Exclusive
	Replicated          bool
	KeySharedMode       string // "AUTO_SPLIT", "STICKY" or ""
	Properties          map[string]string
	MsgRateOut          float64
	MsgThroughputOut    float64
	MsgRateRedeliver    float64
	MsgRateExpired      float64
	MessageAckRate      float64
	MsgOut, BytesOut    int64
	TotalExpired        int64
	LastExpire          time.Time
	LastConsumed        time.Time
	LastConsumedFlow    time.Time
	LastAcked           time.Time
	LastMarkDeleteMoved time.Time
	Consumers           []ConsumerStats
}

// CursorStats is the inside of a subscription's cursor, for internal statistics.
type CursorStats struct {
	MarkDelete, Read    ledgerfs.Position
	WaitingRead         bool
	PendingReads        int
	EntriesConsumed     int64
	CursorLedger        int64
	IndividuallyDeleted string // "[(7:4..7:6],(7:9..7:10]]"
	LastLedgerSwitch    time.Time
	State               string
	// EntriesSinceFirstUnack counts entries from the first that is not acknowledged to the read position.
	EntriesSinceFirstUnack int64
	Properties             map[string]string
}
