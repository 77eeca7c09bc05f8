package proxy

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// health serves the health-check node ports: load balancers ask there whether this node has endpoints of a Service with external
// traffic policy Local (Service.spec.healthCheckNodePort). Not for concurrent use.
type health struct {
	log     *slog.Logger
	servers map[name]*healthServer
	wg      sync.WaitGroup
}

type healthServer struct {
	port  int
	ready atomic.Int64
	http  *http.Server
}

func newHealth(log *slog.Logger) *health {
	return &health{log: log, servers: map[name]*healthServer{}}
}

// set serves what the Service wants now.
func (h *health) set(svc name, d Desired) {
	s := h.servers[svc]
	if s != nil && s.port != d.HealthPort {
		s.http.Close()
		delete(h.servers, svc)
		s = nil
	}
	if d.HealthPort == 0 {
		return
	}
	if s == nil {
		l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(d.HealthPort)))
		if err != nil {
			h.log.Error("serve health-check node port", "service", svc.String(), "port", d.HealthPort, "err", err)
			return
		}
		s = &healthServer{port: d.HealthPort}
		s.http = &http.Server{Handler: s.handler(svc), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: time.Minute}
		h.servers[svc] = s
		h.wg.Go(func() { _ = s.http.Serve(l) }) // ends by Close
	}
	s.ready.Store(int64(d.LocalReady))
}

func (h *health) close() {
	for _, s := range h.servers {
		s.http.Close()
	}
	h.wg.Wait()
}

func (s *healthServer) handler(svc name) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := s.ready.Load()
		body, _ := json.Marshal(map[string]any{ // maps of strings and numbers always marshal
			"service":             map[string]string{"namespace": svc.namespace, "name": svc.name},
			"localEndpoints":      n,
			"serviceProxyHealthy": true,
		})
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(n, 10))
		if n == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(body)
	})
}
