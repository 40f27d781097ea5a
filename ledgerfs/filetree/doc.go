// Package filetree shows topics as files, without a kernel: names, exact sizes, ranges, growth, appends; and
// it carries the same tree over HTTP (Service, Client).
//
// # The tree
//
//	/<tenant>/<namespace>/<topic>            the line file: one message a line; appending publishes
//	/<tenant>/<namespace>/<topic>@           a directory with the topic's other faces: reached by name, never listed
//	/<tenant>/<namespace>/<topic>@/ndjson    one JSON object a message
//
// Topics are persistent topics that hold messages; of a partitioned topic these are its partitions
// (`<topic>-partition-N`). Names are encoded (topicname.EncodeFileName) so that '@' and a leading '.' stay free for the tree.
//
// # Promises
//
// A file's bytes are those of its confirmed and readable messages in publish order and nothing else: an
// offset, once readable, shows the same byte for ever, and a size is the number of bytes that can be read.
// Offsets here are text offsets: they count from the first message that the topic ever had, so that they
// outlive retention. A file spans [Attr.Base, Attr.End); retention moves Base, growth moves End, and neither
// goes back. Who shows the file to programs (the mount) holds Base still while a program has it open.
//
// A stat or a read sees every message that was acknowledged before it began: it asks the topic for its fence
// and waits until the text up to there is counted.
//
// # The text index
//
// The first stat, open or read of a face counts the text of its topic once; each ledger keeps a sparse list of
// (text offset, entry). From then on growth is counted as the topic reports it, so that no later call scans.
// The lengths of ledgers that are closed are recorded in the topic's chain (Topic.SetText): after a restart these are
// not counted again; a ledger's sparse list is made when it is first read. A topic that nobody asked for in a
// while is forgotten.
//
// A chunked message is shown once, whole, in the place of its last chunk. An entry of which no sound copy exists
// shows nothing; everything around it stays readable.
//
// # Goroutines
//
// All methods of Tree, Service and Client may be called by any goroutine. Counting runs in up to GOMAXPROCS
// goroutines that exist only while there is something to count; an idle topic has none, and no timer. Close
// stops and awaits them.
package filetree
