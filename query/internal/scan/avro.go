package scan

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"math/big"
	"slices"

	"github.com/daybook/daybook/query/internal/value"
)

var errAvro = errors.New("value is not valid Avro of its schema")

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// An avroReader goes through one binary value by its writer's schema.
type avroReader struct {
	b     []byte
	items int // nested values so far: blocks of zero-sized items must not run for ever
}

func (r *avroReader) long() (int64, error) {
	u, n := binary.Uvarint(r.b)
	if n <= 0 {
		return 0, errAvro
	}
	r.b = r.b[n:]
	return int64(u>>1) ^ -int64(u&1), nil
}

func (r *avroReader) take(n int64) ([]byte, error) {
	if n < 0 || n > int64(len(r.b)) {
		return nil, errAvro
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out, nil
}

func (r *avroReader) bytes() ([]byte, error) {
	n, err := r.long()
	if err != nil {
		return nil, err
	}
	return r.take(n)
}

const maxAvroItems = 10_000_000

func (r *avroReader) skip(n *node, depth int) error {
	_, err := r.read(n, depth, false)
	return err
}

// read reads a value, boxed if keep; nil is null.
func (r *avroReader) read(n *node, depth int, keep bool) (any, error) {
	if r.items++; r.items > maxAvroItems || depth > maxJSONDepth {
		return nil, errAvro
	}
	switch n.kind {
	case nNull:
		return nil, nil
	case nBoolean:
		b, err := r.take(1)
		if err != nil || b[0] > 1 {
			return nil, errAvro
		}
		return b[0] == 1, nil
	case nInt, nLong:
		v, err := r.long()
		if err == nil && n.kind == nInt && (v < math.MinInt32 || v > math.MaxInt32) {
			err = errAvro
		}
		if !keep {
			return nil, err
		}
		return v, err
	case nFloat:
		b, err := r.take(4)
		if err != nil || !keep {
			return nil, err
		}
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), nil
	case nDouble:
		b, err := r.take(8)
		if err != nil || !keep {
			return nil, err
		}
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), nil
	case nBytes, nString, nFixed:
		var b []byte
		var err error
		if n.kind == nFixed {
			b, err = r.take(int64(n.size))
		} else {
			b, err = r.bytes()
		}
		if err != nil || !keep {
			return nil, err
		}
		if n.typ.Kind == value.Decimal {
			return avroDecimal(b, n.typ)
		}
		if len(b) == 0 {
			return "", nil
		}
		return text(b), nil
	case nEnum:
		i, err := r.long()
		if err != nil || i < 0 || i >= int64(len(n.symbols)) {
			return nil, errAvro
		}
		return n.symbols[i], nil
	case nUnion:
		i, err := r.long()
		if err != nil || i < 0 || i >= int64(len(n.branches)) {
			return nil, errAvro
		}
		v, err := r.read(n.branches[i], depth+1, keep && int(i) == n.main)
		if int(i) != n.main {
			v = nil
		}
		return v, err
	case nRecord:
		var out []any
		for _, f := range n.fields {
			v, err := r.read(f, depth+1, keep)
			if err != nil {
				return nil, err
			}
			if keep {
				out = append(out, v)
			}
		}
		return out, nil
	case nArray, nMap:
		list, pairs := []any{}, value.Pairs{}
		for {
			k, err := r.long()
			if err != nil {
				return nil, err
			}
			if k == 0 {
				break
			}
			if k < 0 {
				k = -k
				if _, err := r.long(); err != nil {
					return nil, err
				}
			}
			if k < 0 {
				return nil, errAvro
			}
			for range k {
				var key []byte
				if n.kind == nMap {
					if key, err = r.bytes(); err != nil {
						return nil, err
					}
				}
				v, err := r.read(n.elem, depth+1, keep)
				if err != nil {
					return nil, err
				}
				if keep && n.kind == nMap {
					pairs = append(pairs, value.Pair{Key: string(key), Value: v})
				} else if keep {
					list = append(list, v)
				}
			}
		}
		if n.kind == nMap {
			return pairs, nil
		}
		return list, nil
	}
	return nil, errAvro
}

// avroDecimal reads a big-endian two's complement number.
func avroDecimal(b []byte, t value.Type) (any, error) {
	z := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0]&0x80 != 0 {
		z.Sub(z, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	v, ok := value.Int128FromBig(z)
	if !ok || !v.Fits(t.Precision) {
		return nil, errAvro
	}
	return v, nil
}

// avroProjector takes wanted fields out of values written with one schema.
type avroProjector struct {
	root *node
	want []int // for each field of the root: the column, -1 if not wanted
	cols int
	row  []any
	last int // the last wanted field: what is behind it is not read
}

// newAvroProjector reads values written with root for columns of the names and types of fields; a field
// that the writer did not have, or had with another type, is null.
func newAvroProjector(root *node, fields []*node) *avroProjector {
	p := &avroProjector{root: root, cols: len(fields), row: make([]any, len(fields))}
	if root.kind != nRecord {
		p.root = &node{kind: nRecord, fields: []*node{root}}
		p.want = []int{-1}
		if len(fields) == 1 {
			p.want[0] = 0
		}
		p.last = 0
		return p
	}
	for i, f := range root.fields {
		w := -1
		for k, g := range fields {
			if f.name == g.name && f.typ.Equal(g.typ) {
				w = k
				p.last = i
			}
		}
		p.want = append(p.want, w)
	}
	return p
}

func (p *avroProjector) project(b []byte, cols []*value.Vec) error {
	clear(p.row)
	r := avroReader{b: b}
	for i, f := range p.root.fields[:min(p.last+1, len(p.root.fields))] {
		w := p.want[i]
		v, err := r.read(f, 0, w >= 0)
		if err != nil {
			for _, c := range cols {
				c.AppendNull()
			}
			return err
		}
		if w >= 0 {
			p.row[w] = v
		}
	}
	for k, c := range cols {
		c.Append(p.row[k])
	}
	return nil
}
