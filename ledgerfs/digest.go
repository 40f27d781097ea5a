package ledgerfs

import (
	"encoding/binary"
	"hash/crc32"
	"sync"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// headers holds the buffers of EntryDigest, which would escape to the heap otherwise: the checksum is called
// through a function value.
var headers = sync.Pool{New: func() any { return new([32]byte) }}

// EntryDigest is the CRC32C of an entry's header (ledger, entry, last-add-confirmed, length; big-endian
// 64-bit each, as BookKeeper's digest manager lays them out) followed by its payload. The ledger's writer
// computes it, the bookie checks it on arrival, every reader checks it again.
func EntryDigest(id LedgerID, entry, lac EntryID, length int64, payload []byte) uint32 {
	h := headers.Get().(*[32]byte)
	defer headers.Put(h)
	binary.BigEndian.PutUint64(h[0:], uint64(id))
	binary.BigEndian.PutUint64(h[8:], uint64(entry))
	binary.BigEndian.PutUint64(h[16:], uint64(lac))
	binary.BigEndian.PutUint64(h[24:], uint64(length))
	return crc32.Update(crc32.Checksum(h[:], castagnoli), castagnoli, payload)
}
