package stored

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tnvfs/tnv"
)

// metrics are what the daemon counts of itself.
type metrics struct {
	puts, gets, located, deletes, copied prometheus.Counter
	bytesIn, bytesOut                    prometheus.Counter
	skipped                              prometheus.Counter
	corrupt, mended, rounds              *count
	errors                               *prometheus.CounterVec
	syncSeconds                          prometheus.Histogram
}

func newMetrics(d *daemon, r prometheus.Registerer) *metrics {
	m := &metrics{corrupt: &count{}, mended: &count{}, rounds: &count{}}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tnv", Subsystem: "stored", Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	m.puts = counter("puts_total", "Blocks taken from clients and peers.")
	m.gets = counter("gets_total", "Reads answered.")
	m.located = counter("located_total", "Blocks that clients on this host read themselves.")
	m.deletes = counter("deletes_total", "Blocks that trackers ordered to be deleted.")
	m.copied = counter("copied_blocks_total", "Blocks copied from peers.")
	m.bytesIn = counter("put_bytes_total", "Bytes of the blocks taken.")
	m.bytesOut = counter("get_bytes_total", "Bytes of the reads answered.")
	m.skipped = counter("skipped_members_total", "Members passed over in a put because they took no blocks.")
	m.errors = prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tnv", Subsystem: "stored", Name: "errors_total", Help: "Requests that failed, by kind."}, []string{"kind"})
	m.syncSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "tnv", Subsystem: "stored", Name: "sync_seconds",
		Help: "Time until a block or the whole store was on disk.", Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16)})
	r.MustRegister(m.errors, m.syncSeconds)
	gauge := func(name, help string, f func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "tnv", Subsystem: "stored", Name: name, Help: help}, f))
	}
	gauge("blocks", "Blocks held.", func() float64 { return float64(d.usage().Blocks) })
	gauge("used_bytes", "Bytes used in the data directory.", func() float64 { return float64(d.usage().Used) })
	gauge("capacity_bytes", "Bytes that may be used.", func() float64 { return float64(d.usage().Capacity) })
	gauge("behind_blocks", "Blocks that this store is known to lack.", func() float64 { n, _ := d.behind.get(); return float64(n) })
	gauge("behind_bytes", "Bytes of the blocks that this store is known to lack.", func() float64 { _, n := d.behind.get(); return float64(n) })
	gauge("corrupt_blocks", "Bad blocks found since the start.", func() float64 { return float64(m.corrupt.get()) })
	gauge("mended_blocks", "Bad or missing blocks mended since the start.", func() float64 { return float64(m.mended.get()) })
	gauge("comparisons", "Comparisons with the peers since the start.", func() float64 { return float64(m.rounds.get()) })
	gauge("memory_bytes", "Memory in use for blocks on their way.", func() float64 { return float64(d.mem.used()) })
	gauge("memory_budget_bytes", "Memory that blocks on their way may use.", func() float64 { return float64(d.cfg.Memory) })
	return m
}

func (m *metrics) failed(err error) { m.errors.WithLabelValues(tnv.KindOf(err).String()).Inc() }

func (m *metrics) synced(since time.Time) { m.syncSeconds.Observe(time.Since(since).Seconds()) }
