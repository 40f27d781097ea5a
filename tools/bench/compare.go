package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A contender is one service under comparison.
type contender struct {
	name    string
	service string
	pid     int // 0 if it is the bench itself
}

// A process is a contender that runs beside the bench.
type process struct {
	cmd     *exec.Cmd
	service string
	ready   time.Duration // from its start
}

// stop ends the process in its orderly way.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

func startDaybook(ctx context.Context, binary, data string) (*process, error) {
	cmd := exec.Command(binary, "standalone", "--data-dir", data, "--broker-port", "0", "--http-port", "0")
	cmd.Stderr = os.Stderr
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	p := &process{cmd: cmd}
	var err error
	if p.service, err = awaitEndpoints(ctx, data); err != nil {
		p.stop()
		return nil, err
	}
	p.ready = time.Since(begin)
	return p, nil
}

func startPulsar(script, data string) (*process, error) {
	cmd := exec.Command("bash", script, "pulsar", "--data", data, "--sync", "true")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, service: "pulsar://127.0.0.1:26650"}
	for sc := bufio.NewScanner(out); sc.Scan(); {
		// The script's own figure leaves out the download of the jars.
		if seconds, ok := strings.CutPrefix(sc.Text(), "ready pulsar "); ok {
			if p.ready, err = time.ParseDuration(strings.TrimSpace(seconds) + "s"); err == nil {
				return p, nil
			}
			break
		}
	}
	p.stop()
	return nil, errors.Join(errors.New("the real Pulsar did not start; -pulsar=false goes without it"), err)
}

// usage is what a process and its descendants use.
type usage struct {
	rss int64         // bytes
	cpu time.Duration // so far
}

// usageOf adds up /proc over the process and its descendants.
func usageOf(pid int) (u usage, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return u, err
	}
	own := map[int]usage{}
	children := map[int][]int{}
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has just ended
		}
		// The name of the program, in parentheses, may hold anything.
		i := bytes.LastIndexByte(b, ')')
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		f := strings.Fields(string(b[i+1:]))
		if i < 0 || len(f) < 22 {
			return u, fmt.Errorf("%s is not as expected", name)
		}
		field := func(n int) int64 { // counted from 1 as in proc(5)
			v, _ := strconv.ParseInt(f[n-3], 10, 64)
			return v
		}
		const tick = time.Second / 100
		own[id] = usage{field(24) * int64(os.Getpagesize()), time.Duration(field(14)+field(15)) * tick}
		children[int(field(4))] = append(children[int(field(4))], id)
	}
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		u.rss += own[todo[0]].rss
		u.cpu += own[todo[0]].cpu
		todo = append(todo, children[todo[0]]...)
	}
	return u, nil
}

// settle is how long a fresh server is left alone before its memory is read.
const settle = 2 * time.Second

// A start is what a server costs before anybody has used it.
type start struct {
	ready, cpu time.Duration // cpu: per second, idle
	rss        int64
}

// measureStart leaves a server that has just started idle.
func measureStart(ctx context.Context, p *process) (s start, err error) {
	s.ready = p.ready
	sleep := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := sleep(settle); err != nil {
		return s, err
	}
	before, err := usageOf(p.cmd.Process.Pid)
	if err != nil {
		return s, err
	}
	if err := sleep(settle); err != nil {
		return s, err
	}
	after, err := usageOf(p.cmd.Process.Pid)
	if err != nil {
		return s, err
	}
	s.rss, s.cpu = after.rss, time.Duration(float64(after.cpu-before.cpu)/settle.Seconds())
	return s, nil
}

// runCompare starts the contenders and gives each of them the same loads in turns, so that what else the
// machine does falls on all alike. Device syncs are measured between the turns.
func runCompare(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("bench compare", flag.ContinueOnError)
	daybook := fs.String("daybook", "../../bin/daybook", "the binary")
	pulsar := fs.Bool("pulsar", true, "run a real Apache Pulsar too (its jars are downloaded at the first use)")
	peer := fs.String("peer", "peers/peer.sh", "the script that runs it")
	modes := fs.String("modes", "batched,plain,sync,tail", "the loads, of "+modeNames)
	size := fs.Int("size", 1024, "bytes a message")
	span := fs.Duration("time", 5*time.Second, "how long each load takes")
	pairs := fs.Int("pairs", 5, "turns")
	starts := fs.Int("starts", 3, "starts on fresh data; the last ones stay for the loads")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *starts < 1 || *pairs < 1 {
		return errors.New("-starts and -pairs must be 1 or more")
	}
	dir, err := os.MkdirTemp("", "daybook-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

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
	all := []contender{{"null broker", "pulsar://" + ln.Addr().String(), 0}}

	servers := []struct {
		name  string
		start func(data string) (*process, error)
	}{{"daybook", func(data string) (*process, error) { return startDaybook(ctx, *daybook, data) }}}
	if *pulsar {
		servers = append(servers, struct {
			name  string
			start func(data string) (*process, error)
		}{"pulsar", func(data string) (*process, error) { return startPulsar(*peer, data) }})
	}
	begun := map[string][]start{}
	for i := range *starts {
		for _, s := range servers {
			data := filepath.Join(dir, fmt.Sprintf("%s-%d", s.name, i))
			p, err := s.start(data)
			if err != nil {
				return err
			}
			m, err := measureStart(ctx, p)
			if err != nil {
				p.stop()
				return err
			}
			begun[s.name] = append(begun[s.name], m)
			if i+1 < *starts {
				p.stop()
				if err := os.RemoveAll(data); err != nil {
					return err
				}
				continue
			}
			defer p.stop()
			all = append(all, contender{s.name, p.service, p.cmd.Process.Pid})
		}
	}
	fmt.Printf("start on fresh data, median of %d\n", *starts)
	for _, s := range servers {
		var ready, cpu []time.Duration
		var rss []int64
		for _, m := range begun[s.name] {
			ready, cpu, rss = append(ready, m.ready), append(cpu, m.cpu), append(rss, m.rss)
		}
		fmt.Printf("  %-12s ready after %7.0f ms, idle: %6.1f MB resident, %5.1f ms of CPU a second\n", s.name,
			median(ready).Seconds()*1e3, float64(median(rss))/1e6, median(cpu).Seconds()*1e3)
	}

	for _, mode := range strings.Split(*modes, ",") {
		figures := map[string][]figure{}
		var syncs []time.Duration
		for i := range *pairs {
			for _, c := range all {
				f, err := publish(ctx, load{service: c.service, topic: fmt.Sprintf("bench-%s-%d", mode, i), mode: mode, size: *size, time: *span})
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
	fmt.Printf("\nmemory after these loads\n")
	for _, c := range all {
		if c.pid == 0 {
			continue
		}
		u, err := usageOf(c.pid)
		if err != nil {
			return err
		}
		fmt.Printf("  %-12s %6.1f MB resident\n", c.name, float64(u.rss)/1e6)
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
