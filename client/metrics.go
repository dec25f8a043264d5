package client

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tnvfs/tnv"
)

// metrics are counted by all parts of the client.
type metrics struct {
	sessionsLost, retries, budgetWaits                   prometheus.Counter
	puts, putBytes, putRetries, commits                  prometheus.Counter
	gets, getBytes, hedges, badBlocks, cacheHits, misses prometheus.Counter
	localReads, diskHits, recalls, leaseHits             prometheus.Counter
}

func newMetrics(r prometheus.Registerer, g *budget) (*metrics, error) {
	m := &metrics{}
	var all []prometheus.Collector
	counter := func(dst *prometheus.Counter, name, help string) {
		*dst = prometheus.NewCounter(prometheus.CounterOpts{Name: "tnv_client_" + name, Help: help})
		all = append(all, *dst)
	}
	counter(&m.sessionsLost, "sessions_lost_total", "Sessions that ended with the client running.")
	counter(&m.retries, "retries_total", "Requests to trackers that were sent again.")
	counter(&m.budgetWaits, "memory_waits_total", "Times that somebody waited for memory.")
	counter(&m.puts, "puts_total", "Blocks written.")
	counter(&m.putBytes, "put_bytes_total", "Bytes of blocks written, each block counted once.")
	counter(&m.putRetries, "put_retries_total", "Blocks that had to be sent again.")
	counter(&m.commits, "commits_total", "Commits acknowledged.")
	counter(&m.gets, "gets_total", "Pieces of blocks read from storage daemons.")
	counter(&m.getBytes, "get_bytes_total", "Bytes read from storage daemons.")
	counter(&m.hedges, "hedges_total", "Reads for which a second member was asked.")
	counter(&m.badBlocks, "bad_blocks_total", "Blocks that did not match their checksums or were missing.")
	counter(&m.cacheHits, "cache_hits_total", "Pieces found in memory.")
	counter(&m.misses, "cache_misses_total", "Pieces not found in memory.")
	counter(&m.localReads, "local_reads_total", "Pieces read directly from a segment on this host.")
	counter(&m.diskHits, "disk_cache_hits_total", "Pieces found in the disk cache.")
	counter(&m.recalls, "lease_recalls_total", "Recalls of leases that the owner sent.")
	counter(&m.leaseHits, "lease_hits_total", "Questions about names and attributes that were answered without asking the owner.")
	gauge := func(name, help string, f func() float64) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tnv_client_" + name, Help: help}, f))
	}
	gauge("memory_limit_bytes", "The memory budget.", func() float64 { return float64(g.limit) })
	gauge("memory_dirty_bytes", "Memory of data not yet committed.", func() float64 { w, _, _, _ := g.figures(); return float64(w) })
	gauge("memory_read_bytes", "Memory of pieces being read and cached.", func() float64 { _, r, _, _ := g.figures(); return float64(r) })
	gauge("memory_idle_bytes", "Memory kept for the next user.", func() float64 { _, _, i, _ := g.figures(); return float64(i) })
	gauge("memory_peak_bytes", "The most that was ever taken.", func() float64 { _, _, _, p := g.figures(); return float64(p) })
	g.m = m
	if r == nil {
		return m, nil
	}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return nil, tnv.Wrap("register metrics", err)
		}
	}
	return m, nil
}
