package dispatch

import (
	"encoding/binary"
	"math/bits"
)

// HashRange is the number of sticky-key hashes: 0 to HashRange-1.
const HashRange = 1 << 16

// Hash is the sticky-key hash of a key: Murmur3 (32 bits, seed 0) without its sign, modulo HashRange. Like in
// Pulsar no key hashes to 0: what would, hashes to 1.
func Hash(key []byte) int32 {
	if h := int32(murmur3(key) & 0x7fffffff % HashRange); h != 0 {
		return h
	}
	return 1
}

// murmur3 is MurmurHash3_x86_32 with seed 0.
func murmur3(b []byte) uint32 {
	const c1, c2 = 0xcc9e2d51, 0x1b873593
	n := uint32(len(b))
	var h uint32
	for len(b) >= 4 {
		k := binary.LittleEndian.Uint32(b) * c1
		h = bits.RotateLeft32(h^bits.RotateLeft32(k, 15)*c2, 13)*5 + 0xe6546b64
		b = b[4:]
	}
	var k uint32
	switch len(b) {
	case 3:
		k ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		k ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		k ^= uint32(b[0])
		h ^= bits.RotateLeft32(k*c1, 15) * c2
	}
	h ^= n
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}
