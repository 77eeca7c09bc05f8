package plane

import (
	"path/filepath"

	"wherry.dev/wherry/test/foreign/build"
)

// StartManager starts upstream's kube-controller-manager, with further flags, against the plane.
func (p *Plane) StartManager(args ...string) *Process {
	p.t.Helper()
	key := func(name string) string { return filepath.Join(p.PKI, name) }
	who := p.KubeconfigFor("system:kube-controller-manager")
	m := Start(p.t, "kube-controller-manager", build.Need(p.t, "kube-controller-manager"), append([]string{"--kubeconfig", who, "--authentication-kubeconfig", who, "--authorization-kubeconfig", who,
		"--controllers", "*,bootstrap-signer-controller,token-cleaner-controller", "--use-service-account-credentials", "--service-account-private-key-file", key("sa.key"), "--root-ca-file", key("ca.crt"),
		"--cluster-signing-cert-file", key("ca.crt"), "--cluster-signing-key-file", key("ca.key"), "--client-ca-file", key("ca.crt"), "--requestheader-client-ca-file", key("front-proxy-ca.crt"),
		"--allocate-node-cidrs", "--cluster-cidr", "10.244.0.0/16", "--node-cidr-mask-size", "24", "--service-cluster-ip-range", "10.96.0.0/16", "--bind-address", "127.0.0.1",
		"--flex-volume-plugin-dir", p.folder("flex"), "--kube-api-qps", "200", "--kube-api-burst", "400"}, args...)...)
	p.Processes = append(p.Processes, m)
	return m
}

// StartScheduler starts upstream's kube-scheduler, with further flags, against the plane.
func (p *Plane) StartScheduler(args ...string) *Process {
	p.t.Helper()
	who := p.KubeconfigFor("system:kube-scheduler")
	s := Start(p.t, "kube-scheduler", build.Need(p.t, "kube-scheduler"), append([]string{"--kubeconfig", who, "--authentication-kubeconfig", who, "--authorization-kubeconfig", who,
		"--bind-address", "127.0.0.1", "--kube-api-qps", "200", "--kube-api-burst", "400"}, args...)...)
	p.Processes = append(p.Processes, s)
	return s
}
