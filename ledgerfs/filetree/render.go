package filetree

import (
	"bytes"
	"context"
	"errors"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/ledgerfs/topicread"
)

// renderVersion is that of the rules by which entries become text. Lengths that were counted by other rules are
// not used.
const renderVersion = message.RenderVersion

// How far back from its last chunk a message's other chunks are looked for. Chunks of one message follow each
// other closely; what lies farther apart shows nothing, as if its first chunks had been trimmed.
const (
	maxChunkEntries = 16 << 10
	chunkWindow     = 256 // entries
)

// A renderer makes text of entries, for one goroutine at a time. The text of an entry depends on the entry
// alone, but for the last chunk of a chunked message, whose text is the whole message: the other chunks show
// nothing.
type renderer struct {
	tree  *Tree
	file  *file
	fence chain.Fence
	entry message.Entry
	dec   message.Decoder
	buf   []byte // scratch for the user of the renderer
	// publishTime is the publish time of the entry that was rendered last, in ms.
	publishTime int64
}

// renderer returns a renderer of the file's entries within the fence; release gives it back.
func (t *Tree) renderer(f *file, fence chain.Fence) *renderer {
	r, _ := t.renderers.Get().(*renderer)
	if r == nil {
		r = &renderer{tree: t}
	}
	r.file, r.fence = f, fence
	return r
}

func (r *renderer) release() {
	r.file, r.fence, r.entry = nil, chain.Fence{}, message.Entry{}
	if cap(r.buf) > scratchKeep {
		r.buf = nil
	}
	r.tree.renderers.Put(r)
}

// nextIndex is the index in the topic after the last message of the entry that was rendered last; 0 if unknown.
func (r *renderer) nextIndex() int64 { return r.entry.Broker.Index + 1 }

// appendText appends the entry's text. It fails only where other chunks cannot be read.
func (r *renderer) appendText(ctx context.Context, dst []byte, v View, e *ledgerfs.Entry) ([]byte, error) {
	if err := r.load(ctx, e); err != nil {
		return dst, err
	}
	for m := range r.dec.Shown(&r.entry) {
		if v == ViewLine {
			dst = message.AppendLine(dst, m)
		} else {
			dst = message.AppendNDJSON(dst, position(e), m, nil)
		}
	}
	return dst, nil
}

// length is the number of bytes that appendText appends.
func (r *renderer) length(ctx context.Context, v View, e *ledgerfs.Entry) (int64, error) {
	if err := r.load(ctx, e); err != nil {
		return 0, err
	}
	n := 0
	for m := range r.dec.Shown(&r.entry) {
		if v == ViewLine {
			n += message.LineLen(m)
		} else {
			n += message.NDJSONLen(position(e), m, nil)
		}
	}
	return int64(n), nil
}

// load parses the entry. What does not parse is shown as it is stored: see Decoder.Shown.
func (r *renderer) load(ctx context.Context, e *ledgerfs.Entry) error {
	if err := r.entry.Parse(e.Payload); err != nil {
		r.entry = message.Entry{Payload: e.Payload, Broker: r.entry.Broker, HasBroker: r.entry.HasBroker}
		r.entry.Meta.Encrypted = true // opaque: shown as base64 of what is stored
	}
	md := &r.entry.Meta
	r.publishTime = md.PublishTime
	if md.IsChunk() && md.ChunkID == md.NumChunks-1 {
		return r.assemble(ctx, position(e))
	}
	return nil
}

// assemble makes the last chunk of a message, which r.entry holds, the whole message. It stays a chunk, which
// shows nothing, if the others are not there.
func (r *renderer) assemble(ctx context.Context, last ledgerfs.Position) error {
	ours := func(m *message.Metadata) bool {
		md := &r.entry.Meta
		return m.IsChunk() && m.SequenceID == md.SequenceID && bytes.Equal(m.UUID, md.UUID) && bytes.Equal(m.ProducerName, md.ProducerName)
	}
	// Backwards to the nearest first chunk, window by window; chunks are kept in reverse.
	var chunks [][]byte
	until, looked := last, 0
	for found := false; !found && looked < maxChunkEntries; {
		window, err := r.window(ctx, until)
		if err != nil {
			return err
		}
		if len(window) == 0 {
			return nil // trimmed, or never there
		}
		looked += len(window)
		for i := len(window) - 1; i >= 0 && !found; i-- {
			var e message.Entry
			if e.Parse(window[i].Payload) == nil && ours(&e.Meta) {
				chunks = append(chunks, window[i].Payload)
				found = e.Meta.ChunkID == 0
			}
		}
		until = position(&window[0])
	}
	var asm message.Assembler
	for i := len(chunks) - 1; i >= 0; i-- {
		var e message.Entry
		if e.Parse(chunks[i]) != nil {
			continue
		}
		if _, err := asm.Add(&e); err != nil {
			return nil // larger than it says, or than any message may be: it shows nothing, to clients neither
		}
	}
	_, _ = asm.Add(&r.entry)
	return nil
}

// window is up to chunkWindow entries before a position, in order.
func (r *renderer) window(ctx context.Context, until ledgerfs.Position) ([]ledgerfs.Entry, error) {
	id, n := until.Ledger, until.Entry
	for n <= 0 {
		i, _ := r.fence.Record.Find(id)
		if i == 0 {
			return nil, nil
		}
		l := &r.fence.Record.Ledgers[i-1]
		id, n = l.ID, r.fence.LastEntry(i-1)+1
	}
	var out []ledgerfs.Entry
	for from := max(n-chunkWindow, 0); from < n; {
		es, err := r.tree.entries.Read(ctx, r.fence, ledgerfs.Position{Ledger: id, Entry: from}, countChunk)
		if lost, ok := errors.AsType[*topicread.EntryError](err); ok && lost.Position.Ledger == id {
			from = lost.Position.Entry + 1
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range es {
			if es[i].Ledger == id && es[i].Entry < n {
				out = append(out, es[i])
			}
		}
		if len(es) == 0 || es[len(es)-1].Ledger != id {
			break
		}
		from = es[len(es)-1].Entry + 1
	}
	return out, nil
}
