//go:build unix

package engine_test

import (
	"context"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/daybook/daybook/ledgerfs/message"
	"github.com/daybook/daybook/query/engine"
	"github.com/daybook/daybook/query/internal/querytest"
)

// cpuTime is what the process has used of all cores: unlike the wall clock it says the same on a busy machine.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchTopic(rows int) (*querytest.Topics, int64) {
	tp := querytest.New()
	tp.Add(ns, "q", 0, querytest.JSONSchema("id", "long", "merchant", "string", "amount", "double", "ts", "long", "status", "string"))
	var bytes int64
	for i := 0; i < rows; {
		var ms []message.Outgoing
		for range 500 {
			x := uint64(i) * 0x9E3779B97F4A7C15
			v := fmt.Appendf(nil, `{"id":%d,"merchant":"merchant-%05d","amount":%.2f,"ts":%d,"status":"%c"}`, i, x>>33%10_000*(x>>50%100)/100, float64(x>>40%1_000_000)/100, 1714996800000+i, "xyzuv"[x>>20%5])
			bytes += int64(len(v))
			ms = append(ms, message.Outgoing{Value: v})
			i++
		}
		tp.PublishBatch(ns, "q", 0, message.Header{ProducerName: "p", PublishTime: 1}, ms)
	}
	return tp, bytes
}

func benchQuery(b *testing.B, sql string) {
	const rows = 500_000
	tp, bytes := benchTopic(rows)
	e := engine.New(engine.Config{Catalog: tp, Topics: tp})
	b.SetBytes(bytes)
	b.ReportAllocs()
	cpu := cpuTime()
	for b.Loop() {
		r, err := e.Execute(context.Background(), engine.Session{}, sql)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = r.Next()
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		r.Close()
	}
	b.ReportMetric(float64(cpuTime()-cpu)/float64(rows)/float64(b.N), "cpu-ns/row")
	b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkScanGroupBy(b *testing.B) {
	benchQuery(b, "SELECT merchant, count(*), sum(amount) FROM q WHERE status = 'x' GROUP BY merchant")
}

func BenchmarkScanCount(b *testing.B) { benchQuery(b, "SELECT count(*) FROM q") }

func BenchmarkScanTopN(b *testing.B) {
	benchQuery(b, "SELECT id, merchant FROM q ORDER BY amount DESC LIMIT 10")
}
