// Package command is what the metadata store's Raft entries say: the commands, the limits they keep and
// their encoding.
//
// # Format
//
//	command := crc32c u32 (big-endian, of what follows) | metapb.Command
//
// The CRC travels with the entry, so that a command which was damaged anywhere between the proposer and the
// apply step of any node is never applied.
package command

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/daybook/daybook/raftmeta"
	"github.com/daybook/daybook/raftmeta/internal/metapb"
)

// Format is the newest format of an encoded command.
const Format = 1

// Limits of sessions.
const (
	DefaultTTL = 10 * time.Second
	MinTTL     = time.Second
	MaxTTL     = time.Hour
)

// ErrCorrupt says that bytes are not a command that this version wrote.
var ErrCorrupt = errors.New("corrupt command")

// A Command is one of Commit, OpenSession, CloseSession, ExpireSession and CompactEvents.
type Command interface{ pb() *metapb.Command }

// Commit applies a transaction.
type Commit struct{ Txn raftmeta.Txn }

// OpenSession starts a session of a node and ends the node's earlier one.
type OpenSession struct {
	Node        string
	Incarnation int64
	TTL         time.Duration // whole milliseconds
}

// CloseSession ends a session by the will of its owner.
type CloseSession struct{ ID raftmeta.SessionID }

// ExpireSession ends a session whose silence the leader of Term has watched. In another term it does
// nothing: a leader that was cut off cannot expire what its successor keeps alive.
type ExpireSession struct {
	ID   raftmeta.SessionID
	Term uint64
}

// CompactEvents drops the events of revisions up to Rev.
type CompactEvents struct{ Rev raftmeta.Revision }

// CheckKey says whether key may be stored.
func CheckKey(key string) error {
	switch {
	case len(key) == 0:
		return fmt.Errorf("%w: empty key", raftmeta.ErrInvalid)
	case len(key) > raftmeta.MaxKeyBytes:
		return fmt.Errorf("%w: key of %d bytes, limit %d", raftmeta.ErrInvalid, len(key), raftmeta.MaxKeyBytes)
	case !utf8.ValidString(key):
		return fmt.Errorf("%w: key %q is not UTF-8", raftmeta.ErrInvalid, key)
	case strings.IndexByte(key, 0) >= 0:
		return fmt.Errorf("%w: key %q contains NUL", raftmeta.ErrInvalid, key)
	}
	return nil
}

// CheckBound says whether bound may limit a range. A bound need not be a key: it may be empty, end in NUL
// or be the end of a prefix.
func CheckBound(bound string) error {
	if limit := raftmeta.MaxKeyBytes + 4; len(bound) > limit {
		return fmt.Errorf("%w: bound of %d bytes, limit %d", raftmeta.ErrInvalid, len(bound), limit)
	}
	return nil
}

// Check says whether the transaction keeps the limits.
func (c Commit) Check() error {
	if n := len(c.Txn.If); n > raftmeta.MaxTxnOps {
		return fmt.Errorf("%w: %d conditions, limit %d", raftmeta.ErrInvalid, n, raftmeta.MaxTxnOps)
	}
	size := 0
	for _, cond := range c.Txn.If {
		if cond.Kind < raftmeta.CondAbsent || cond.Kind > raftmeta.CondNoneUnder {
			return fmt.Errorf("%w: condition kind %d", raftmeta.ErrInvalid, cond.Kind)
		}
		if err := CheckKey(cond.Key); err != nil {
			return err
		}
		size += len(cond.Key)
	}
	for _, ops := range [...][]raftmeta.Op{c.Txn.Then, c.Txn.Else} {
		n, err := checkOps(ops)
		if err != nil {
			return err
		}
		size += n
	}
	if size > raftmeta.MaxTxnBytes {
		return fmt.Errorf("%w: transaction of %d bytes, limit %d", raftmeta.ErrInvalid, size, raftmeta.MaxTxnBytes)
	}
	return nil
}

