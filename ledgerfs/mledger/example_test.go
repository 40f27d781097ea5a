package mledger_test

import (
	"context"
	"fmt"

	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/raftmeta/metatest"
)

type receipt chan error

func (r receipt) AppendCompleted(_ *mledger.Append, err error) { r <- err }

// A topic is opened, written, read and acknowledged.
func Example() {
	ctx := context.Background()
	store, bookie := metatest.New(), ledgertest.NewBookie("b")
	defer store.Close()
	client := ledger.New(ledger.Config{Store: store, Bookies: ledger.Single(bookie.Member(), bookie)})
	defer client.Close()
	topics := mledger.New(mledger.Config{Client: client, Store: store})
	defer topics.Close(ctx)

	name, _ := topicname.Parse("greetings")
	topic, err := topics.OpenOrCreate(ctx, name, mledger.Options{})
	if err != nil {
		panic(err)
	}
	sub, _, err := topic.OpenCursor(ctx, "sub", mledger.Earliest, nil)
	if err != nil {
		panic(err)
	}
	for _, s := range []string{"hello", "world"} {
		done := make(receipt, 1)
		topic.Append(&mledger.Append{Payload: []byte(s), Messages: 1, Done: done})
		if err := <-done; err != nil {
			panic(err)
		}
	}

	entries, err := topic.Read(ctx, nil, sub.FirstUnacked(), 10, 1<<20)
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		prefix, payload, err := mledger.CutPrefix(e.Payload)
		if err != nil {
			panic(err)
		}
		fmt.Printf("message %d: %s\n", prefix.Index, payload)
	}
	sub.AckAll(topic.LastConfirmed(), nil)
	fmt.Println("backlog:", sub.Backlog())
	// Output:
	// message 0: hello
	// message 1: world
	// backlog: 0
}
