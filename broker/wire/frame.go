// Package wire is the codec of the Pulsar client protocol: frames, commands and the checksum, as values and
// bytes, without sockets.
//
// # Frames
//
//	simple  := total u32 | commandSize u32 | command
//	payload := total u32 | commandSize u32 | command | brokerEntry? | checksum? | metadataSize u32 | metadata | body
//
//	brokerEntry := 0x0e02 u16 | size u32 | BrokerEntryMetadata
//	checksum    := 0x0e01 u16 | crc32c u32        over metadataSize, metadata and body
//
// Numbers are big-endian; total does not count itself. SEND and MESSAGE are payload frames; only a MESSAGE
// may carry a brokerEntry, and only to a client that asked for it. A command is a BaseCommand of
// wirepb/commands.proto: a type, and in the field of the same number the command itself.
//
// # Speed
//
// The commands of which there is one a message or nearly so (SEND, SEND_RECEIPT, MESSAGE, ACK, FLOW) are
// flat structs with hand-written codecs that do not allocate once their slices have grown; all others use
// the generated types. The hand-written and the generated code read the same bytes alike, which a fuzz
// target holds.
//
// Nothing here is safe for use by several goroutines at a time unless it says so.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Limits of the protocol.
const (
	// DefaultMaxMessageSize bounds metadata plus body of one message unless configured otherwise; CONNECTED
	// tells the client.
	DefaultMaxMessageSize = 5 << 20
	// FramePadding is what a frame may have above the maximal message size, for its command and headers.
	FramePadding = 10 << 10
	// ProtocolVersion is the newest version that is spoken here.
	ProtocolVersion = 21
)

// Magic numbers of the optional parts of a payload frame.
const (
	magicChecksum    = 0x0e01
	magicBrokerEntry = 0x0e02
)

