package dispatch

import (
	"cmp"
	"slices"

	"github.com/daybook/daybook/ledgerfs"
)

// RoundRobin is how many entries a consumer of a Shared subscription gets before it is the next one's turn.
const RoundRobin = 20

// An Entry is what a Queue needs to know of an entry to deal it out.
type Entry struct {
	Position ledgerfs.Position
	// Key orders entries: those with equal keys other than 0 go out in log order and to one consumer at a time. On
	// Key_Shared it is the Hash of the sticky key; on Shared it is 0, or ChunkKey for the chunks of one message.
	Key int32
	// Messages is the number of messages not acknowledged yet, at least 1.
	Messages int32
	// LastChunk ends the message whose chunks Key has kept together.
	LastChunk bool
}

// ChunkKey is the key that keeps the chunks of one message together on a Shared subscription.
func ChunkKey(uuid []byte) int32 { return HashRange | int32(murmur3(uuid)&0x7fff_ffff) }

// A Consumer is one consumer's place in a Queue.
type Consumer struct {
	// Owner is for the caller's own use.
	Owner    any
	priority int32
	permits  int64
	unacked  int64
	paused   bool
	// held are the entries that were dealt to the consumer and are not acknowledged.
	held map[ledgerfs.Position]held
}

type held struct{ key, messages int32 }

// Permits is the number of messages the consumer still takes; it may be negative after a large batch.
func (c *Consumer) Permits() int64 { return c.permits }

// Unacked is the number of messages that the consumer holds.
func (c *Consumer) Unacked() int64 { return c.unacked }

// Holds reports whether the consumer holds the entry.
func (c *Consumer) Holds(p ledgerfs.Position) bool { _, ok := c.held[p]; return ok }

// A Queue deals out the entries of a Shared or Key_Shared subscription.
//
// Invariants: an entry that was dealt and is not acknowledged is held by exactly one consumer, or waits, never both.
// While an entry with a key other than 0 waits, no later entry with that key is dealt; and while a consumer holds
// entries with a key, none is dealt to another consumer (neither holds with Unordered).
type Queue struct {
	// Keys is nil for Shared.
	Keys *Keys
	// Unordered gives up the order of keys, as consumers that allow out-of-order delivery ask for.
	Unordered bool
	// MaxUnacked bounds the messages that one consumer holds, MaxUnackedTotal those of all; 0 is no bound. The entry
	// that reaches the bound may overshoot it.
	MaxUnacked, MaxUnackedTotal int64
	// LookAhead bounds the entries that wait before no more new ones are read; 0 means 20 000. MaxDelayed bounds, in the
	// same way, those that are delayed; 0 means 1 000 000.
	LookAhead, MaxDelayed int

	// consumers are ordered by priority, then by their coming.
	consumers []*Consumer
	// cursor is the index of the consumer whose turn it is, turn what is left of it.
	cursor, turn int
	waiting      waitList
	delayed      delays
	counts       map[ledgerfs.Position]uint32
	// holders says for each key other than 0 who holds how many entries of it. Key_Shared only.
	holders map[int32]holder
	// chunks says who gets the chunks of a message that has not come to its end. Shared only.
	chunks  map[int32]*Consumer
	unacked int64
	// average is messages an entry, in 1/256.
	average int64
	skipped map[int32]struct{}
}

type holder struct {
	c *Consumer
	n int32
}

// Consumers is the number of consumers.
func (q *Queue) Consumers() int { return len(q.consumers) }

// Waiting is the number of entries that wait to be dealt again, or for their key.
func (q *Queue) Waiting() int { return len(q.waiting.list) }

// Unacked is the number of messages that all consumers hold.
func (q *Queue) Unacked() int64 { return q.unacked }

