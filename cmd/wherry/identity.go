package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/cluster"
)

// addIdentityFlags adds the flags about who may use the API, as upstream's API server names them.
func addIdentityFlags(cmd *cobra.Command, i *cluster.Identity) {
	addAuthenticationFlags(cmd, &i.Authentication)
	addAuthorizationFlags(cmd, i)
	addAuditFlags(cmd, i)
}

func addAuthorizationFlags(cmd *cobra.Command, i *cluster.Identity) {
	f := cmd.Flags()
	a := &i.Authorization
	f.StringVar(&a.File, "authorization-config", "", "who is asked whether somebody may, and in which order (AuthorizationConfiguration); read again when it changes")
	f.StringSliceVar(&a.Modes, "authorization-mode", nil, "who is asked, in order: "+strings.Join(cluster.AuthorizationModes, ", ")+" (default: "+strings.Join(cluster.DefaultAuthorizationModes, ",")+")")
	f.StringVar(&a.Webhook.ConfigFile, "authorization-webhook-config-file", "", "kubeconfig of the API that the mode Webhook asks")
	f.StringVar(&a.Webhook.Version, "authorization-webhook-version", a.Webhook.Version, "version of the SubjectAccessReview that it speaks: v1, v1beta1")
	f.DurationVar(&a.Webhook.AuthorizedTTL, "authorization-webhook-cache-authorized-ttl", a.Webhook.AuthorizedTTL, "for how long its yes is believed")
	f.DurationVar(&a.Webhook.UnauthorizedTTL, "authorization-webhook-cache-unauthorized-ttl", a.Webhook.UnauthorizedTTL, "for how long its no is believed")
}

func addAuthenticationFlags(cmd *cobra.Command, a *cluster.Authentication) {
	f := cmd.Flags()
	f.StringVar(&a.ConfigFile, "authentication-config", "", "providers of tokens, and where anonymous requests may go (AuthenticationConfiguration); read again when it changes")
	f.Var(&maybeValue{&a.Anonymous}, "anonymous-auth", "let requests without a credential through to authorization: true everywhere, false nowhere (default: to health, version and the public half of joining)")
	f.Lookup("anonymous-auth").NoOptDefVal = "true"
	f.StringVar(&a.ClientCAFile, "client-ca-file", "", "further authorities of client certificates, besides the cluster's own; read again when it changes")
	f.StringVar(&a.TokenFile, "token-auth-file", "", "CSV file of tokens: token,user,uid,\"group,group\"")
	f.Var(&notValue{&a.NoBootstrapTokens}, "enable-bootstrap-token-auth", "let machines join by token")
	f.Lookup("enable-bootstrap-token-auth").NoOptDefVal = "true"

	o := &a.OIDC
	f.StringVar(&o.IssuerURL, "oidc-issuer-url", "", "OpenID provider whose tokens are accepted")
	f.StringVar(&o.ClientID, "oidc-client-id", "", "audience that its tokens must have")
	f.StringVar(&o.CAFile, "oidc-ca-file", "", "authorities that sign its certificate (default: the machine's)")
	f.StringVar(&o.UsernameClaim, "oidc-username-claim", o.UsernameClaim, "claim that names the user")
	f.StringVar(&o.UsernamePrefix, "oidc-username-prefix", "", "what is put before the user's name; - for nothing (default: the issuer's URL and #, but for email)")
	f.StringVar(&o.GroupsClaim, "oidc-groups-claim", "", "claim that names the user's groups")
	f.StringVar(&o.GroupsPrefix, "oidc-groups-prefix", "", "what is put before each group's name")
	f.StringSliceVar(&o.SigningAlgorithms, "oidc-signing-algs", o.SigningAlgorithms, "algorithms that its tokens may be signed with")
	f.StringToStringVar(&o.RequiredClaims, "oidc-required-claim", nil, "claim=value that its tokens must have; may be given several times")

	h := &a.RequestHeader
	f.StringVar(&h.CAFile, "requestheader-client-ca-file", "", "authorities of proxies that have authenticated the user themselves; read again when it changes")
	f.StringSliceVar(&h.AllowedNames, "requestheader-allowed-names", nil, "common names of those proxies' certificates (default: any)")
	f.StringSliceVar(&h.UserHeaders, "requestheader-username-headers", nil, "headers that name the user (default: X-Remote-User)")
	f.StringSliceVar(&h.UIDHeaders, "requestheader-uid-headers", nil, "headers that name the user's UID (default: X-Remote-Uid)")
	f.StringSliceVar(&h.GroupHeaders, "requestheader-group-headers", nil, "headers that name the user's groups (default: X-Remote-Group)")
	f.StringSliceVar(&h.ExtraPrefixes, "requestheader-extra-headers-prefix", nil, "how headers begin that say more of the user (default: X-Remote-Extra-)")

	f.StringVar(&a.Webhook.ConfigFile, "authentication-token-webhook-config-file", "", "kubeconfig of an API that is asked about unknown tokens")
	f.StringVar(&a.Webhook.Version, "authentication-token-webhook-version", a.Webhook.Version, "version of the TokenReview that it speaks: v1, v1beta1")
	f.DurationVar(&a.Webhook.CacheTTL, "authentication-token-webhook-cache-ttl", a.Webhook.CacheTTL, "for how long its answers are believed")

	s := &a.ServiceAccounts
	f.StringArrayVar(&s.Issuers, "service-account-issuer", nil, "issuer of service accounts' tokens; given several times, the first is written into new ones and all are accepted (default: the cluster's)")
	f.StringSliceVar(&s.Audiences, "api-audiences", nil, "audiences of tokens for the API (default: the issuers)")
	f.StringArrayVar(&s.KeyFiles, "service-account-key-file", nil, "further keys that service accounts' tokens may be signed with")
	f.StringVar(&s.SigningKeyFile, "service-account-signing-key-file", "", "key that signs service accounts' tokens (default: the cluster's own)")
	f.StringVar(&s.JWKSURI, "service-account-jwks-uri", "", "where discovery says that the keys are found (default: on this server)")
	f.DurationVar(&s.MaxExpiration, "service-account-max-token-expiration", 0, "longest life of a service account's token (default: no limit)")
	f.Var(&notValue{&s.NoExtension}, "service-account-extend-token-expiration", "let tokens of pods that ask for the usual life live for a year")
	f.Lookup("service-account-extend-token-expiration").NoOptDefVal = "true"
}

