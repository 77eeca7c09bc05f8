package cluster

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"wherry.dev/wherry/pki"
)

// Join is what a machine needs to join.
type Join struct {
	Server string `json:"server"`
	Token  string `json:"token"`
	CAHash string `json:"caHash"`
}

// CreateJoinToken stores a new join token and returns what to give to the joining machine. caPEM is the cluster's authority.
func CreateJoinToken(ctx context.Context, client kubernetes.Interface, server string, caPEM []byte, description string, ttl time.Duration) (Join, error) {
	block, _ := pem.Decode(caPEM)
	if block == nil {
		return Join{}, errors.New("the kubeconfig names no certificate authority to pin")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Join{}, fmt.Errorf("the kubeconfig's certificate authority: %w", err)
	}
	token := pki.NewBootstrapToken()
	secret, err := pki.BootstrapTokenSecret(token, description, time.Now(), ttl)
	if err != nil {
		return Join{}, err
	}
	if _, err := client.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return Join{}, fmt.Errorf("store join token: %w", err)
	}
	return Join{Server: server, Token: token, CAHash: pki.CAPin(ca)}, nil
}