func checkOps(ops []raftmeta.Op) (size int, err error) {
	if len(ops) > raftmeta.MaxTxnOps {
		return 0, fmt.Errorf("%w: %d operations, limit %d", raftmeta.ErrInvalid, len(ops), raftmeta.MaxTxnOps)
	}
	var puts, sequences map[string]bool // only with a sequence
	for _, op := range ops {
		if op.Kind == raftmeta.OpNext {
			puts, sequences = map[string]bool{}, map[string]bool{}
			break
		}
	}
	for _, op := range ops {
		size += len(op.Key) + len(op.End) + len(op.Value)
		if op.Kind == raftmeta.OpDeleteRange {
			if err := CheckBound(op.Key); err != nil {
				return 0, err
			}
			if err := CheckBound(op.End); err != nil {
				return 0, err
			}
			continue
		}
		if err := CheckKey(op.Key); err != nil {
			return 0, err
		}
		switch op.Kind {
		case raftmeta.OpPut:
			if len(op.Value) > raftmeta.MaxValueBytes {
				return 0, fmt.Errorf("%w: value of %d bytes at %q, limit %d", raftmeta.ErrInvalid, len(op.Value), op.Key, raftmeta.MaxValueBytes)
			}
			if puts != nil {
				puts[op.Key] = true
			}
		case raftmeta.OpDelete:
		case raftmeta.OpNext:
			if op.N < 1 {
				return 0, fmt.Errorf("%w: sequence %q advanced by %d", raftmeta.ErrInvalid, op.Key, op.N)
			}
			sequences[op.Key] = true
		default:
			return 0, fmt.Errorf("%w: operation kind %d", raftmeta.ErrInvalid, op.Kind)
		}
	}
	for key := range sequences {
		if puts[key] {
			return 0, fmt.Errorf("%w: %q is both put and advanced", raftmeta.ErrInvalid, key)
		}
	}
	return size, nil
}

// OnlyDeletes says that the transaction can only remove keys, whichever branch is taken.
func (c Commit) OnlyDeletes() bool {
	for _, ops := range [...][]raftmeta.Op{c.Txn.Then, c.Txn.Else} {
		for _, op := range ops {
			if op.Kind != raftmeta.OpDelete && op.Kind != raftmeta.OpDeleteRange {
				return false
			}
		}
	}
	return true
}