// Add takes a consumer in; ranges are for sticky keys only.
func (q *Queue) Add(priority int32, ranges []Range) (*Consumer, error) {
	c := &Consumer{priority: priority, held: make(map[ledgerfs.Position]held)}
	if q.Keys != nil {
		if err := q.Keys.Add(c, ranges); err != nil {
			return nil, err
		}
	}
	i, _ := slices.BinarySearchFunc(q.consumers, priority+1, func(c *Consumer, p int32) int { return cmp.Compare(c.priority, p) })
	q.consumers = slices.Insert(q.consumers, i, c)
	q.turn = 0
	return c, nil
}

// Remove takes a consumer out. What it held waits to be dealt again, its redelivery counts unchanged.
func (q *Queue) Remove(c *Consumer) {
	i := slices.Index(q.consumers, c)
	if i < 0 {
		return
	}
	q.consumers = slices.Delete(q.consumers, i, i+1)
	q.turn = 0
	q.putBack(c, nil, false)
	if q.Keys != nil {
		q.Keys.Remove(c)
	}
	for k, owner := range q.chunks {
		if owner == c {
			delete(q.chunks, k)
		}
	}
}

// Reset forgets everything that was dealt and that waits: the subscription starts anew elsewhere.
func (q *Queue) Reset() {
	for _, c := range q.consumers {
		clear(c.held)
		c.unacked = 0
	}
	q.unacked = 0
	q.waiting.reset()
	q.delayed = nil
	clear(q.counts)
	clear(q.holders)
	clear(q.chunks)
}

// Flow grants a consumer n more messages.
func (q *Queue) Flow(c *Consumer, n int64) { c.permits += n }

// Pause keeps entries from a consumer whose connection is full, until it is called with false.
func (q *Queue) Pause(c *Consumer, on bool) { c.paused = on }

// Blocked reports whether the consumer gets nothing because it holds too much.
func (q *Queue) Blocked(c *Consumer) bool { return q.MaxUnacked > 0 && c.unacked >= q.MaxUnacked }

func (q *Queue) available(c *Consumer) bool {
	return c.permits > 0 && !c.paused && !q.Blocked(c) && (q.MaxUnackedTotal <= 0 || q.unacked < q.MaxUnackedTotal)
}

// Plan says what to read next, at most limit entries: those that wait and can be dealt now, appended to dst in log
// order; and if there are none, how many new entries. Nothing and 0 means that no consumer can take anything.
func (q *Queue) Plan(dst []ledgerfs.Position, limit int) (again []ledgerfs.Position, fresh int) {
	var room int64
	for _, c := range q.consumers {
		if q.available(c) {
			room += c.permits
		}
	}
	if room == 0 {
		return dst, 0
	}
	limit = int(min(int64(limit), max(1, room*256/max(256, q.average))))
	n := len(dst)
	if q.skipped == nil {
		q.skipped = make(map[int32]struct{})
	}
	clear(q.skipped)
	for _, w := range q.waiting.list {
		if len(dst)-n == limit {
			break
		}
		if w.key != 0 && !q.Unordered {
			if _, ok := q.skipped[w.key]; ok {
				continue
			}
			if c := q.pick(w.key); c == nil || !q.available(c) {
				q.skipped[w.key] = struct{}{}
				continue
			}
		} else if c := q.pick(w.key); c == nil || !q.available(c) {
			continue
		}
		dst = append(dst, w.pos)
	}
	if len(dst) > n {
		return dst, 0
	}
	if q.waiting.len() >= cmp.Or(q.LookAhead, 20_000) || len(q.delayed) >= cmp.Or(q.MaxDelayed, 1_000_000) {
		return dst, 0
	}
	return dst, limit
}

