package main

import (
	"reflect"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/cluster"
)

// Flags that are not given change nothing of the defaults, and those that say yes, no or nothing are understood.
func TestIdentityFlags(t *testing.T) {
	parse := func(args ...string) (cluster.Identity, cluster.Limits, error) {
		i, l := cluster.DefaultIdentity(), cluster.DefaultLimits
		cmd := &cobra.Command{}
		addIdentityFlags(cmd, &i)
		addLimitFlags(cmd, &l)
		return i, l, cmd.ParseFlags(args)
	}
	i, l, err := parse()
	if want := cluster.DefaultIdentity(); err != nil || !reflect.DeepEqual(i, want) || l != cluster.DefaultLimits {
		t.Errorf("%+v, want %+v: %v", i, want, err)
	}
	i, l, err = parse("--anonymous-auth=false", "--enable-bootstrap-token-auth=false", "--service-account-extend-token-expiration", "--oidc-required-claim=a=b,c=d", "--authorization-mode=Node,RBAC", "--min-request-timeout=60",
		"--service-account-issuer=https://a", "--service-account-issuer=https://b", "--audit-log-mode=batch", "--audit-webhook-batch-throttle-qps=2.5")
	if err != nil {
		t.Fatal(err)
	}
	a := i.Authentication
	if a.Anonymous == nil || *a.Anonymous || !a.NoBootstrapTokens || a.ServiceAccounts.NoExtension || !reflect.DeepEqual(a.OIDC.RequiredClaims, map[string]string{"a": "b", "c": "d"}) ||
		len(a.ServiceAccounts.Issuers) != 2 || len(i.Authorization.Modes) != 2 || l.MinRequestTimeout != time.Minute || i.Audit.Log.Mode != "batch" || i.Audit.Webhook.Batch.ThrottleQPS != 2.5 {
		t.Errorf("%+v %+v", i, l)
	}
	if i, _, err = parse("--anonymous-auth"); err != nil || i.Authentication.Anonymous == nil || !*i.Authentication.Anonymous {
		t.Errorf("%+v: %v", i.Authentication, err)
	}
	for _, wrong := range []string{"--anonymous-auth=perhaps", "--enable-bootstrap-token-auth=perhaps", "--min-request-timeout=0", "--min-request-timeout=1m"} {
		if _, _, err := parse(wrong); err == nil {
			t.Errorf("%s is taken", wrong)
		}
	}
}
