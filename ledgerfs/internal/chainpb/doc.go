// Package chainpb is the stored records of topics and cursors, generated from chain.proto; package chain gives them
// their meaning.
package chainpb