// pick is the consumer that an entry with the key would be dealt to now; nil if there is none. It need not be
// available, but for key 0.
func (q *Queue) pick(key int32) *Consumer {
	if q.Keys != nil {
		c := q.Keys.Owner(key)
		if h, ok := q.holders[key]; ok && h.c != c && !q.Unordered {
			return nil // the former owner of the key must get done first
		}
		return c
	}
	if key != 0 {
		if c := q.chunks[key]; c != nil {
			return c
		}
	}
	n := len(q.consumers)
	if n == 0 {
		return nil
	}
	// Within the least priority value that has an available consumer: the one whose turn it is, else the next.
	if q.turn > 0 {
		if c := q.consumers[q.cursor%n]; q.available(c) && q.first(c.priority) {
			return c
		}
	}
	best := -1
	for i := range n {
		j := (q.cursor + 1 + i) % n
		if c := q.consumers[j]; q.available(c) && (best < 0 || c.priority < q.consumers[best].priority) {
			best = j
		}
	}
	if best < 0 {
		return nil
	}
	q.cursor, q.turn = best, RoundRobin
	return q.consumers[best]
}

// first reports whether no consumer with a lesser priority value is available.
func (q *Queue) first(priority int32) bool {
	for _, c := range q.consumers {
		if c.priority >= priority {
			return true
		}
		if q.available(c) {
			return false
		}
	}
	return true
}

// Round begins a round of dealing: it is the next consumer's turn.
func (q *Queue) Round() { q.turn = 0 }

// An Outcome is what became of an entry that was offered.
type Outcome uint8

const (
	// Dealt: the consumer holds it now.
	Dealt Outcome = iota
	// Kept: it waits in the queue, for its key, its consumer's permits, or its consumer.
	Kept
	// Refused: no consumer can take it, and the queue has not kept it; nothing after it can be dealt either.
	Refused
	// Stale: it was to be dealt again, but no longer waits (it was acknowledged, or the queue was reset).
	Stale
)

// Delay keeps a new entry until Due is called with a time of at least at.
func (q *Queue) Delay(e Entry, at int64) { q.delayed.push(delay{at, wait{e.Position, e.Key}}) }

// Delayed is the number of entries that are kept until their time.
func (q *Queue) Delayed() int { return len(q.delayed) }

// Due has the entries whose time has come by now wait to be dealt, and says when the next one's will: 0 if there is none.
func (q *Queue) Due(now int64) (next int64) {
	var due []wait
	for len(q.delayed) > 0 && q.delayed[0].at <= now {
		due = append(due, q.delayed.pop())
	}
	q.waiting.merge(due)
	if len(q.delayed) == 0 {
		q.delayed = nil
		return 0
	}
	return q.delayed[0].at
}

// Deal offers a new entry, in log order.
func (q *Queue) Deal(e Entry) (*Consumer, Outcome) {
	if e.Key != 0 && !q.Unordered && len(q.waiting.keys[e.Key]) > 0 {
		q.waiting.add(e.Position, e.Key)
		return nil, Kept
	}
	c := q.pick(e.Key)
	if c != nil && q.available(c) {
		q.give(c, e)
		return c, Dealt
	}
	if e.Key == 0 || q.Keys == nil && c == nil {
		return nil, Refused
	}
	q.waiting.add(e.Position, e.Key)
	return nil, Kept
}

// DealAgain offers an entry that Plan named.
func (q *Queue) DealAgain(e Entry) (*Consumer, Outcome) {
	i, ok := q.waiting.find(e.Position)
	if !ok {
		return nil, Stale
	}
	e.Key = q.waiting.list[i].key
	if e.Key != 0 && !q.Unordered && q.waiting.before(i) {
		return nil, Kept
	}
	c := q.pick(e.Key)
	if c == nil || !q.available(c) {
		return nil, Kept
	}
	q.waiting.removeAt(i)
	q.give(c, e)
	return c, Dealt
}

func (q *Queue) give(c *Consumer, e Entry) {
	c.permits -= int64(e.Messages)
	c.unacked += int64(e.Messages)
	q.unacked += int64(e.Messages)
	c.held[e.Position] = held{e.Key, e.Messages}
	if q.average == 0 {
		q.average = int64(e.Messages) * 256
	}
	q.average += (int64(e.Messages)*256 - q.average) / 16
	if q.Keys != nil {
		if q.holders == nil {
			q.holders = make(map[int32]holder)
		}
		q.holders[e.Key] = holder{c, q.holders[e.Key].n + 1}
		return
	}
	q.turn--
	if e.Key == 0 {
		return
	}
	if e.LastChunk {
		delete(q.chunks, e.Key)
		return
	}
	if q.chunks == nil || len(q.chunks) > 10_000 { // producers that never finish must not cost memory
		q.chunks = make(map[int32]*Consumer)
	}
	q.chunks[e.Key] = c
}

