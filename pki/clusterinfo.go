package pki

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// The public half of joining a cluster: a ConfigMap that anybody may read, signed with every join token (kubeadm's
// discovery protocol).
const (
	ClusterInfoNamespace       = "kube-public"
	ClusterInfoName            = "cluster-info"
	ClusterInfoKubeconfigKey   = "kubeconfig"
	ClusterInfoSignaturePrefix = "jws-kubeconfig-"
)

// ClusterInfo returns the ConfigMap for a cluster that is reached at server, without signatures.
func (p *PKI) ClusterInfo(server string) (*corev1.ConfigMap, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters[""] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: p.Pairs().CA.CertPEM}
	data, err := clientcmd.Write(*c)
	if err != nil {
		return nil, fmt.Errorf("encode cluster-info: %w", err)
	}
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: ClusterInfoNamespace, Name: ClusterInfoName},
		Data:       map[string]string{ClusterInfoKubeconfigKey: string(data)},
	}, nil
}

// SignClusterInfo returns the detached JWS (RFC 7515, appendix F; HS256) of content by a join token.
func SignClusterInfo(content, tokenID, tokenSecret string) (string, error) {
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
	}{"HS256", tokenID})
	if err != nil {
		return "", fmt.Errorf("sign cluster-info: %w", err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	mac := hmac.New(sha256.New, []byte(tokenSecret))
	mac.Write([]byte(encode(header) + "." + encode([]byte(content))))
	return encode(header) + ".." + encode(mac.Sum(nil)), nil
}

func verifiedClusterInfo(content, signature, tokenID, tokenSecret string) bool {
	header, mac, ok := strings.Cut(signature, "..")
	if !ok {
		return false
	}
	var h struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil || json.Unmarshal(raw, &h) != nil || h.Algorithm != "HS256" || h.KeyID != tokenID {
		return false
	}
	got, err := base64.RawURLEncoding.DecodeString(mac)
	if err != nil {
		return false
	}
	want := hmac.New(sha256.New, []byte(tokenSecret))
	want.Write([]byte(header + "." + base64.RawURLEncoding.EncodeToString([]byte(content))))
	return hmac.Equal(got, want.Sum(nil))
}

// Discover returns the PEM of the authority of the cluster at server, which a joining node does not know yet. It is
// trusted because cluster-info is signed with the token and, when pins are given, because its key is pinned.
func Discover(ctx context.Context, server, token string, pins []string) ([]byte, error) {
	id, secret, ok := ParseBootstrapToken(token)
	if !ok {
		return nil, errors.New("join token must look like abcdef.0123456789abcdef")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	address := strings.TrimSuffix(server, "/") + "/api/v1/namespaces/" + ClusterInfoNamespace + "/configmaps/" + ClusterInfoName
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", server, err)
	}
	request.Header.Set("Accept", "application/json")
	// Whom we talk to is proved by what they say: the signature over it needs the token, which we do not send.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}} //nolint:gosec
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("join %s: read cluster-info: %w", server, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("join %s: read cluster-info: %w", server, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("join %s: read cluster-info: %s", server, response.Status)
	}
	var info corev1.ConfigMap
	if err := json.Unmarshal(body, &info); err != nil {
		return nil, fmt.Errorf("join %s: cluster-info: %w", server, err)
	}
	content := info.Data[ClusterInfoKubeconfigKey]
	if !verifiedClusterInfo(content, info.Data[ClusterInfoSignaturePrefix+id], id, secret) {
		return nil, fmt.Errorf("join %s: cluster-info is not signed with this token: the token is unknown there or has expired, or this is not the cluster it is for", server)
	}
	config, err := clientcmd.Load([]byte(content))
	if err != nil {
		return nil, fmt.Errorf("join %s: cluster-info: %w", server, err)
	}
	for _, cluster := range config.Clusters {
		ca, err := parseCertificate(cluster.CertificateAuthorityData)
		if err != nil {
			return nil, fmt.Errorf("join %s: authority in cluster-info: %w", server, err)
		}
		if len(pins) > 0 && !MatchesPin(ca, pins) {
			return nil, fmt.Errorf("join %s: the cluster's authority %s is none of the pinned ones", server, CAPin(ca))
		}
		return cluster.CertificateAuthorityData, nil
	}
	return nil, fmt.Errorf("join %s: cluster-info names no cluster", server)
}
