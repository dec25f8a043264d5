package httpd

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the daemon's figures.
type metrics struct {
	requests  *prometheus.CounterVec // by method and status
	file      prometheus.Observer    // seconds until the first byte of a file
	listing   prometheus.Observer    // the same of a listing
	sent      prometheus.Counter     // bytes of files
	transfers prometheus.Gauge       // files on their way now
	cut       *prometheus.CounterVec // transfers that were not completed, by reason
	conns     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	first := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tnv_httpd_first_byte_seconds", Help: "Time to the first byte of the answer.",
		Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .5, 2, 10}}, []string{"what"})
	m := &metrics{
		file:      first.WithLabelValues("file"),
		listing:   first.WithLabelValues("listing"),
		requests:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tnv_httpd_requests_total", Help: "Requests by method and status."}, []string{"method", "status"}),
		sent:      prometheus.NewCounter(prometheus.CounterOpts{Name: "tnv_httpd_sent_bytes_total", Help: "Bytes of files sent."}),
		transfers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "tnv_httpd_transfers", Help: "Files on their way now."}),
		cut:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tnv_httpd_cut_total", Help: "Transfers that were not completed, by reason."}, []string{"reason"}),
		conns:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "tnv_httpd_connections", Help: "Open connections."}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, first, m.sent, m.transfers, m.cut, m.conns)
	}
	return m
}

// request counts a request. Methods that are not answered share one label.
func (m *metrics) request(method string, status int) {
	switch method {
	case "GET", "HEAD", "OPTIONS":
	default:
		method = "other"
	}
	m.requests.WithLabelValues(method, strconv.Itoa(status)).Inc()
}
