package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"wherry.dev/wherry/cluster/local"
	"wherry.dev/wherry/pki"
)

// accessFlags say which cluster a client command speaks to: one by its Wherry name, or whatever the kubeconfig says.
type accessFlags struct {
	name, dataDir, kubeconfig string
}

func (a *accessFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.name, "name", "", "cluster made by wherry up --name (default: the kubeconfig's current context)")
	cmd.Flags().StringVar(&a.dataDir, "data-dir", "", "where that cluster's data is (default: below /var/lib/wherry)")
	cmd.Flags().StringVar(&a.kubeconfig, "kubeconfig", "", "kubeconfig file (default: the one that `wherry up` wrote to, else $KUBECONFIG or ~/.kube/config)")
}

// load returns the client configuration, and the namespace to use: the given one, or the context's.
func (a *accessFlags) load(namespace string) (*rest.Config, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.kubeconfig
	overrides := &clientcmd.ConfigOverrides{}
	if a.name != "" {
		overrides.CurrentContext = pki.ContextName(a.name)
		if a.kubeconfig == "" {
			rules.ExplicitPath = local.Kubeconfig(a.name, a.dataDir)
		}
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig: %w", err)
	}
	if namespace == "" {
		if namespace, _, err = loader.Namespace(); err != nil {
			return nil, "", fmt.Errorf("kubeconfig: %w", err)
		}
	}
	return config, namespace, nil
}
