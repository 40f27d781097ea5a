package subscription

import (
	"context"
	"time"

	"github.com/daybook/daybook/ledgerfs"
)

// A Subscription is one subscription of a loaded topic. All methods may be called by any goroutine.
type Subscription struct{}

// Name is the subscription's name.
func (s *Subscription) Name() string { panic("") }

// Stats is a snapshot.
func (s *Subscription) Stats() Stats { panic("") }

// CursorStats is a snapshot of the cursor.
func (s *Subscription) CursorStats() CursorStats { panic("") }

// Seek moves the cursor. All consumers are closed first: their clients subscribe again, and wait until the cursor
// stands where it should.
func (s *Subscription) Seek(ctx context.Context, to SeekTarget) error { panic("") }

// Skip acknowledges the next n unacknowledged entries.
func (s *Subscription) Skip(ctx context.Context, n int) error { panic("") }

// SkipAll acknowledges everything that the topic holds now.
func (s *Subscription) SkipAll(ctx context.Context) error { panic("") }

// ExpireBefore acknowledges every entry published before t.
func (s *Subscription) ExpireBefore(ctx context.Context, t time.Time) error { panic("") }

// SetProperties replaces the stored properties.
func (s *Subscription) SetProperties(ctx context.Context, p map[string]string) error { panic("") }

// Consumers are those connected now.
func (s *Subscription) Consumers() []*Consumer { panic("") }

// A Consumer is a connected consumer. All methods may be called by any goroutine; the connection calls those that
// carry out commands in the order of the commands.
type Consumer struct{}

// ID is the client's number of the consumer.
func (c *Consumer) ID() uint64 { panic("") }

// Name is the consumer's name.
func (c *Consumer) Name() string { panic("") }

// Subscription is the one that the consumer belongs to.
func (c *Consumer) Subscription() *Subscription { panic("") }

// Flow grants permits for so many more messages; 0 is ignored.
func (c *Consumer) Flow(permits uint32) { panic("") }

// Resume takes back what a Deliver that returned false asked for.
func (c *Consumer) Resume() { panic("") }

// Ack acknowledges. done, which may be nil, is called once, possibly before Ack returns, when the acknowledgement
// has been taken into the cursor: what it takes is stored within the cursor's flush interval.
func (c *Consumer) Ack(a Ack, done func(error)) { panic("") }

// Redeliver asks for entries to be delivered again: ids on Shared and Key_Shared. Without ids, and always on
// Exclusive and Failover, it is everything that is delivered and unacknowledged; epoch is then the new consumer
// epoch (0 where the client sent none).
func (c *Consumer) Redeliver(ids []AckID, epoch uint64) { panic("") }

// Seek is Subscription.Seek, refused with NotReady while the consumer's subscription cannot seek. This consumer's
// CloseConsumer comes before Seek returns.
func (c *Consumer) Seek(ctx context.Context, to SeekTarget) error { panic("") }

// Unsubscribe deletes the subscription. Other connected consumers make it fail, or, with force, are closed.
func (c *Consumer) Unsubscribe(ctx context.Context, force bool) error { panic("") }

// Close takes the consumer out. What it had not acknowledged goes to the others, or to the next one.
func (c *Consumer) Close() { panic("") }

// MarkDelete is the subscription's mark-delete position, which GET_LAST_MESSAGE_ID reports.
func (c *Consumer) MarkDelete() ledgerfs.Position { panic("") }

// Stats is a snapshot.
func (c *Consumer) Stats() ConsumerStats { panic("") }
