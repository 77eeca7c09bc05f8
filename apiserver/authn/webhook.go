package authn

import (
	"fmt"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	tokencache "k8s.io/apiserver/pkg/authentication/token/cache"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
)

// Webhook is an API that is asked about tokens which nobody here knows.
type Webhook struct {
	// ConfigFile is a kubeconfig that names it. Empty: none.
	ConfigFile string
	// Version of the TokenReview that it speaks: v1 or v1beta1.
	Version string
	// CacheTTL is for how long its answers are believed, yes and no alike.
	CacheTTL time.Duration
}

// New returns nil when no API is named. audiences are the API server's own.
func (w Webhook) New(audiences []string) (authenticator.Token, error) {
	if w.ConfigFile == "" {
		return nil, nil
	}
	config, err := webhookutil.LoadKubeconfig(w.ConfigFile, nil)
	if err != nil {
		return nil, fmt.Errorf("--authentication-token-webhook-config-file: %w", err)
	}
	hook, err := webhook.New(config, w.Version, audiences, *webhook.DefaultRetryBackoff())
	if err != nil {
		return nil, fmt.Errorf("--authentication-token-webhook-config-file %s: %w", w.ConfigFile, err)
	}
	return tokencache.New(hook, false, w.CacheTTL, w.CacheTTL), nil
}
