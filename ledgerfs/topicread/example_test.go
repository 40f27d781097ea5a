package topicread_test

import (
	"context"
	"fmt"

	"github.com/daybook/daybook/ledgerfs/ledger"
	"github.com/daybook/daybook/ledgerfs/ledgertest"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
	"github.com/daybook/daybook/raftmeta/metatest"
)

// A topic is read up to the fence that its owner gave.
func Example() {
	ctx := context.Background()
	store, bookie := metatest.New(), ledgertest.NewBookie("b")
	defer store.Close()
	client := ledger.New(ledger.Config{Store: store, Bookies: ledger.Single(bookie.Member(), bookie)})
	defer client.Close()
	topics := mledger.New(mledger.Config{Client: client, Store: store})
	defer topics.Close(ctx)
	name, _ := topicname.Parse("greetings")
	owner, err := topics.OpenOrCreate(ctx, name, mledger.Options{})
	if err != nil {
		panic(err)
	}
	for _, s := range []string{"hello", "world"} {
		d := make(done, 1)
		owner.Append(&mledger.Append{Payload: []byte(s), Messages: 1, Done: d})
		if err := <-d; err != nil {
			panic(err)
		}
	}

	fence := owner.Fence()
	reader := topicread.New(client)
	for e, err := range reader.Entries(ctx, fence, topicread.All(fence), topicread.Options{}) {
		if err != nil {
			panic(err)
		}
		fmt.Println(string(e.Payload[len(e.Payload)-5:]))
	}
	// Output:
	// hello
	// world
}
