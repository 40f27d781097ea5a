package subscription

import (
	"context"
	"time"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/mledger"
)

// FindTime is the first entry of the topic whose producer published it at or after t; false if there is none.
func FindTime(ctx context.Context, l *mledger.Ledger, t time.Time) (ledgerfs.Position, bool, error) {
	at := t.UnixMilli()
	return l.Find(ctx, at, func(e ledgerfs.Entry) (bool, error) {
		var m message.Entry
		if err := m.Parse(e.Payload); err != nil {
			return false, err
		}
		return m.Meta.PublishTime >= at, nil
	})
}
