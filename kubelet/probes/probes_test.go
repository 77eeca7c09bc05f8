package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type exec func() (int32, error)

func (e exec) ExecSync(context.Context, string, []string, time.Duration) ([]byte, []byte, int32, error) {
	code, err := e()
	return []byte("out"), nil, code, err
}

// TestThresholds runs probes through scripts of outcomes in bubble time: when does which verdict come?
func TestThresholds(t *testing.T) {
	run := func(kind Kind, p v1.Probe, script string) (got string) {
		synctest.Test(t, func(t *testing.T) {
			p.Exec = &v1.ExecAction{Command: []string{"x"}}
			n := 0
			prober := &Prober{Warn: func(Target, string, string) {}, Exec: exec(func() (int32, error) {
				c := script[min(n, len(script)-1)]
				n++
				switch c {
				case '?':
					return 0, errors.New("broken")
				case '-':
					return 1, nil
				}
				return 0, nil
			})}
			c := &v1.Container{}
			switch kind {
			case Startup:
				c.StartupProbe = &p
			case Readiness:
				c.ReadinessProbe = &p
			default:
				c.LivenessProbe = &p
			}
			begun := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
			defer cancel()
			var all []string
			prober.Watch(ctx, Target{Container: c, Started: begun}, kind, func(ch Change) {
				all = append(all, fmt.Sprintf("%v@%d", ch.OK, int(time.Since(begun).Seconds())))
			})
			got = strings.Join(all, " ")
		})
		return got
	}
	base := v1.Probe{PeriodSeconds: 10, FailureThreshold: 3, SuccessThreshold: 1}
	delayed := base
	delayed.InitialDelaySeconds = 5
	twice := base
	twice.SuccessThreshold = 2
	for _, c := range []struct {
		name   string
		kind   Kind
		probe  v1.Probe
		script string
		want   string
	}{
		{"ready at once", Readiness, base, "+", "true@0"},
		{"initial delay", Readiness, delayed, "+", "true@5"},
		{"three failures", Readiness, base, "+---+", "true@0 false@30 true@40"},
		{"two failures are forgiven", Readiness, base, "+--+--+", "true@0"},
		{"two successes wanted", Readiness, twice, "-+-++", "true@40"},
		{"unknown counts for nothing", Readiness, base, "+--?-+", "true@0 false@40 true@50"},
		{"liveness ends with its verdict", Liveness, base, "+---+++", "true@0 false@30"},
		{"startup ends with success", Startup, base, "--+---", "true@20"},
		{"startup gives up", Startup, base, "---+", "false@20"},
	} {
		if got := run(c.kind, c.probe, c.script); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestStartingIsSeenAtOnce: an instance that begins to listen after its first probe is ready long before the next period.
func TestStartingIsSeenAtOnce(t *testing.T) {
	for threshold, kind := range map[int32]Kind{1: Readiness, 2: Startup} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		l.Close()
		tg, port := target(t, address)
		tg.Started = time.Now()
		probe := &v1.Probe{PeriodSeconds: 3600, FailureThreshold: threshold, ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: port}}}
		tg.Container.ReadinessProbe, tg.Container.StartupProbe = probe, probe
		failed := make(chan string, 10)
		p := &Prober{Warn: func(_ Target, reason, message string) { failed <- reason + ": " + message }}
		ctx, cancel := context.WithCancel(t.Context())
		verdicts, ended := make(chan Change, 10), make(chan struct{})
		go func() { defer close(ended); p.Watch(ctx, tg, kind, func(c Change) { verdicts <- c }) }()
		select {
		case <-failed:
		case <-time.After(30 * time.Second):
			t.Fatal("the first probe did not fail")
		}
		if l, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
		select {
		case c := <-verdicts:
			if threshold == 1 { // the failure was a verdict already
				c = <-verdicts
			}
			if !c.OK || c.Attempts != 2 {
				t.Errorf("%s: %+v", kind, c)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s: not seen before the next period", kind)
		}
		cancel()
		<-ended
		l.Close()
		if len(failed) > 0 {
			t.Errorf("%s: looks in between are events: %s", kind, <-failed)
		}
	}
}

func target(t *testing.T, address string, ports ...v1.ContainerPort) (Target, intstr.IntOrString) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	return Target{Pod: &v1.Pod{}, Container: &v1.Container{Name: "c", Ports: ports}, IP: host}, intstr.FromInt32(int32(n))
}

func TestHTTP(t *testing.T) {
	var headers http.Header
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { headers = r.Header.Clone(); headers.Set("Host", r.Host) })
	mux.HandleFunc("/bad", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", 302) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://192.0.2.9/", 302) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for _, s := range []*httptest.Server{httptest.NewServer(mux), httptest.NewTLSServer(mux)} {
		defer s.Close()
		u, _ := url.Parse(s.URL)
		tg, port := target(t, u.Host)
		p := &Prober{UserAgent: "kube-probe/1.37"}
		for path, want := range map[string]string{"/ok": "true false ", "/bad": "false false HTTP probe failed with statuscode: 500", "/here": "false false HTTP probe failed with statuscode: 500",
			"/away": "true true Probe terminated redirects"} {
			out := p.Run(t.Context(), tg, &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: port, Scheme: v1.URIScheme(strings.ToUpper(u.Scheme)),
				HTTPHeaders: []v1.HTTPHeader{{Name: "Host", Value: "web.example"}, {Name: "X-A", Value: "1"}}}}})
			if got := fmt.Sprint(out.OK, " ", out.Warning, " ", out.Output); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		if headers.Get("User-Agent") != "kube-probe/1.37" || headers.Get("Accept") != "*/*" || headers.Get("Host") != "web.example" || headers.Get("X-A") != "1" {
			t.Errorf("headers %v", headers)
		}
		begun := time.Now()
		if out := p.Run(t.Context(), tg, &v1.Probe{TimeoutSeconds: 1, ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/slow", Port: port, Scheme: v1.URIScheme(strings.ToUpper(u.Scheme))}}}); out.OK || time.Since(begun) > 5*time.Second {
			t.Errorf("slow: %+v after %s", out, time.Since(begun))
		}
	}
}

func TestTCPAndGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	h := health.NewServer()
	h.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	grpc_health_v1.RegisterHealthServer(s, h)
	go s.Serve(l)
	defer s.Stop()
	tg, port := target(t, l.Addr().String(), v1.ContainerPort{Name: "web", ContainerPort: int32(l.Addr().(*net.TCPAddr).Port)})
	p := &Prober{}
	sick := "sick"
	for name, c := range map[string]struct {
		h    v1.ProbeHandler
		want string
	}{
		"tcp":           {v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: port}}, "true false "},
		"tcp by name":   {v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("web")}}, "true false "},
		"no such name":  {v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromString("none")}}, "false true couldn't find port"},
		"refused":       {v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(1)}}, "false false dial tcp"},
		"grpc":          {v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: port.IntVal}}, "true false service healthy"},
		"grpc not well": {v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: port.IntVal, Service: &sick}}, `false false service unhealthy (responded with "NOT_SERVING")`},
	} {
		out := p.Run(t.Context(), tg, &v1.Probe{ProbeHandler: c.h})
		if got := fmt.Sprint(out.OK, " ", out.Unknown, " ", out.Output); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