// Errors of decoding. A peer that causes one of them, ErrChecksum excepted, has lost the thread of its
// stream: the connection is closed.
var (
	ErrFrameTooLarge  = errors.New("frame too large")
	ErrMalformed      = errors.New("malformed frame")
	ErrUnknownCommand = errors.New("unknown command")
	ErrChecksum       = errors.New("checksum mismatch")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC32C of the protocol.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// MaxFrame is the largest total of a frame for a maximal message size.
func MaxFrame(maxMessageSize int) int { return maxMessageSize + FramePadding }

// The sizes of the slabs that a Reader reads into.
const (
	minSlab = 4 << 10
	maxSlab = 256 << 10
)

// A Reader cuts a byte stream into frames. It reads into slabs that many frames share, which are never
// written again, so that a frame may be kept; a kept frame keeps its slab. Slabs grow from 4 KiB to 256 KiB
// with the traffic, so that an idle connection holds little.
type Reader struct {
	src      io.Reader
	maxFrame int
	slab     []byte // buf[:len] is filled, up to cap is free
	off      int    // start of what is not returned yet
	reads    int    // reads into this slab
	err      error  // of src, after what is in the slab
}

// NewReader makes a Reader of frames whose total is at most maxFrame.
func NewReader(src io.Reader, maxFrame int) *Reader {
	return &Reader{src: src, maxFrame: maxFrame, slab: make([]byte, 0, minSlab)}
}

// SetMaxFrame changes the limit for the frames that Next has not looked at yet.
func (r *Reader) SetMaxFrame(n int) { r.maxFrame = n }

// Next appends to frames what the stream has: it waits for at least one whole frame and takes all that have
// arrived with it. A frame is returned with its total; who gets it may overwrite it. At the end of the stream
// the error is io.EOF, or io.ErrUnexpectedEOF within a frame; a total above the limit is ErrFrameTooLarge.
// Errors come after the frames before them.
func (r *Reader) Next(frames [][]byte) ([][]byte, error) {
	n := len(frames)
	for {
		need := 4
		for len(r.slab)-r.off >= 4 {
			b := r.slab[r.off:]
			total := binary.BigEndian.Uint32(b)
			if uint64(total) > uint64(r.maxFrame) {
				if len(frames) > n {
					return frames, nil
				}
				return frames, fmt.Errorf("%w: %d bytes, limit %d", ErrFrameTooLarge, total, r.maxFrame)
			}
			if need = 4 + int(total); len(b) < need {
				break
			}
			frames = append(frames, b[:need:need])
			r.off += need
			need = 4
		}
		switch {
		case len(frames) > n:
			return frames, nil
		case r.err == io.EOF && len(r.slab) > r.off:
			return frames, io.ErrUnexpectedEOF
		case r.err != nil:
			return frames, r.err
		}
		r.room(need)
		m, err := r.src.Read(r.slab[len(r.slab):cap(r.slab)])
		r.slab = r.slab[:len(r.slab)+m]
		r.reads++
		r.err = err
	}
}

// room makes the slab able to hold the need bytes of the frame that begins at off, in a new slab if the
// present one has too little left.
func (r *Reader) room(need int) {
	rest := r.slab[r.off:]
	free := cap(r.slab) - len(r.slab)
	if cap(r.slab)-r.off >= need && (free >= cap(r.slab)/8 || r.off == 0 && free > 0) {
		return
	}
	size := cap(r.slab)
	switch {
	case r.reads <= 4:
		size *= 2
	case r.reads > 64:
		size /= 2
	}
	size = max(min(size, maxSlab), minSlab)
	// A large frame gets a slab that it fills: what follows it goes to the next.
	if need > size/2 {
		size = max(size, need)
	}
	slab := make([]byte, len(rest), size)
	copy(slab, rest)
	r.slab, r.off, r.reads = slab, 0, 0
}

// SplitFrame divides a whole frame into its command and what follows it.
func SplitFrame(frame []byte) (command, payload []byte, err error) {
	if len(frame) < 8 || uint64(binary.BigEndian.Uint32(frame)) != uint64(len(frame)-4) {
		return nil, nil, fmt.Errorf("%w: %d bytes have no command", ErrMalformed, len(frame))
	}
	n := binary.BigEndian.Uint32(frame[4:])
	if uint64(n) > uint64(len(frame)-8) {
		return nil, nil, fmt.Errorf("%w: command of %d bytes in a frame of %d", ErrMalformed, n, len(frame))
	}
	return frame[8 : 8+n : 8+n], frame[8+n:], nil
}

// A Payload is the parts of a payload frame after its command. All alias it.
type Payload struct {
	// BrokerEntry is the serialized BrokerEntryMetadata, nil if there is none.
	BrokerEntry []byte
	// Checksummed says that the payload carries a checksum, Sum, which covers Summed.
	Checksummed bool
	Sum         uint32
	Summed      []byte
	// Metadata is the serialized MessageMetadata, Body the message or batch as its producer made it.
	Metadata []byte
	Body     []byte
}

// ParsePayload divides what follows a command, or a stored entry, into its parts. It does not verify the
// checksum: see Payload.Verify.
func ParsePayload(b []byte) (Payload, error) {
	var p Payload
	rest, err := SkipBrokerEntry(b)
	if err != nil {
		return p, err
	}
	if len(rest) < len(b) {
		p.BrokerEntry = b[6 : len(b)-len(rest)]
	}
	if len(rest) >= 6 && binary.BigEndian.Uint16(rest) == magicChecksum {
		p.Checksummed = true
		p.Sum = binary.BigEndian.Uint32(rest[2:])
		rest = rest[6:]
	}
	p.Summed = rest
	if len(rest) < 4 {
		return p, fmt.Errorf("%w: payload without metadata", ErrMalformed)
	}
	n := binary.BigEndian.Uint32(rest)
	if uint64(n) > uint64(len(rest)-4) {
		return p, fmt.Errorf("%w: metadata of %d bytes in a payload of %d", ErrMalformed, n, len(rest))
	}
	p.Metadata, p.Body = rest[4:4+n], rest[4+n:]
	return p, nil
}

// Verify reports ErrChecksum if the payload carries a checksum that is not that of its bytes.
func (p *Payload) Verify() error {
	if p.Checksummed {
		if sum := Checksum(p.Summed); sum != p.Sum {
			return fmt.Errorf("%w: computed %08x, received %08x", ErrChecksum, sum, p.Sum)
		}
	}
	return nil
}

// SkipBrokerEntry is b without the broker entry metadata that it may begin with.
func SkipBrokerEntry(b []byte) ([]byte, error) {
	if len(b) < 2 || binary.BigEndian.Uint16(b) != magicBrokerEntry {
		return b, nil
	}
	if len(b) < 6 {
		return nil, fmt.Errorf("%w: broker entry metadata cut short", ErrMalformed)
	}
	n := binary.BigEndian.Uint32(b[2:])
	if uint64(n) > uint64(len(b)-6) {
		return nil, fmt.Errorf("%w: broker entry metadata of %d bytes in %d", ErrMalformed, n, len(b))
	}
	return b[6+n:], nil
}
