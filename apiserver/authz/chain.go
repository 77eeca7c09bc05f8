package authz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/load"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook"
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook/metrics"

	"wherry.dev/wherry/apiserver/reload"
)

// The modes that the chain can be made of.
const (
	modeNode        = "Node"
	modeRBAC        = "RBAC"
	modeAlwaysAllow = "AlwaysAllow"
	modeAlwaysDeny  = "AlwaysDeny"
	modeWebhook     = string(apiserver.TypeWebhook)
)

// Modes are what may be asked, in any order.
var Modes = []string{modeNode, modeRBAC, modeAlwaysAllow, modeAlwaysDeny, modeWebhook}

// DefaultModes are asked unless told otherwise.
var DefaultModes = []string{modeNode, modeRBAC}

// Settings say who is asked, and in which order; system:masters may do everything whatever they say.
type Settings struct {
	// File holds an AuthorizationConfiguration (KEP-3221), read again when it changes. Empty: Modes and Webhook say it.
	File    string
	Modes   []string
	Webhook WebhookSettings
	Log     *slog.Logger // nil: discarded
}

// WebhookSettings is the webhook of --authorization-mode=Webhook.
type WebhookSettings struct {
	ConfigFile                     string // kubeconfig
	Version                        string // of the SubjectAccessReview that it speaks: v1 or v1beta1
	AuthorizedTTL, UnauthorizedTTL time.Duration
}

// DefaultSettings are upstream's.
func DefaultSettings() Settings {
	return Settings{Webhook: WebhookSettings{Version: "v1beta1", AuthorizedTTL: 5 * time.Minute, UnauthorizedTTL: 30 * time.Second}}
}

// step is one authorizer of the chain.
type step struct {
	mode string
	name string                // before its reasons, when nobody allows
	hook authorizer.Authorizer // of a webhook
	rule authorizer.RuleResolver
}

// configured is what the chain was made of.
type configured struct {
	settings Settings
	content  []byte // of the file
	compiler authorizationcel.Compiler
	required sets.Set[string] // modes that stay for as long as the server runs
}

