package apiserver

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics/legacyregistry"
)

// withLibraries shows, besides the server's own metrics, those which the packages of k8s.io/apiserver in it keep themselves: of auditing, webhooks, policies,
// encryption. It is a prometheus.Gatherer.
type withLibraries struct{ own prometheus.Gatherer }

// Gather implements prometheus.Gatherer.
func (g withLibraries) Gather() ([]*dto.MetricFamily, error) {
	families, err := g.own.Gather()
	if err != nil {
		return families, err
	}
	theirs, err := legacyregistry.DefaultGatherer.Gather()
	own := len(families)
	for _, f := range theirs {
		if _, ours := slices.BinarySearchFunc(families[:own], f.GetName(), compareFamily); !ours && strings.HasPrefix(f.GetName(), "apiserver_") {
			families = append(families, f)
		}
	}
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return families, err
}

func compareFamily(f *dto.MetricFamily, name string) int { return strings.Compare(f.GetName(), name) }