// RedeliveryCount is how often the entry was asked for again.
func (q *Queue) RedeliveryCount(p ledgerfs.Position) uint32 { return q.counts[p] }

// Redeliver puts back the entries of ps that the consumer holds, or all if ps is nil, and counts it. It reports how
// many there were.
func (q *Queue) Redeliver(c *Consumer, ps []ledgerfs.Position) int { return q.putBack(c, ps, true) }

func (q *Queue) putBack(c *Consumer, ps []ledgerfs.Position, count bool) int {
	var back []wait
	take := func(p ledgerfs.Position, h held) {
		q.drop(c, p, h)
		back = append(back, wait{p, h.key})
		if count {
			if q.counts == nil {
				q.counts = make(map[ledgerfs.Position]uint32)
			}
			q.counts[p]++
		}
	}
	if ps == nil {
		for p, h := range c.held {
			take(p, h)
		}
	} else {
		for _, p := range ps {
			if h, ok := c.held[p]; ok {
				take(p, h)
			}
		}
	}
	q.waiting.merge(back)
	return len(back)
}

// drop ends the consumer's hold of an entry.
func (q *Queue) drop(c *Consumer, p ledgerfs.Position, h held) {
	delete(c.held, p)
	c.unacked -= int64(h.messages)
	q.unacked -= int64(h.messages)
	if q.Keys == nil {
		return
	}
	if o := q.holders[h.key]; o.c == c {
		if o.n--; o.n == 0 {
			delete(q.holders, h.key)
		} else {
			q.holders[h.key] = o
		}
	}
}

// Acked ends an entry: nobody holds it, it does not wait, and its count is forgotten. c is the consumer that most
// likely holds it, or nil. It returns the messages that a consumer was relieved of.
func (q *Queue) Acked(c *Consumer, p ledgerfs.Position) int32 {
	delete(q.counts, p)
	if i, ok := q.waiting.find(p); ok {
		q.waiting.removeAt(i)
		return 0
	}
	if owner, h, ok := q.holder(c, p); ok {
		q.drop(owner, p, h)
		return h.messages
	}
	return 0
}

// AckedPart says that only so many messages of the entry are still unacknowledged. It returns the messages that a
// consumer was relieved of.
func (q *Queue) AckedPart(c *Consumer, p ledgerfs.Position, left int32) int32 {
	owner, h, ok := q.holder(c, p)
	if !ok || left >= h.messages {
		return 0
	}
	n := h.messages - left
	owner.unacked -= int64(n)
	q.unacked -= int64(n)
	h.messages = left
	owner.held[p] = h
	return n
}

func (q *Queue) holder(c *Consumer, p ledgerfs.Position) (*Consumer, held, bool) {
	if c != nil {
		if h, ok := c.held[p]; ok {
			return c, h, true
		}
	}
	for _, o := range q.consumers {
		if h, ok := o.held[p]; ok {
			return o, h, true
		}
	}
	return nil, held{}, false
}

// AckedThrough ends every entry up to and including p.
func (q *Queue) AckedThrough(p ledgerfs.Position) {
	for _, c := range q.consumers {
		for pos, h := range c.held {
			if !p.Less(pos) {
				q.drop(c, pos, h)
			}
		}
	}
	for pos := range q.counts {
		if !p.Less(pos) {
			delete(q.counts, pos)
		}
	}
	q.waiting.removeThrough(p)
}

// delays is a heap of entries by their time, then by position.
type delays []delay

type delay struct {
	at int64
	wait
}

