package audit

import (
	"testing"

	auditapi "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// FuzzPolicy reads policies and decides by them.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: RequestResponse\n  users: [jane]\n  userGroups: [devs]\n  verbs: [get]\n  namespaces: [\"\"]\n  resources: [{group: \"\", resources: [pods, \"*/status\", \"pods/*\"], resourceNames: [a]}]\n- {level: None, nonResourceURLs: [\"/healthz*\", \"*\"]}\n"), "get", "pods", "status", "/healthz")
	f.Fuzz(func(t *testing.T, content []byte, verb, resource, sub, path string) {
		p, err := policy.LoadPolicyFromBytes(content)
		if err != nil {
			return
		}
		who := &user.DefaultInfo{Name: "jane", Groups: []string{"devs"}}
		for _, a := range []authorizer.AttributesRecord{{User: who, Verb: verb, Resource: resource, Subresource: sub, ResourceRequest: true}, {User: who, Verb: verb, Path: path}, {}} {
			switch d := policy.NewPolicyRuleEvaluator(p).EvaluatePolicyRule(a); d.Level {
			case auditapi.LevelNone, auditapi.LevelMetadata, auditapi.LevelRequest, auditapi.LevelRequestResponse:
			default:
				t.Errorf("level %q", d.Level)
			}
		}
	})
}

// FuzzWithoutManagedFields takes managed fields out of anything.
func FuzzWithoutManagedFields(f *testing.F) {
	f.Add([]byte(`{"metadata":{"managedFields":[{}]},"items":[{"metadata":{"managedFields":[]}},1],"rows":[{"object":{"metadata":{"managedFields":null}}},null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		once := withoutManagedFields(data)
		if twice := withoutManagedFields(once); string(twice) != string(once) {
			t.Errorf("%q becomes %q, then %q", data, once, twice)
		}
	})
}
