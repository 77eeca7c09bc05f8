package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// ContextName returns the name under which a cluster stands in the user's kubeconfig.
func ContextName(cluster string) string { return "wherry-" + cluster }

// Kubeconfig returns a self-contained client configuration for pair, with one cluster, user and context, all called
// name. server is a URL such as https://127.0.0.1:6443. The caller owns the result.
func (p *PKI) Kubeconfig(name, server string, pair *Pair) *clientcmdapi.Config {
	c := clientcmdapi.NewConfig()
	c.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: p.Pairs().CA.CertPEM}
	c.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.CertPEM, ClientKeyData: pair.KeyPEM}
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	return c
}

// TokenKubeconfig is Kubeconfig for a bearer token, such as a join token.
func TokenKubeconfig(name, server string, caPEM []byte, token string) *clientcmdapi.Config {
	c := clientcmdapi.NewConfig()
	c.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: caPEM}
	c.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	return c
}

// RESTConfig returns a client configuration for pair over the network.
func (p *PKI) RESTConfig(server string, pair *Pair) *rest.Config {
	return &rest.Config{
		Host:            server,
		TLSClientConfig: rest.TLSClientConfig{CAData: p.Pairs().CA.CertPEM, CertData: pair.CertPEM, KeyData: pair.KeyPEM},
	}
}

// WriteKubeconfig writes a configuration to a file of its own (0600), as a whole.
func WriteKubeconfig(path string, c *clientcmdapi.Config) error {
	data, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make directory of kubeconfig: %w", err)
	}
	return writeFile(path, data, 0o600)
}

// MergeKubeconfig puts the clusters, users and contexts of c into the user's file, replacing those of the same name,
// and makes c's current context the current one. Everything else in the file stays. kubectl's own lock is taken meanwhile.
func MergeKubeconfig(path string, c *clientcmdapi.Config) error {
	return changeKubeconfig(path, func(user *clientcmdapi.Config) bool {
		for name, cluster := range c.Clusters {
			user.Clusters[name] = cluster.DeepCopy()
		}
		for name, info := range c.AuthInfos {
			user.AuthInfos[name] = info.DeepCopy()
		}
		for name, context := range c.Contexts {
			context := context.DeepCopy()
			if old := user.Contexts[name]; old != nil && context.Namespace == "" {
				context.Namespace = old.Namespace // the user's choice survives a new start
			}
			user.Contexts[name] = context
		}
		if c.CurrentContext != "" {
			user.CurrentContext = c.CurrentContext
		}
		return true
	})
}

// RemoveFromKubeconfig takes the cluster, user and context called name out of the user's file, and forgets the current
// context when it was this one. A file that is left empty and a missing one are no error; an empty one is removed.
func RemoveFromKubeconfig(path, name string) error {
	if have, err := exists(path); err != nil || !have {
		return err
	}
	return changeKubeconfig(path, func(user *clientcmdapi.Config) bool {
		_, cluster := user.Clusters[name]
		_, info := user.AuthInfos[name]
		_, context := user.Contexts[name]
		if !cluster && !info && !context && user.CurrentContext != name {
			return false
		}
		delete(user.Clusters, name)
		delete(user.AuthInfos, name)
		delete(user.Contexts, name)
		if user.CurrentContext == name {
			user.CurrentContext = ""
		}
		return true
	})
}

// changeKubeconfig reads, changes and replaces the file under kubectl's lock. change says whether there is anything to write.
func changeKubeconfig(path string, change func(*clientcmdapi.Config) bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make directory of kubeconfig: %w", err)
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // the link itself stays
	}
	unlock, err := lockKubeconfig(path)
	if err != nil {
		return err
	}
	defer unlock()
	user, err := clientcmd.LoadFromFile(path)
	mode := fs.FileMode(0o600)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		user = clientcmdapi.NewConfig()
	case err != nil:
		return fmt.Errorf("read kubeconfig %s: %w", path, err)
	default:
		if info, err := os.Stat(path); err == nil {
			mode = info.Mode().Perm()
		}
	}
	if !change(user) {
		return nil
	}
	if len(user.Clusters)+len(user.AuthInfos)+len(user.Contexts)+len(user.Extensions) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove empty kubeconfig: %w", err)
		}
		return nil
	}
	data, err := clientcmd.Write(*user)
	if err != nil {
		return fmt.Errorf("encode kubeconfig %s: %w", path, err)
	}
	return writeFile(path, data, mode)
}

// lockKubeconfig takes the lock that kubectl config takes too: the file <path>.lock, made exclusively. It is not
// dropped when its holder dies, so waiting is bounded and the error says the mend. The flock in front keeps
// processes of ours from waiting by polling for each other.
func lockKubeconfig(path string) (unlock func(), err error) {
	ours, err := lockFile(filepath.Join(filepath.Dir(path), ".wherry-kubeconfig.lock"))
	if err != nil {
		return nil, err
	}
	release := func() {
		_ = os.Remove(filepath.Join(filepath.Dir(path), ".wherry-kubeconfig.lock"))
		ours()
	}
	lock := path + ".lock"
	deadline := time.Now().Add(5 * time.Second)
	for {
		f, err := os.OpenFile(lock, os.O_CREATE|os.O_EXCL, 0)
		if err == nil {
			_ = f.Close()
			return func() { _ = os.Remove(lock); release() }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			release()
			return nil, fmt.Errorf("lock kubeconfig: %w", err)
		}
		if time.Now().After(deadline) {
			release()
			return nil, fmt.Errorf("kubeconfig %s is locked by another program; if none is running, remove %s", path, lock)
		}
		time.Sleep(20 * time.Millisecond) // there is no event for kubectl's lock
	}
}
