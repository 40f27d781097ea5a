package filetree_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/filetree/filetreetest"
)

// A node serves its tree; a client, elsewhere, reads and appends.
func Example() {
	node := filetreetest.New()
	node.Topic(filetreetest.Name("greetings")).Publish("hello", "two\nlines")

	tree := filetree.New(filetree.Config{Topics: node, Entries: node, Publisher: node})
	defer tree.Close()
	server := httptest.NewServer(filetree.NewService(tree))
	defer server.Close()

	client, err := filetree.NewClient(filetree.ClientConfig{URL: server.URL})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	ctx, path := context.Background(), "/public/default/greetings"
	if _, err := client.Append(ctx, path, [][]byte{[]byte("from a file")}); err != nil {
		panic(err)
	}
	attr, err := client.Stat(ctx, path)
	if err != nil {
		panic(err)
	}
	text, _, err := client.ReadAt(ctx, nil, path, attr.Gen, attr.Base, int(attr.Size()))
	if err != nil {
		panic(err)
	}
	fmt.Printf("%d bytes\n%s", attr.Size(), text)
	// Output:
	// 32 bytes
	// hello
	// \"two\nlines"
	// from a file
}
