package apiserver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// accessMetrics count who was recognised and who was let in, under upstream's names.
type accessMetrics struct {
	authenticated outcomes
	authorized    outcomes
}

// outcomes are the ways in which a question can end, each with its counter and its histogram: looked up once.
type outcomes map[string]outcome

type outcome struct {
	attempts prometheus.Counter
	duration prometheus.Observer
}

func newAccessMetrics(reg prometheus.Registerer) accessMetrics {
	result := []string{"result"}
	buckets := prometheus.ExponentialBuckets(0.001, 2, 15)
	make := func(attempts, attemptsHelp, duration, durationHelp string, results ...string) outcomes {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: attempts, Help: attemptsHelp}, result)
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: duration, Help: durationHelp, Buckets: buckets}, result)
		if reg != nil {
			reg.MustRegister(c, h)
		}
		out := outcomes{}
		for _, r := range results {
			out[r] = outcome{c.WithLabelValues(r), h.WithLabelValues(r)}
		}
		return out
	}
	return accessMetrics{
		authenticated: make("authentication_attempts", "Counter of authenticated attempts.", "authentication_duration_seconds", "Authentication duration in seconds broken out by result.",
			"success", "failure", "error"),
		authorized: make("authorization_attempts_total", "Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
			"authorization_duration_seconds", "Authorization duration in seconds broken out by result.", "allowed", "denied", "no-opinion", "error"),
	}
}

func (o outcomes) observe(result string, began time.Time) {
	one := o[result]
	one.attempts.Inc()
	one.duration.Observe(time.Since(began).Seconds())
}

// authentication notes how an authentication ended that began then.
func (m *accessMetrics) authentication(began time.Time, ok bool, err error) {
	result := "success"
	switch {
	case err != nil:
		result = "error"
	case !ok:
		result = "failure"
	}
	m.authenticated.observe(result, began)
}

// authorization notes how an authorization ended that began then.
func (m *accessMetrics) authorization(began time.Time, decision authorizer.Decision, err error) {
	result := "no-opinion"
	switch {
	case decision == authorizer.DecisionAllow:
		result = "allowed"
	case err != nil:
		result = "error"
	case decision == authorizer.DecisionDeny:
		result = "denied"
	}
	m.authorized.observe(result, began)
}