// maybeValue is a yes or no that may also be left unsaid.
type maybeValue struct{ v **bool }

func (m *maybeValue) String() string {
	if m.v == nil || *m.v == nil {
		return ""
	}
	return strconv.FormatBool(**m.v)
}

func (m *maybeValue) Set(text string) error {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return err
	}
	*m.v = &b
	return nil
}

func (*maybeValue) Type() string { return "bool" }

// notValue is a yes or no whose setting is kept as its opposite, so that yes is the zero value.
type notValue struct{ v *bool }

func (n *notValue) String() string { return strconv.FormatBool(n.v == nil || !*n.v) }

func (n *notValue) Set(text string) error {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return err
	}
	*n.v = !b
	return nil
}

func (*notValue) Type() string { return "bool" }

func addAuditFlags(cmd *cobra.Command, i *cluster.Identity) {
	f := cmd.Flags()
	a := &i.Audit
	f.StringVar(&a.PolicyFile, "audit-policy-file", "", "rules of what is recorded about requests (audit.k8s.io/v1 Policy)")
	l := &a.Log
	f.StringVar(&l.Path, "audit-log-path", "", "file that audit events are written to; - for standard output")
	f.StringVar(&l.Format, "audit-log-format", l.Format, "json or legacy")
	f.IntVar(&l.MaxAgeDays, "audit-log-maxage", 0, "days after which old audit logs are removed (0: never)")
	f.IntVar(&l.MaxBackups, "audit-log-maxbackup", 0, "old audit logs that are kept (0: all)")
	f.IntVar(&l.MaxSizeMB, "audit-log-maxsize", 0, "megabytes after which a new audit log is begun (0: 100)")
	f.BoolVar(&l.Compress, "audit-log-compress", false, "compress old audit logs")
	w := &a.Webhook
	f.StringVar(&w.ConfigFile, "audit-webhook-config-file", "", "kubeconfig of an API that audit events are sent to")
	f.DurationVar(&w.InitialBackoff, "audit-webhook-initial-backoff", w.InitialBackoff, "wait before the first retry")
	for _, to := range []struct {
		name, what string
		mode       *string
		batch      *int
		batchMax   *int
		enabled    *bool
		event      *int64
		size       *int64
	}{
		{"audit-log-", "the audit log", &l.Mode, &l.Batch.BufferSize, &l.Batch.MaxBatchSize, &l.TruncateEnabled, &l.Truncate.MaxEventSize, &l.Truncate.MaxBatchSize},
		{"audit-webhook-", "the audit webhook", &w.Mode, &w.Batch.BufferSize, &w.Batch.MaxBatchSize, &w.TruncateEnabled, &w.Truncate.MaxEventSize, &w.Truncate.MaxBatchSize},
	} {
		f.StringVar(to.mode, to.name+"mode", *to.mode, "how "+to.what+" is given its events: "+strings.Join(cluster.AuditModes, ", "))
		f.IntVar(to.batch, to.name+"batch-buffer-size", *to.batch, "events that wait at most for "+to.what+" (batch mode)")
		f.IntVar(to.batchMax, to.name+"batch-max-size", *to.batchMax, "events in one batch for "+to.what+" (batch mode)")
		f.BoolVar(to.enabled, to.name+"truncate-enabled", false, "bound the size of events and batches for "+to.what)
		f.Int64Var(to.event, to.name+"truncate-max-event-size", *to.event, "bytes of an event beyond which its objects are left out for "+to.what)
		f.Int64Var(to.size, to.name+"truncate-max-batch-size", *to.size, "bytes of a batch for "+to.what)
	}
	f.DurationVar(&w.Batch.MaxBatchWait, "audit-webhook-batch-max-wait", w.Batch.MaxBatchWait, "time after which a batch is sent that is not full")
	f.BoolVar(&w.Batch.ThrottleEnable, "audit-webhook-batch-throttle-enable", w.Batch.ThrottleEnable, "bound the batches per second")
	f.Float32Var(&w.Batch.ThrottleQPS, "audit-webhook-batch-throttle-qps", w.Batch.ThrottleQPS, "batches per second on average")
	f.IntVar(&w.Batch.ThrottleBurst, "audit-webhook-batch-throttle-burst", w.Batch.ThrottleBurst, "batches that may be sent at once")
}
