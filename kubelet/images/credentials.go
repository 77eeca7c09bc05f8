package images

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"path"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"wherry.dev/wherry/kubelet/runtime"
)

// registry is one entry of a .dockerconfigjson.
type registry struct {
	Username, Password, Auth, IdentityToken string
}

// credentials are what the pod's pull secrets give for an image, the most specific first. A secret that is not there
// is skipped, as upstream does: the image may be public; its name is returned for an event.
func (m *Manager) credentials(ctx context.Context, pod *v1.Pod, repository string) (found []*runtime.Auth, missing []string, err error) {
	type match struct {
		path string
		auth *runtime.Auth
	}
	var all []match
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == "" {
			continue
		}
		s, err := m.c.Objects.Secret(ctx, pod.UID, pod.Namespace, ref.Name)
		if apierrors.IsNotFound(err) {
			missing = append(missing, ref.Name)
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read pull secret %s/%s: %w", pod.Namespace, ref.Name, err)
		}
		entries, err := parseSecret(s)
		if err != nil {
			m.c.Log.Warn("pull secret is not usable", "secret", pod.Namespace+"/"+ref.Name, "err", err)
			continue
		}
		for host, r := range entries {
			if matches(host, repository) {
				all = append(all, match{host, &runtime.Auth{Username: r.Username, Password: r.Password, IdentityToken: r.IdentityToken}})
			}
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].path > all[j].path })
	for _, x := range all {
		found = append(found, x.auth)
	}
	return found, missing, nil
}

// parseSecret reads kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg. Errors never hold its content.
func parseSecret(s *v1.Secret) (map[string]registry, error) {
	var entries map[string]json.RawMessage
	switch {
	case s.Data[v1.DockerConfigJsonKey] != nil:
		var file struct {
			Auths map[string]json.RawMessage `json:"auths"`
		}
		if json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &file) != nil {
			return nil, fmt.Errorf("%s is not JSON of the expected form", v1.DockerConfigJsonKey)
		}
		entries = file.Auths
	case s.Data[v1.DockerConfigKey] != nil:
		if json.Unmarshal(s.Data[v1.DockerConfigKey], &entries) != nil {
			return nil, fmt.Errorf("%s is not JSON of the expected form", v1.DockerConfigKey)
		}
	default:
		return nil, fmt.Errorf("it has neither %s nor %s", v1.DockerConfigJsonKey, v1.DockerConfigKey)
	}
	out := make(map[string]registry, len(entries))
	for host, raw := range entries {
		var e struct {
			Username      string `json:"username"`
			Password      string `json:"password"`
			Auth          string `json:"auth"`
			IdentityToken string `json:"identitytoken"`
		}
		if json.Unmarshal(raw, &e) != nil {
			return nil, fmt.Errorf("the entry of %s is not of the expected form", host)
		}
		r := registry{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken}
		if e.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(e.Auth)
			if err != nil {
				plain, err = base64.RawStdEncoding.DecodeString(e.Auth)
			}
			user, password, ok := strings.Cut(string(plain), ":")
			if err != nil || !ok {
				return nil, fmt.Errorf("the auth of %s is not base64 of user:password", host)
			}
			r.Username, r.Password = user, strings.TrimRight(password, "\x00")
		}
		out[host] = r
	}
	return out, nil
}

// matches says whether a registry entry such as https://index.docker.io/v1/, *.example.com or host:5000/path is for
// a repository such as docker.io/library/busybox (Kubernetes' rules for image pull secrets).
func matches(entry, repository string) bool {
	if !strings.Contains(entry, "://") {
		entry = "https://" + entry
	}
	u, err := url.Parse(entry)
	if err != nil {
		return false
	}
	prefix := strings.TrimSuffix(u.Path, "/")
	if prefix == "/v1" || prefix == "/v2" {
		prefix = ""
	}
	host := u.Host
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	repoHost, repoPath, _ := strings.Cut(repository, "/")
	wantHost, wantPort := split(host)
	haveHost, havePort := split(repoHost)
	if wantPort != havePort {
		return false
	}
	a, b := strings.Split(wantHost, "."), strings.Split(haveHost, ".")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if ok, err := path.Match(a[i], b[i]); err != nil || !ok {
			return false
		}
	}
	return strings.HasPrefix("/"+repoPath, prefix)
}

func split(hostport string) (host, port string) {
	if h, p, err := net.SplitHostPort(hostport); err == nil {
		return h, p
	}
	return hostport, ""
}
