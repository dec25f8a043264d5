// Package admin is every daemon's side door: /metrics for Prometheus, /healthz
// for load balancers and people, /debug/pprof for profiles. It listens where
// --admin says, on loopback unless told otherwise, and nowhere by default.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tnvfs/tnv"
)

// Admin gathers what a daemon shows of itself. Make one with New.
type Admin struct {
	// Registry takes the daemon's metrics; those of the Go runtime and the process are in it.
	Registry *prometheus.Registry

	mu     sync.Mutex
	checks map[string]func() error
}

// New makes the side door of one daemon; it is shut until Serve.
func New() *Admin {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Admin{Registry: r, checks: map[string]func() error{}}
}

// Check adds a condition of health: /healthz answers 503 while any of them
// returns an error. It is called on every request and must be quick.
func (a *Admin) Check(name string, healthy func() error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checks[name] = healthy
}

// Handler serves the pages.
func (a *Admin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(a.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", a.health)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func (a *Admin) health(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	var errs []error
	for name, check := range a.checks {
		if err := check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	a.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// Serve listens on addr until ctx ends, in the background. An empty addr serves
// nothing. It returns once the address is taken.
func (a *Admin) Serve(ctx context.Context, addr string) error {
	if addr == "" {
		return nil
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return tnv.Wrap("listen for --admin on "+addr, err)
	}
	srv := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { srv.Close() })
	go srv.Serve(ln)
	return nil
}
