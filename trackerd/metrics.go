package trackerd

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

type metrics struct {
	requests *prometheus.HistogramVec
}

func newMetrics(t *tracker) *metrics {
	m := &metrics{requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "tnv_tracker_request_seconds", Help: "Time to answer requests, by message type.",
		Buckets: prometheus.ExponentialBuckets(25e-6, 4, 9)}, []string{"type"})}
	r := t.admin.Registry
	r.MustRegister(m.requests)
	gauge := func(name, help string, fn func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, fn))
	}
	volume := func(pick func(protocol.VolumeStatus) float64) func() float64 {
		return func() (sum float64) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			for _, v := range t.held.volumes() {
				if st, err := v.Status(ctx); err == nil {
					sum += pick(st)
				}
			}
			return sum
		}
	}
	gauge("tnv_tracker_memory_budget_bytes", "The memory budget.", func() float64 { return float64(t.cfg.Memory) })
	gauge("tnv_tracker_volumes", "Volumes that this tracker owns.", func() float64 { return float64(len(t.held.volumes())) })
	gauge("tnv_tracker_files", "Inodes in use.", volume(func(s protocol.VolumeStatus) float64 { return float64(s.Files) }))
	gauge("tnv_tracker_bytes", "Bytes allocated to files.", volume(func(s protocol.VolumeStatus) float64 { return float64(s.Bytes) }))
	gauge("tnv_tracker_sessions", "Client sessions.", volume(func(s protocol.VolumeStatus) float64 { return float64(s.Sessions) }))
	gauge("tnv_tracker_pending_deletions", "Blocks to be deleted, counted per store.", volume(func(s protocol.VolumeStatus) float64 { return float64(s.PendingDeletions) }))
	gauge("tnv_tracker_leases", "Leases on names and attributes that sessions hold.", func() (n float64) {
		for _, v := range t.held.volumes() {
			n += float64(v.Leases())
		}
		return n
	})
	gauge("tnv_tracker_copy_age_seconds", "How old the state of the metadata is that can be restored from the storage groups; -1: none.", t.copyAge)
	gauge("tnv_tracker_groups_degraded", "Groups that are not whole.", func() (n float64) {
		for _, g := range t.members.status(t.lacks) {
			if g.State != "whole" {
				n++
			}
		}
		return n
	})
	return m
}

func (m *metrics) observe(t protocol.Type, since time.Time) {
	name := "unknown" // whatever a client sends: the labels must not grow with it
	if meta.IsOperation(t) || t >= protocol.TypeOpenSession && t <= protocol.TypeLacking || t >= protocol.TypeOwner && t <= protocol.TypeRecalled {
		name = strconv.FormatUint(uint64(t), 16)
	}
	m.requests.WithLabelValues(name).Observe(time.Since(since).Seconds())
}
