package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A contender is one service under comparison.
type contender struct {
	name    string
	service string
}

// runCompare starts the contenders and gives each of them the same loads in turns, so that what else the
// machine does falls on all alike. Device syncs are measured between the turns.
func runCompare(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("bench compare", flag.ContinueOnError)
	daybook := fs.String("daybook", "../../bin/daybook", "the binary")
	pulsar := fs.Bool("pulsar", true, "run a real Apache Pulsar too (its jars are downloaded at the first use)")
	peer := fs.String("peer", "peers/peer.sh", "the script that runs it")
	modes := fs.String("modes", "batched,plain,sync", "the loads")
	size := fs.Int("size", 1024, "bytes a message")
	span := fs.Duration("time", 5*time.Second, "how long each load takes")
	pairs := fs.Int("pairs", 5, "turns")
	if err := fs.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "daybook-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	var running []*exec.Cmd
	defer func() {
		cancel()
		for _, c := range running {
			_ = c.Process.Signal(syscall.SIGTERM)
			_ = c.Wait()
		}
	}()

	dev, err := openDevice(dir, 1<<20)
	if err != nil {
		return err
	}
	defer dev.close()

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go serveNull(ctx, ln)
	all := []contender{{"null broker", "pulsar://" + ln.Addr().String()}}

	data := filepath.Join(dir, "daybook")
	server := exec.Command(*daybook, "standalone", "--data-dir", data, "--broker-port", "0", "--http-port", "0")
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		return fmt.Errorf("start %s: %w", *daybook, err)
	}
	running = append(running, server)
	service, err := awaitEndpoints(ctx, data)
	if err != nil {
		return err
	}
	all = append(all, contender{"daybook", service})

	if *pulsar {
		peerCmd := exec.Command("bash", *peer, "pulsar", "--data", filepath.Join(dir, "pulsar"), "--sync", "true")
		out, err := peerCmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := peerCmd.Start(); err != nil {
			return err
		}
		running = append(running, peerCmd)
		ready := false
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if strings.HasPrefix(sc.Text(), "ready ") {
				ready = true
				break
			}
		}
		if !ready {
			return errors.New("the real Pulsar did not start; -pulsar=false goes without it")
		}
		all = append(all, contender{"pulsar", "pulsar://127.0.0.1:26650"})
	}

	for _, mode := range strings.Split(*modes, ",") {
		figures := map[string][]figure{}
		var syncs []time.Duration
		for i := range *pairs {
			for _, c := range all {
				f, err := publish(ctx, load{c.service, fmt.Sprintf("bench-%s-%d", mode, i), mode, *size, *span})
				if err != nil {
					return fmt.Errorf("%s, %s: %w", c.name, mode, err)
				}
				figures[c.name] = append(figures[c.name], f)
				fmt.Fprintf(os.Stderr, "%-8s turn %d  %-12s %v\n", mode, i+1, c.name, f)
				if c.name == "daybook" {
					t, err := dev.times(ctx, 4096, 1000)
					if err != nil {
						return err
					}
					syncs = append(syncs, quantile(t, 0.5))
				}
			}
		}
		sync := median(syncs)
		fmt.Printf("\n%s, %d B a message, median of %d turns; device sync of 4 KiB: %.3f ms\n", mode, *size, *pairs, sync.Seconds()*1e3)
		for _, c := range all {
			var rate []float64
			var p50, p99 []time.Duration
			for _, f := range figures[c.name] {
				rate, p50, p99 = append(rate, f.rate), append(p50, f.p50), append(p99, f.p99)
			}
			m := figure{median(rate), median(p50), median(p99)}
			fmt.Printf("  %-12s %v\n", c.name, m)
		}
	}
	return nil
}

// awaitEndpoints waits until a server has written where it is reached.
func awaitEndpoints(ctx context.Context, dataDir string) (service string, err error) {
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		var e struct {
			Service string `json:"service_url"`
		}
		if b, err := os.ReadFile(filepath.Join(dataDir, "endpoints.json")); err == nil && json.Unmarshal(b, &e) == nil {
			return e.Service, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("no %s after 20 s", filepath.Join(dataDir, "endpoints.json"))
}