func (d delays) less(i, j int) bool {
	return d[i].at < d[j].at || d[i].at == d[j].at && d[i].pos.Less(d[j].pos)
}

func (d *delays) push(x delay) {
	h := append(*d, x)
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.less(i, up) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
	*d = h
}

func (d *delays) pop() wait {
	h := *d
	top := h[0].wait
	n := len(h) - 1
	h[0] = h[n]
	h = h[:n]
	for i := 0; ; {
		least := i
		for _, down := range []int{2*i + 1, 2*i + 2} {
			if down < n && h.less(down, least) {
				least = down
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*d = h
	return top
}

// A waitList is a set of positions in log order, with their keys.
type waitList struct {
	list []wait
	// keys holds the positions of each key other than 0, in log order: a consumer that is behind on its keys has many
	// wait, and each is dealt only if it is the first of its key.
	keys map[int32][]ledgerfs.Position
}

type wait struct {
	pos ledgerfs.Position
	key int32
}

func (l *waitList) len() int { return len(l.list) }

func (l *waitList) reset() {
	l.list = nil
	clear(l.keys)
}

func (l *waitList) find(p ledgerfs.Position) (int, bool) {
	if n := len(l.list); n == 0 || l.list[n-1].pos.Less(p) {
		return n, false
	}
	return slices.BinarySearchFunc(l.list, p, func(w wait, p ledgerfs.Position) int { return w.pos.Compare(p) })
}

// note enters a position under its key.
func (l *waitList) note(w wait) {
	if w.key == 0 {
		return
	}
	if l.keys == nil {
		l.keys = make(map[int32][]ledgerfs.Position)
	}
	ps := l.keys[w.key]
	i := len(ps)
	if i > 0 && w.pos.Less(ps[i-1]) {
		i, _ = slices.BinarySearchFunc(ps, w.pos, ledgerfs.Position.Compare)
	}
	l.keys[w.key] = slices.Insert(ps, i, w.pos)
}

// forget takes a position from its key.
func (l *waitList) forget(w wait) {
	if w.key == 0 {
		return
	}
	ps := l.keys[w.key]
	switch i, _ := slices.BinarySearchFunc(ps, w.pos, ledgerfs.Position.Compare); {
	case len(ps) == 1:
		delete(l.keys, w.key)
	case i == 0:
		l.keys[w.key] = ps[1:]
	default:
		l.keys[w.key] = slices.Delete(ps, i, i+1)
	}
}

func (l *waitList) add(p ledgerfs.Position, key int32) {
	if i, ok := l.find(p); !ok {
		l.list = slices.Insert(l.list, i, wait{p, key})
		l.note(wait{p, key})
	}
}

// merge adds entries that are not in the list, in any order.
func (l *waitList) merge(ws []wait) {
	switch len(ws) {
	case 0:
		return
	case 1:
		l.add(ws[0].pos, ws[0].key)
		return
	}
	for _, w := range ws {
		l.note(w)
	}
	l.list = append(l.list, ws...)
	slices.SortFunc(l.list, func(a, b wait) int { return a.pos.Compare(b.pos) })
}

func (l *waitList) removeAt(i int) {
	l.forget(l.list[i])
	if i < len(l.list)/2 { // the usual case, the first of all in particular: what is before it moves up
		copy(l.list[1:i+1], l.list[:i])
		l.list = l.list[1:]
		return
	}
	l.list = slices.Delete(l.list, i, i+1)
}

// before reports whether an earlier entry with the key of the i-th, which is not 0, waits.
func (l *waitList) before(i int) bool {
	w := l.list[i]
	return l.keys[w.key][0] != w.pos
}

func (l *waitList) removeThrough(p ledgerfs.Position) {
	n := 0
	for n < len(l.list) && !p.Less(l.list[n].pos) {
		l.forget(l.list[n])
		n++
	}
	l.list = l.list[n:]
}

// Average is the recent average of messages an entry, 0 before the first.
func (q *Queue) Average() int { return int((q.average + 128) / 256) }
