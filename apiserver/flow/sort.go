package flow

import (
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Configure puts another configuration into force. Requests that have been let in, or wait, stay what they are. Schemas that name a level
// which is not there are left out; what no schema matches goes to catch-all.
func (c *Controller) Configure(schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	named := map[string]bool{}
	shares := 0
	for _, o := range levels {
		named[o.Name] = true
		own, _ := sharesOf(o)
		shares += own
	}
	for _, o := range levels {
		l := c.levels[o.Name]
		if l == nil || l.exempt != (o.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt) { // whose tickets count otherwise
			l = &level{flows: map[string]*queue{}}
			c.levels[o.Name] = l
		}
		l.configure(o, c.total, shares)
	}
	for name, l := range c.levels {
		switch {
		case named[name]:
		case l.inUse == 0 && l.waiting == 0:
			delete(c.levels, name)
		default: // nothing is kept free for it any more
			l.kept = 0
		}
	}
	if c.levels[flowcontrolv1.PriorityLevelConfigurationNameCatchAll] == nil { // the last resort must be there
		l := &level{flows: map[string]*queue{}}
		few := int32(5)
		l.configure(&flowcontrolv1.PriorityLevelConfiguration{Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &few}}}, c.total, shares+int(few))
		l.object.Name = flowcontrolv1.PriorityLevelConfigurationNameCatchAll
		c.levels[l.object.Name] = l
	}
	c.order = c.order[:0]
	for _, l := range c.levels {
		c.order = append(c.order, l)
	}
	slices.SortFunc(c.order, func(a, b *level) int { return strings.Compare(a.object.Name, b.object.Name) })

	old := map[string]*schema{}
	for _, s := range c.schemas {
		old[s.object.Name] = s
	}
	c.schemas = nil
	for _, o := range schemas {
		l := c.levels[o.Spec.PriorityLevelConfiguration.Name]
		if l == nil || !named[l.object.Name] {
			continue
		}
		s := old[o.Name]
		if s == nil || s.level != l { // waiting requests keep theirs
			s = &schema{level: l}
		}
		s.object = o
		c.schemas = append(c.schemas, s)
	}
	last := &flowcontrolv1.FlowSchema{Spec: flowcontrolv1.FlowSchemaSpec{MatchingPrecedence: flowcontrolv1.FlowSchemaMaxMatchingPrecedence}}
	last.Name = flowcontrolv1.FlowSchemaNameCatchAll
	if !slices.ContainsFunc(c.schemas, func(s *schema) bool { return s.object.Name == last.Name }) {
		c.schemas = append(c.schemas, &schema{object: last, level: c.levels[flowcontrolv1.PriorityLevelConfigurationNameCatchAll]})
	}
	slices.SortFunc(c.schemas, func(a, b *schema) int {
		if d := int(a.object.Spec.MatchingPrecedence) - int(b.object.Spec.MatchingPrecedence); d != 0 {
			return d
		}
		return strings.Compare(a.object.Name, b.object.Name)
	})
	c.serveNext() // who waits may have more room now
}

// sort finds the schema of a request: the first that matches. Callers hold mu.
func (c *Controller) sort(who user.Info, info *request.RequestInfo) *schema {
	var last *schema
	for _, s := range c.schemas {
		if s.object.Name == flowcontrolv1.FlowSchemaNameCatchAll {
			last = s
		}
		for i := range s.object.Spec.Rules {
			if ruleMatches(&s.object.Spec.Rules[i], who, info) {
				return s
			}
		}
	}
	return last // whatever its rules say
}

// flowOf tells the requests of one schema apart.
func flowOf(o *flowcontrolv1.FlowSchema, who user.Info, info *request.RequestInfo) string {
	if d := o.Spec.DistinguisherMethod; d != nil {
		switch d.Type {
		case flowcontrolv1.FlowDistinguisherMethodByUserType:
			return o.Name + "/" + who.GetName()
		case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
			return o.Name + "/" + info.Namespace
		}
	}
	return o.Name
}

func ruleMatches(r *flowcontrolv1.PolicyRulesWithSubjects, who user.Info, info *request.RequestInfo) bool {
	if !slices.ContainsFunc(r.Subjects, func(s flowcontrolv1.Subject) bool { return subjectMatches(&s, who) }) {
		return false
	}
	if info.IsResourceRequest {
		for i := range r.ResourceRules {
			if resourceMatches(&r.ResourceRules[i], info) {
				return true
			}
		}
		return false
	}
	for i := range r.NonResourceRules {
		n := &r.NonResourceRules[i]
		if has(n.Verbs, info.Verb, flowcontrolv1.VerbAll) && slices.ContainsFunc(n.NonResourceURLs, func(u string) bool { return pathMatches(u, info.Path) }) {
			return true
		}
	}
	return false
}

func subjectMatches(s *flowcontrolv1.Subject, who user.Info) bool {
	switch {
	case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil:
		return s.User.Name == flowcontrolv1.NameAll || s.User.Name == who.GetName()
	case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil:
		return s.Group.Name == flowcontrolv1.NameAll || slices.Contains(who.GetGroups(), s.Group.Name)
	case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
		if s.ServiceAccount.Name == flowcontrolv1.NameAll {
			rest, ok := strings.CutPrefix(who.GetName(), serviceaccount.ServiceAccountUsernamePrefix)
			return ok && strings.HasPrefix(rest, s.ServiceAccount.Namespace+serviceaccount.ServiceAccountUsernameSeparator)
		}
		return serviceaccount.MatchesUsername(s.ServiceAccount.Namespace, s.ServiceAccount.Name, who.GetName())
	}
	return false
}

func resourceMatches(r *flowcontrolv1.ResourcePolicyRule, info *request.RequestInfo) bool {
	if !has(r.Verbs, info.Verb, flowcontrolv1.VerbAll) || !has(r.APIGroups, info.APIGroup, flowcontrolv1.APIGroupAll) {
		return false
	}
	if !slices.ContainsFunc(r.Resources, func(one string) bool {
		if one == flowcontrolv1.ResourceAll {
			return true
		}
		resource, sub, _ := strings.Cut(one, "/")
		return resource == info.Resource && sub == info.Subresource
	}) {
		return false
	}
	if info.Namespace == "" {
		return r.ClusterScope
	}
	return has(r.Namespaces, info.Namespace, flowcontrolv1.NamespaceEvery)
}

// pathMatches knows exact paths, and those below one that ends in "/*" or is a folder.
func pathMatches(rule, path string) bool {
	if rule == flowcontrolv1.NonResourceAll || rule == path {
		return true
	}
	prefix := strings.TrimSuffix(strings.TrimSuffix(rule, "*"), "/") + "/"
	return strings.HasPrefix(path, prefix)
}

func has(list []string, value, wildcard string) bool {
	for _, one := range list {
		if one == value || one == wildcard {
			return true
		}
	}
	return false
}
