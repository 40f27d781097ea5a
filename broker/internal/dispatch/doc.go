// Package dispatch decides which consumer of a subscription gets which entry, and in what order: values in,
// values out, no clock, lock, goroutine or I/O.
//
// Active picks the one consumer of an Exclusive or Failover subscription. A Queue deals out the entries of a Shared
// or Key_Shared one: it knows every consumer's permits, what each holds unacknowledged, and what waits to be
// delivered again. Keys gives each hash of a sticky key one consumer.
//
// Everything here is owned by one goroutine at a time.
package dispatch
