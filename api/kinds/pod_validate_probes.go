package kinds

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

func (c *podCheck) probes(w *where, container *corev1.Container) {
	if p := container.LivenessProbe; p != nil {
		at := w.field("livenessProbe")
		c.probe(at, p)
		if p.SuccessThreshold != 1 {
			c.invalid(at.field("successThreshold"), p.SuccessThreshold, "must be 1")
		}
	}
	if p := container.ReadinessProbe; p != nil {
		at := w.field("readinessProbe")
		c.probe(at, p)
		if p.TerminationGracePeriodSeconds != nil {
			c.invalid(at.field("terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
		}
	}
	if p := container.StartupProbe; p != nil {
		at := w.field("startupProbe")
		c.probe(at, p)
		if p.SuccessThreshold != 1 {
			c.invalid(at.field("successThreshold"), p.SuccessThreshold, "must be 1")
		}
	}
}

func (c *podCheck) probe(w *where, p *corev1.Probe) {
	c.handler(w, handler{p.Exec, p.HTTPGet, p.TCPSocket, p.GRPC, nil})
	c.notNegative(w.field("initialDelaySeconds"), int64(p.InitialDelaySeconds))
	c.notNegative(w.field("timeoutSeconds"), int64(p.TimeoutSeconds))
	c.notNegative(w.field("periodSeconds"), int64(p.PeriodSeconds))
	c.notNegative(w.field("successThreshold"), int64(p.SuccessThreshold))
	c.notNegative(w.field("failureThreshold"), int64(p.FailureThreshold))
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		c.invalid(w.field("terminationGracePeriodSeconds"), *g, "must be greater than 0")
	}
}

func (c *podCheck) lifecycle(w *where, l *corev1.Lifecycle) {
	if l == nil {
		return
	}
	if h := l.PostStart; h != nil {
		c.handler(w.field("postStart"), handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep})
	}
	if h := l.PreStop; h != nil {
		c.handler(w.field("preStop"), handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep})
	}
	if l.StopSignal != nil {
		c.stopSignal(w.field("stopSignal"), *l.StopSignal)
	}
}

// handler is what a probe or a hook does: one of these.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func (c *podCheck) handler(w *where, h handler) {
	types := 0
	first := func(name string, set bool) bool {
		if !set {
			return false
		}
		if types++; types > 1 {
			c.forbidden(w.field(name), "may not specify more than 1 handler type")
		}
		return types == 1
	}
	if first("exec", h.exec != nil) && len(h.exec.Command) == 0 {
		c.required(w.field("exec").field("command"), "")
	}
	if first("httpGet", h.http != nil) {
		c.httpGet(w.field("httpGet"), h.http)
	}
	if first("tcpSocket", h.tcp != nil) {
		c.portOrName(w.field("tcpSocket").field("port"), h.tcp.Port)
	}
	if first("grpc", h.grpc != nil) {
		at := w.field("grpc")
		c.port(at.field("port"), h.grpc.Port)
		if h.grpc.Mode != nil {
			knownValue(&c.faults, at.field("mode"), *h.grpc.Mode, []corev1.GRPCProbeMode{corev1.GRPCProbeModePlaintext, corev1.GRPCProbeModeTLS})
		}
	}
	if first("sleep", h.sleep != nil) {
		// Without a grace period the pod is wrong already.
		if g := c.spec.TerminationGracePeriodSeconds; g != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *g) {
			c.invalid(w.field("sleep"), h.sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *g))
		}
	}
	if types == 0 {
		c.required(w, "must specify a handler type")
	}
}

func (c *podCheck) httpGet(w *where, h *corev1.HTTPGetAction) {
	c.needs(w.field("path"), h.Path)
	c.portOrName(w.field("port"), h.Port)
	knownValue(&c.faults, w.field("scheme"), h.Scheme, []corev1.URIScheme{corev1.URISchemeHTTP, corev1.URISchemeHTTPS})
	for i := range h.HTTPHeaders {
		c.each(w.field("httpHeaders"), h.HTTPHeaders[i].Name, validation.IsHTTPHeaderName(h.HTTPHeaders[i].Name))
	}
	if h.Protocol == nil {
		return
	}
	switch p := *h.Protocol; {
	case p != corev1.HTTPProtocolHTTP1 && p != corev1.HTTPProtocolHTTP2:
		notSupported(&c.faults, w.field("protocol"), p, []corev1.HTTPProtocol{corev1.HTTPProtocolHTTP1, corev1.HTTPProtocolHTTP2})
	case p == corev1.HTTPProtocolHTTP2 && h.Scheme != corev1.URISchemeHTTP:
		c.invalid(w.field("protocol"), p, "is only supported with HTTP (H2C)")
	case p == corev1.HTTPProtocolHTTP2 && h.Host != "":
		c.invalid(w.field("host"), h.Host, "must be empty when `protocol` is \"HTTP2\"")
	}
}

// portOrName checks a port given by number or by the name of a container port.
func (f *faults) portOrName(w *where, p intstr.IntOrString) {
	switch p.Type {
	case intstr.Int:
		f.port(w, p.IntVal)
	case intstr.String:
		f.each(w, p.StrVal, validation.IsValidPortName(p.StrVal))
	default:
		f.internal(w, fmt.Errorf("unknown type: %v", p.Type))
	}
}

// stopSignal checks KEP-4960's field: signals are the operating system's.
func (c *podCheck) stopSignal(w *where, s corev1.Signal) {
	if c.spec.OS == nil {
		c.forbidden(w, "may not be set for containers with empty `spec.os.name`")
		return
	}
	switch c.spec.OS.Name {
	case corev1.Windows:
		knownValue(&c.faults, w, s, []corev1.Signal{corev1.SIGKILL, corev1.SIGTERM})
	case corev1.Linux:
		knownValue(&c.faults, w, s, linuxSignals())
	}
}

// linuxSignals returns the signals that a container on Linux may be stopped with, sorted.
func linuxSignals() []corev1.Signal {
	signals := []corev1.Signal{
		corev1.SIGABRT, corev1.SIGALRM, corev1.SIGBUS, corev1.SIGCHLD, corev1.SIGCLD, corev1.SIGCONT, corev1.SIGFPE, corev1.SIGHUP,
		corev1.SIGILL, corev1.SIGINT, corev1.SIGIO, corev1.SIGIOT, corev1.SIGKILL, corev1.SIGPIPE, corev1.SIGPOLL, corev1.SIGPROF,
		corev1.SIGPWR, corev1.SIGQUIT, corev1.SIGRTMAX, corev1.SIGRTMIN, corev1.SIGSEGV, corev1.SIGSTKFLT, corev1.SIGSTOP, corev1.SIGSYS,
		corev1.SIGTERM, corev1.SIGTRAP, corev1.SIGTSTP, corev1.SIGTTIN, corev1.SIGTTOU, corev1.SIGURG, corev1.SIGUSR1, corev1.SIGUSR2,
		corev1.SIGVTALRM, corev1.SIGWINCH, corev1.SIGXCPU, corev1.SIGXFSZ,
	}
	for i := 1; i <= 15; i++ {
		signals = append(signals, corev1.Signal(fmt.Sprintf("SIGRTMIN+%d", i)))
	}
	for i := 1; i <= 14; i++ {
		signals = append(signals, corev1.Signal(fmt.Sprintf("SIGRTMAX-%d", i)))
	}
	slices.Sort(signals)
	return signals
}
