package node

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/daybook/daybook/raftmeta/internal/state"
)

// A View is the state in a pebble database, snapshot or indexed batch.
type View struct{ R pebble.Reader }

// Get implements state.View.
func (v View) Get(key []byte) ([]byte, bool, error) {
	b, closer, err := v.R.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read %q: %w", key, err)
	}
	b = append([]byte{}, b...)
	return b, true, closer.Close()
}

// Scan implements state.View.
func (v View) Scan(start, end []byte) iter.Seq2[state.Pair, error] {
	return func(yield func(state.Pair, error) bool) {
		it, err := v.R.NewIter(&pebble.IterOptions{LowerBound: start, UpperBound: end})
		if err != nil {
			yield(state.Pair{}, fmt.Errorf("scan %q: %w", start, err))
			return
		}
		defer it.Close()
		for it.First(); it.Valid(); it.Next() {
			value, err := it.ValueAndErr()
			if err != nil {
				yield(state.Pair{}, fmt.Errorf("scan %q: %w", start, err))
				return
			}
			if !yield(state.Pair{Key: slices.Clone(it.Key()), Value: append([]byte{}, value...)}, nil) {
				return
			}
		}
		if err := it.Error(); err != nil {
			yield(state.Pair{}, fmt.Errorf("scan %q: %w", start, err))
		}
	}
}

// apply adds a mutation of the state to b.
func apply(b *pebble.Batch, m state.Mutation) error {
	switch m.Kind {
	case state.Set:
		return b.Set(m.Key, m.Value, nil)
	case state.Delete:
		return b.Delete(m.Key, nil)
	case state.DeleteRange:
		return b.DeleteRange(m.Key, m.End, nil)
	}
	panic(fmt.Sprintf("node: mutation kind %d", m.Kind))
}