// NewOpenSession checks the options and fills in what is not set.
func NewOpenSession(o raftmeta.SessionOptions) (OpenSession, error) {
	if err := CheckKey(o.Node); err != nil {
		return OpenSession{}, fmt.Errorf("node of session: %w", err)
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.TTL < MinTTL || o.TTL > MaxTTL {
		return OpenSession{}, fmt.Errorf("%w: session TTL %v is not within %v and %v", raftmeta.ErrInvalid, o.TTL, MinTTL, MaxTTL)
	}
	return OpenSession{Node: o.Node, Incarnation: o.Incarnation, TTL: o.TTL.Truncate(time.Millisecond)}, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the command's stored form.
func Encode(c Command) ([]byte, error) {
	m := c.pb()
	m.Format = Format
	b := make([]byte, 4+m.SizeVT())
	if _, err := m.MarshalToSizedBufferVT(b[4:]); err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b, nil
}

// Decode reads what Encode wrote. The command does not alias b. It keeps the limits that Check checks.
func Decode(b []byte) (Command, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(b))
	}
	if want, got := binary.BigEndian.Uint32(b), crc32.Checksum(b[4:], castagnoli); want != got {
		return nil, fmt.Errorf("%w: CRC %08x, want %08x", ErrCorrupt, got, want)
	}
	var m metapb.Command
	if err := m.UnmarshalVT(b[4:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if m.Format != Format {
		return nil, fmt.Errorf("%w: format %d, this version knows %d", ErrCorrupt, m.Format, Format)
	}
	c, err := fromPB(&m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return c, nil
}

func fromPB(m *metapb.Command) (Command, error) {
	switch k := m.Kind.(type) {
	case *metapb.Command_Txn:
		c := Commit{Txn: raftmeta.Txn{Then: opsFromPB(k.Txn.Then), Else: opsFromPB(k.Txn.Else)}}
		if n := len(k.Txn.If); n > 0 {
			c.Txn.If = make([]raftmeta.Cond, n)
		}
		for i, cond := range k.Txn.If {
			kind := raftmeta.CondKind(min(cond.Kind, 255))
			c.Txn.If[i] = raftmeta.Cond{Key: string(cond.Key), Kind: kind}
			switch kind {
			case raftmeta.CondMod:
				c.Txn.If[i].Rev = raftmeta.Revision(cond.N)
			case raftmeta.CondVersion:
				c.Txn.If[i].N = cond.N
			}
		}
		return c, c.Check()
	case *metapb.Command_OpenSession:
		o := k.OpenSession
		if o.TtlMs < MinTTL.Milliseconds() || o.TtlMs > MaxTTL.Milliseconds() {
			return nil, fmt.Errorf("%w: session TTL of %d ms", raftmeta.ErrInvalid, o.TtlMs)
		}
		return OpenSession{Node: o.Node, Incarnation: o.Incarnation, TTL: time.Duration(o.TtlMs) * time.Millisecond}, CheckKey(o.Node)
	case *metapb.Command_CloseSession:
		return CloseSession{ID: raftmeta.SessionID(k.CloseSession.Id)}, nil
	case *metapb.Command_ExpireSession:
		return ExpireSession{ID: raftmeta.SessionID(k.ExpireSession.Id), Term: k.ExpireSession.Term}, nil
	case *metapb.Command_CompactEvents:
		return CompactEvents{Rev: raftmeta.Revision(k.CompactEvents.Revision)}, nil
	}
	return nil, errors.New("no known kind")
}

func opsFromPB(in []*metapb.Op) []raftmeta.Op {
	if len(in) == 0 {
		return nil
	}
	ops := make([]raftmeta.Op, len(in))
	for i, op := range in {
		ops[i] = raftmeta.Op{
			Kind: raftmeta.OpKind(min(op.Kind, 255)), Key: string(op.Key), End: string(op.End),
			Value: op.Value, Session: raftmeta.SessionID(op.Session), N: op.N,
		}
	}
	return ops
}

func (c Commit) pb() *metapb.Command {
	t := &metapb.Txn{Then: opsToPB(c.Txn.Then), Else: opsToPB(c.Txn.Else)}
	for _, cond := range c.Txn.If {
		n := cond.N
		if cond.Kind == raftmeta.CondMod {
			n = int64(cond.Rev)
		}
		t.If = append(t.If, &metapb.Cond{Kind: uint32(cond.Kind), Key: []byte(cond.Key), N: n})
	}
	return &metapb.Command{Kind: &metapb.Command_Txn{Txn: t}}
}

func opsToPB(in []raftmeta.Op) []*metapb.Op {
	ops := make([]*metapb.Op, len(in))
	for i, op := range in {
		ops[i] = &metapb.Op{
			Kind: uint32(op.Kind), Key: []byte(op.Key), End: []byte(op.End), Value: op.Value,
			Session: int64(op.Session), N: op.N,
		}
	}
	return ops
}

func (c OpenSession) pb() *metapb.Command {
	return &metapb.Command{Kind: &metapb.Command_OpenSession{OpenSession: &metapb.OpenSession{
		Node: c.Node, Incarnation: c.Incarnation, TtlMs: c.TTL.Milliseconds(),
	}}}
}

func (c CloseSession) pb() *metapb.Command {
	return &metapb.Command{Kind: &metapb.Command_CloseSession{CloseSession: &metapb.CloseSession{Id: int64(c.ID)}}}
}

func (c ExpireSession) pb() *metapb.Command {
	return &metapb.Command{Kind: &metapb.Command_ExpireSession{ExpireSession: &metapb.ExpireSession{Id: int64(c.ID), Term: c.Term}}}
}

func (c CompactEvents) pb() *metapb.Command {
	return &metapb.Command{Kind: &metapb.Command_CompactEvents{CompactEvents: &metapb.CompactEvents{Revision: int64(c.Rev)}}}
}
