package message

import (
	"container/list"
	"fmt"
)

// Limits of an Assembler that sets none.
const (
	DefaultMaxChunked      = 64 << 20
	DefaultMaxChunkedBytes = 256 << 20
	DefaultMaxChunkedCount = 1024
)

// An Assembler puts chunked messages together again, in the order of the entries it is given. Its memory is
// bounded: beyond the limits the message that was longest without a new chunk is given up, as clients do.
//
// The zero Assembler is ready, and for one goroutine.
type Assembler struct {
	MaxMessage  int // bytes of one message as stored, DefaultMaxChunked if 0
	MaxBytes    int // bytes of all unfinished messages, DefaultMaxChunkedBytes if 0
	MaxMessages int // unfinished messages, DefaultMaxChunkedCount if 0

	byID  map[chunkKey]*list.Element
	order list.List // of *chunked, the one longest without a new chunk first
	bytes int
}

type chunkKey struct {
	producer, uuid string
	sequence       uint64
}

type chunked struct {
	key  chunkKey
	next int32
	data []byte
}

// Add takes the next entry of a topic, if it is a chunk. When the entry completes a message, Add makes it an
// entry that holds the whole: the payload is replaced, and IsChunk is false from then on. done says so; it is
// also true of entries that are no chunks, which are left alone. A chunk that does not follow the one before
// it is dropped with what there was of the message, as clients do: then, and while chunks are missing, done is
// false.
func (a *Assembler) Add(e *Entry) (done bool, err error) {
	md := &e.Meta
	if !md.IsChunk() {
		return true, nil
	}
	key := chunkKey{string(md.ProducerName), string(md.UUID), md.SequenceID}
	el := a.byID[key]
	if md.ChunkID == 0 {
		if el != nil {
			a.drop(el) // the producer sent the message again
		}
		limit := a.MaxMessage
		if limit == 0 {
			limit = DefaultMaxChunked
		}
		if int64(md.TotalChunkSize) > int64(limit) {
			return false, fmt.Errorf("%w: chunked message of %d bytes, limit %d", ErrTooLarge, md.TotalChunkSize, limit)
		}
		if a.byID == nil {
			a.byID = make(map[chunkKey]*list.Element)
		}
		el = a.order.PushBack(&chunked{key: key})
		a.byID[key] = el
	}
	if el == nil {
		return false, nil // its first chunk was trimmed, dropped or is not in this topic
	}
	c := el.Value.(*chunked)
	switch {
	case md.ChunkID < c.next:
		return false, nil // sent twice
	case md.ChunkID > c.next:
		a.drop(el)
		return false, nil
	case int64(len(c.data))+int64(len(e.Payload)) > int64(md.TotalChunkSize):
		a.drop(el)
		return false, fmt.Errorf("%w: chunks of more than the %d bytes that they say", ErrMalformed, md.TotalChunkSize)
	}
	c.next++
	c.data = append(c.data, e.Payload...)
	a.bytes += len(e.Payload)
	a.order.MoveToBack(el)
	if md.ChunkID == md.NumChunks-1 {
		a.drop(el)
		e.Payload, md.NumChunks = c.data, 0
		return true, nil
	}
	a.shrink()
	return false, nil
}

func (a *Assembler) shrink() {
	maxBytes, maxMessages := a.MaxBytes, a.MaxMessages
	if maxBytes == 0 {
		maxBytes = DefaultMaxChunkedBytes
	}
	if maxMessages == 0 {
		maxMessages = DefaultMaxChunkedCount
	}
	for a.bytes > maxBytes || a.order.Len() > maxMessages {
		a.drop(a.order.Front())
	}
}

func (a *Assembler) drop(el *list.Element) {
	c := el.Value.(*chunked)
	a.order.Remove(el)
	delete(a.byID, c.key)
	a.bytes -= len(c.data)
}
