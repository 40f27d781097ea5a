package message_test

import (
	"fmt"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/message"
)

func Example() {
	stored, err := message.AppendBatch(
		message.AppendBrokerEntry(nil, message.BrokerEntry{Timestamp: 1700000000000, Index: 41}),
		&message.Header{ProducerName: "till-3", PublishTime: 1700000000000, Compression: message.LZ4},
		[]message.Outgoing{{SequenceID: 7, Key: "ann", Value: []byte(`{"total": 12}`)}, {SequenceID: 8, Value: []byte("two\nlines")}})
	if err != nil {
		panic(err)
	}

	var e message.Entry
	if err := e.Parse(stored); err != nil {
		panic(err)
	}
	var d message.Decoder
	for m, err := range d.Messages(&e) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("message %d: %s", m.Index, message.AppendLine(nil, m))
		fmt.Printf("%s", message.AppendNDJSON(nil, ledgerfs.Position{Ledger: 17, Entry: 204}, m, nil))
	}
	// Output:
	// message 40: {"total": 12}
	// {"id":"17:204:0","ts":1700000000000,"key":"ann","producer":"till-3","seq":7,"v":{"total":12}}
	// message 41: \"two\nlines"
	// {"id":"17:204:1","ts":1700000000000,"producer":"till-3","seq":8,"text":"two\nlines"}
}
