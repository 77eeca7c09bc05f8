// Package conformance runs Kubernetes' own conformance specs (k8s.io/kubernetes/test/e2e) against Wherry, on two nodes made of network namespaces.
// Controllers that Wherry does not have come from upstream's controller manager; images are made of Go modules and Debian's packages.
//
//	make test-foreign SUITE=conformance
//
// prints a table with VERBOSE=1; .build/foreign/conformance.txt has it too, spec by spec while they end. FOCUS narrows it to specs that match a regular expression; SIGS (such as "node network") chooses other groups than
// the usual three; PROCS is how many specs run at once.
package conformance
