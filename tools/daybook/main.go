// Command daybook is event streaming whose topics are files.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "daybook: no commands yet")
	os.Exit(2)
}