// Configure makes the chain. It comes before the first request; without it DefaultModes are asked.
func (a *Authorizer) Configure(s Settings) error {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	c := &configured{settings: s}
	var parsed *apiserver.AuthorizationConfiguration
	switch {
	case s.File != "":
		if len(s.Modes) > 0 || s.Webhook.ConfigFile != "" {
			return errors.New("--authorization-config and --authorization-mode or --authorization-webhook-config-file exclude each other")
		}
		content, err := os.ReadFile(s.File)
		if err != nil {
			return fmt.Errorf("--authorization-config: %w", err)
		}
		c.content, c.compiler = content, authorizationcel.NewDefaultCompiler()
		if parsed, err = c.parse(content); err != nil {
			return fmt.Errorf("--authorization-config %s: %w", s.File, err)
		}
	default:
		var err error
		if parsed, err = s.configuration(); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(parsed.Authorizers, func(one apiserver.AuthorizerConfiguration) bool { return string(one.Type) == modeWebhook }) && c.compiler == nil {
		c.compiler = authorizationcel.NewDefaultCompiler() // dear to make
	}
	steps, err := c.steps(a, parsed)
	if err != nil {
		return err
	}
	c.required = sets.New[string]()
	for _, step := range steps {
		if step.hook == nil {
			c.required.Insert(step.mode)
		}
	}
	a.configured = c
	a.steps.Store(&steps)
	return nil
}

// Follow reads the file again whenever it changes, until ctx ends.
func (a *Authorizer) Follow(ctx context.Context) error {
	c := a.configured
	if c == nil || c.settings.File == "" {
		<-ctx.Done()
		return nil
	}
	return reload.Watch(ctx, c.settings.File, c.content, func(_ context.Context, content []byte) error { return a.change(content) }, c.settings.Log)
}

// change puts another configuration into force.
func (a *Authorizer) change(content []byte) error {
	parsed, err := a.configured.parse(content)
	if err != nil {
		return err
	}
	steps, err := a.configured.steps(a, parsed)
	if err != nil {
		return err
	}
	a.steps.Store(&steps)
	return nil
}

// configuration is what the flags say.
func (s *Settings) configuration() (*apiserver.AuthorizationConfiguration, error) {
	modes := s.Modes
	if len(modes) == 0 {
		modes = DefaultModes
	}
	c := &apiserver.AuthorizationConfiguration{}
	for i, mode := range modes {
		switch {
		case !slices.Contains(Modes, mode):
			return nil, fmt.Errorf("--authorization-mode: %q is none of %s", mode, strings.Join(Modes, ", "))
		case slices.Contains(modes[:i], mode):
			return nil, fmt.Errorf("--authorization-mode: %s stands there twice", mode)
		}
		one := apiserver.AuthorizerConfiguration{Type: apiserver.AuthorizerType(mode), Name: strings.ToLower(mode)}
		if mode == modeWebhook {
			if s.Webhook.ConfigFile == "" {
				return nil, errors.New("--authorization-mode=Webhook needs --authorization-webhook-config-file")
			}
			one.Name = "default" // of the only one that flags can name
			one.Webhook = &apiserver.WebhookConfiguration{
				AuthorizedTTL: metav1.Duration{Duration: s.Webhook.AuthorizedTTL}, CacheAuthorizedRequests: s.Webhook.AuthorizedTTL != 0,
				UnauthorizedTTL: metav1.Duration{Duration: s.Webhook.UnauthorizedTTL}, CacheUnauthorizedRequests: s.Webhook.UnauthorizedTTL != 0,
				Timeout: metav1.Duration{Duration: 30 * time.Second}, FailurePolicy: apiserver.FailurePolicyNoOpinion, SubjectAccessReviewVersion: s.Webhook.Version,
				ConnectionInfo: apiserver.WebhookConnectionInfo{Type: apiserver.AuthorizationWebhookConnectionInfoTypeKubeConfigFile, KubeConfigFile: &s.Webhook.ConfigFile}}
		}
		c.Authorizers = append(c.Authorizers, one)
	}
	if s.Webhook.ConfigFile != "" && !slices.Contains(modes, modeWebhook) {
		return nil, errors.New("--authorization-webhook-config-file needs Webhook among --authorization-mode")
	}
	return c, nil
}

// parse reads and validates a file's content.
func (c *configured) parse(content []byte) (*apiserver.AuthorizationConfiguration, error) {
	parsed, err := load.LoadFromData(content)
	if err != nil {
		return nil, err
	}
	if errs := validation.ValidateAuthorizationConfiguration(c.compiler, nil, parsed, sets.New(Modes...), sets.New(modeWebhook)); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	missing := c.required.Clone()
	for _, one := range parsed.Authorizers {
		if mode := string(one.Type); mode != modeWebhook {
			missing.Delete(mode)
			if want := strings.ToLower(mode); one.Name != want {
				return nil, fmt.Errorf("expected name %s for authorizer %s instead of %s", want, mode, one.Name)
			}
		}
	}
	if missing.Len() > 0 {
		return nil, fmt.Errorf("missing required types: %v", sets.List(missing))
	}
	return parsed, nil
}

// steps makes the chain that a configuration asks for.
func (c *configured) steps(a *Authorizer, parsed *apiserver.AuthorizationConfiguration) ([]step, error) {
	var steps []step
	for _, one := range parsed.Authorizers {
		s := step{mode: string(one.Type), name: one.Name}
		switch s.mode {
		case modeNode, modeRBAC, modeAlwaysAllow, modeAlwaysDeny:
		case modeWebhook:
			hook, err := c.webhook(&one)
			if err != nil {
				return nil, fmt.Errorf("authorization webhook %s: %w", one.Name, err)
			}
			s.hook, s.rule = hook, hook
		default:
			return nil, fmt.Errorf("unknown authorization mode %s", s.mode)
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// unmeasured are the metrics of a webhook, which are not kept.
type unmeasured struct {
	metrics.NoopRequestMetrics
	metrics.NoopWebhookMetrics
	authorizationcel.NoopMatcherMetrics
}

func (c *configured) webhook(one *apiserver.AuthorizerConfiguration) (*webhook.WebhookAuthorizer, error) {
	w := one.Webhook
	if w.ConnectionInfo.KubeConfigFile == nil {
		return nil, errors.New("connectionInfo of type KubeConfigFile is needed")
	}
	config, err := webhookutil.LoadKubeconfig(*w.ConnectionInfo.KubeConfigFile, nil)
	if err != nil {
		return nil, err
	}
	if w.Timeout.Duration != 0 {
		config.Timeout = w.Timeout.Duration
	}
	onError := authorizer.DecisionNoOpinion
	if w.FailurePolicy == apiserver.FailurePolicyDeny {
		onError = authorizer.DecisionDeny
	}
	yes, no := w.AuthorizedTTL.Duration, w.UnauthorizedTTL.Duration
	if !w.CacheAuthorizedRequests {
		yes = 0
	}
	if !w.CacheUnauthorizedRequests {
		no = 0
	}
	return webhook.New(config, w.SubjectAccessReviewVersion, yes, no, *webhook.DefaultRetryBackoff(), onError, w.MatchConditions, one.Name, unmeasured{}, c.compiler)
}

// rulesOf are the rules of one step for who.
func (a *Authorizer) rulesOf(ctx context.Context, s step, who user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	switch s.mode {
	case modeNode:
		if _, isNode := nodeName(who); isNode { // nobody can list what depends on its pods
			return nil, nil, true, errors.New("node authorizer does not support user rule resolution")
		}
	case modeRBAC:
		return a.rbacRules(ctx, who, namespace)
	case modeAlwaysAllow:
		resources, paths := everything()
		return resources, paths, false, nil
	case modeWebhook:
		return s.rule.RulesFor(ctx, who, namespace)
	}
	return nil, nil, false, nil
}

// everything are the rules of whoever may do everything.
func everything() ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo) {
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}},
		[]authorizer.NonResourceRuleInfo{&authorizer.DefaultNonResourceRuleInfo{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}
}
