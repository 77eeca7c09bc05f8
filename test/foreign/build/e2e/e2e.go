//go:build upstream

// Package e2e pins what Kubernetes' end-to-end suite is run with: its images' programs and ginkgo.
package e2e
