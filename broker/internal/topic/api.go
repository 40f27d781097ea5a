// Package topic is one loaded persistent topic: its producers, its subscriptions and its managed ledger.
//
// # Promises
//
// Messages of one producer are stored in the order of its Sends, and its sink hears of them in that order. Once a
// send has failed, every later one of that producer fails too, until the client has created the producer again and
// sends again from the first that failed: so an error never reorders. Nothing is reported as stored before the
// managed ledger has confirmed it.
//
// # Goroutines
//
// A topic owns none. Completions come on the managed ledger's goroutine; dispatch belongs to the subscriptions.
//
// Errors are serr.Errors, ready for the client.
package topic

import (
	"context"
	"fmt"
	"time"

	"github.com/daybook/daybook/broker/internal/subscription"
	"github.com/daybook/daybook/ledgerfs"
)

// An AccessMode is the protocol's ProducerAccessMode, with its numbers.
type AccessMode uint8

// The access modes.
const (
	AccessShared               AccessMode = 0
	AccessExclusive            AccessMode = 1
	AccessWaitForExclusive     AccessMode = 2
	AccessExclusiveWithFencing AccessMode = 3
)

// String is the name of the protocol's enumeration, as Pulsar's error texts and statistics print it.
func (m AccessMode) String() string {
	switch m {
	case AccessShared:
		return "Shared"
	case AccessExclusive:
		return "Exclusive"
	case AccessWaitForExclusive:
		return "WaitForExclusive"
	case AccessExclusiveWithFencing:
		return "ExclusiveWithFencing"
	}
	return fmt.Sprintf("AccessMode(%d)", uint8(m))
}

// A ProducerRequest describes a producer to be: the fields of CommandProducer.
type ProducerRequest struct {
	// ProducerID is the client's number of the producer, unique on its connection.
	ProducerID uint64
	// Name is empty where the broker shall generate one.
	Name string
	// UserProvided says that the client's user, not a broker, chose Name.
	UserProvided bool
	// Epoch grows with each reconnection of the same client producer.
	Epoch      uint64
	AccessMode AccessMode
	// TopicEpoch is what the client was told when it became exclusive before; nil for a new producer.
	TopicEpoch *uint64
	Encrypted  bool
	// InitialSubscription, where not empty, is created, at the earliest message, if it does not exist.
	InitialSubscription string
	Metadata            map[string]string
	// SchemaVersion is what the producer's schema was registered as; nil without a schema. For statistics.
	SchemaVersion []byte
	// Conn identifies the connection: a comparable value, equal for producers of the same connection.
	Conn any
	// For statistics.
	Address, ClientVersion string
	PartialProducer        bool
}

// ProducerInfo is what PRODUCER_SUCCESS tells the client.
type ProducerInfo struct {
	Name string
	// LastSequenceID is -1 unless deduplication knows the producer.
	LastSequenceID int64
	// TopicEpoch is nil for a shared producer on a topic that never had an exclusive one.
	TopicEpoch *uint64
	// Ready is false for a WaitForExclusive producer that must wait; ProducerReady follows.
	Ready bool
}

// A Send is one SEND command: one entry.
type Send struct {
	SequenceID uint64
	// HighestSequenceID is the last sequence id of a batch; 0 where the client set none.
	HighestSequenceID uint64
	// Messages is num_messages, at least 1.
	Messages int32
	// Payload is the frame's bytes after the command: [0x0e01 crc]? [size][metadata][payload]. The checksum has
	// been verified. It is kept, and must not be changed any more. Its first Headroom bytes are not part of the
	// message (say, the command before it) and may be overwritten: with mledger.MaxPrefix of them the message is stored
	// without being copied.
	Payload  []byte
	Headroom int
	IsChunk  bool
	Marker   bool
	// Txn says that the send belongs to a transaction.
	Txn bool
}

// A SendResult is what became of one Send.
type SendResult struct {
	SequenceID        uint64
	HighestSequenceID uint64
	Position          ledgerfs.Position
	// Err is nil where the message is stored, else a serr.Error (PersistenceError, TopicTerminatedError, NotAllowedError,
	// ProducerFenced).
	Err error
}

// A ProducerSink hears of one producer's sends and fate; a connection implements it. Its methods must not block;
// they may be called from any goroutine, one at a time for each producer. After CloseProducer, or once
// Producer.Close has returned, none is called any more.
type ProducerSink interface {
	// SendCompleted comes once for each Send, in the order of the Sends, possibly before Send returns.
	SendCompleted(p *Producer, r SendResult)
	// ProducerReady ends the wait of a WaitForExclusive producer: with its info, or, where the wait was given
	// up (fencing, unload), with an error; then the producer is gone.
	ProducerReady(p *Producer, info ProducerInfo, err error)
	// CloseProducer: the producer is gone (unload, fencing, a failed write, termination); the client should
	// create it again.
	CloseProducer(p *Producer)
	// Alive reports whether the client still answers, probing its connection if need be; it waits until ctx ends.
	// It is asked, from the goroutine of another client's AddProducer, when that one wants this producer's name.
	Alive(ctx context.Context) bool
}

// LastMessage is the end of a topic as GET_LAST_MESSAGE_ID reports it.
type LastMessage struct {
	// Position is -1:-1 where the topic holds no message.
	Position ledgerfs.Position
	// BatchIndex is the index of the last message of a batch, -1 for an entry that is no batch.
	BatchIndex int32
}

// ProducerStats is a snapshot of one producer.
type ProducerStats struct {
	Name                   string
	ID                     uint64
	AccessMode             AccessMode
	Address, ClientVersion string
	ConnectedSince         time.Time
	MsgRateIn              float64
	MsgThroughputIn        float64
	AverageMsgSize         float64
	MsgIn, BytesIn         int64
	Metadata               map[string]string
	PartialProducer        bool
}

// Stats is a snapshot of a topic.
type Stats struct {
	MsgRateIn, MsgThroughputIn   float64
	MsgRateOut, MsgThroughputOut float64
	MsgIn, BytesIn               int64
	MsgOut, BytesOut             int64
	AverageMsgSize               float64
	// StorageSize is the bytes of all ledgers kept, BacklogSize those from the slowest durable cursor on.
	StorageSize, BacklogSize int64
	TopicEpoch               *uint64
	Owner                    string
	WaitingPublishers        int
	LastPublish              time.Time
	Created                  time.Time
	Producers                []ProducerStats
	Subscriptions            []subscription.Stats
	Terminated               bool
}

// LedgerInfo is one ledger of a topic.
type LedgerInfo struct {
	ID        ledgerfs.LedgerID
	Entries   int64
	Bytes     int64
	Offloaded bool
}

// InternalStats is the inside of a topic's managed ledger.
type InternalStats struct {
	EntriesAdded         int64
	NumberOfEntries      int64
	TotalSize            int64
	CurrentLedgerEntries int64
	CurrentLedgerSize    int64
	LastLedgerCreated    time.Time
	WaitingCursors       int
	PendingAdds          int
	LastConfirmed        ledgerfs.Position
	State                string
	Ledgers              []LedgerInfo
	Cursors              map[string]subscription.CursorStats
	Properties           map[string]string
}
