package ledgerfs

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// EntryDigest is the CRC32C of an entry's header (ledger, entry, last-add-confirmed, length; big-endian
// 64-bit each, as BookKeeper's digest manager lays them out) followed by its payload. The ledger's writer
// computes it, the bookie checks it on arrival, every reader checks it again.
func EntryDigest(id LedgerID, entry, lac EntryID, length int64, payload []byte) uint32 {
	var h [32]byte
	binary.BigEndian.PutUint64(h[0:], uint64(id))
	binary.BigEndian.PutUint64(h[8:], uint64(entry))
	binary.BigEndian.PutUint64(h[16:], uint64(lac))
	binary.BigEndian.PutUint64(h[24:], uint64(length))
	return crc32.Update(crc32.Checksum(h[:], castagnoli), castagnoli, payload)
}
