// Command report reads the output of `go test -json` on standard input and prints what a person wants of
// it: a line for each package, the whole output of what failed, the ten slowest tests, and the counts. It
// exits 1 if anything failed or nothing ran.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// An event is one line of test2json.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

type key struct{ pkg, test string }

type timing struct {
	key
	seconds float64
}

func main() {
	var passed, failed, skipped int
	var times []timing
	output := map[key][]string{}
	inTests := map[string]bool{} // packages with a test that failed
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			fmt.Println(in.Text()) // not an event: a message of the go command
			continue
		}
		k := key{e.Package, e.Test}
		switch e.Action {
		case "output":
			output[k] = append(output[k], e.Output)
			continue
		case "build-output":
			fmt.Print(e.Output)
			continue
		case "pass", "fail", "skip":
		default:
			continue
		}
		if e.Test == "" {
			switch {
			case e.Action == "fail":
				fmt.Print(strings.Join(output[k], ""))
				for other, lines := range output { // of tests that never ended: a panic, a race, a time-out
					if other.pkg == e.Package && other.test != "" {
						fmt.Print(strings.Join(lines, ""))
					}
				}
				fmt.Printf("FAIL\t%s\t%.2fs\n", e.Package, e.Elapsed)
				if !inTests[e.Package] { // it did not build, or broke off
					failed++
				}
			case e.Action == "pass":
				fmt.Printf("ok  \t%s\t%.2fs\n", e.Package, e.Elapsed)
			}
			for other := range output {
				if other.pkg == e.Package {
					delete(output, other)
				}
			}
			continue
		}
		switch e.Action {
		case "pass":
			passed++
		case "fail":
			failed++
			inTests[e.Package] = true
			fmt.Print(strings.Join(output[k], ""))
		case "skip":
			skipped++
			fmt.Print(strings.Join(output[k], ""))
		}
		delete(output, k)
		if !strings.Contains(e.Test, "/") {
			times = append(times, timing{k, e.Elapsed})
		}
	}
	slices.SortFunc(times, func(a, b timing) int { return cmp.Compare(b.seconds, a.seconds) })
	fmt.Println("\nslowest tests:")
	for _, t := range times[:min(10, len(times))] {
		fmt.Printf("%8.2fs  %s  %s\n", t.seconds, t.pkg, t.test)
	}
	fmt.Printf("\n%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	if failed > 0 || passed == 0 {
		os.Exit(1)
	}
}
