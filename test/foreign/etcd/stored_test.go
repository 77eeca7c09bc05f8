package etcd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// onlyOne are keys that one of the two has and the other not, with the reason.
var onlyOne = []struct {
	key    *regexp.Regexp
	reason string
}{
	{regexp.MustCompile(`^compact_rev_key$`), "made at the first compaction, minutes after the start"},
	{regexp.MustCompile(`/leases/kube-system/apiserver-`), "named after the machine"},
	{regexp.MustCompile(`^/registry/masterleases/`), "runs out 15 seconds after its server"},
	{regexp.MustCompile(`^/registry/ipaddresses/`), "an address by chance"},
	{regexp.MustCompile(`wherry`), "Wherry's own"},
	{regexp.MustCompile(`^/registry/secrets/kube-system/bootstrap-token-|^/registry/configmaps/kube-public/cluster-info$`), "kubeadm makes them, and Wherry by itself"},
}

// differ are keys that both have with values of their own, with the reason.
var differ = []struct {
	key    *regexp.Regexp
	reason string
}{
	{regexp.MustCompile(`^/registry/(services/specs|services/endpoints|endpointslices)/default/kubernetes$`), "the port on which this server is reached"},
	{regexp.MustCompile(`^/registry/configmaps/kube-system/(extension-apiserver-authentication|kube-apiserver-legacy-service-account-token-tracking)$`), "the authorities and the first day of this server"},
	{regexp.MustCompile(`^/registry/ipaddresses/|^/registry/ranges/servicenodeports$`), "ports by chance; upstream's allocator is a client of its own API, and leaves managed fields"},
}

// chance are fields that no two servers have in common: identities, times, and what is drawn by lot.
var chance = map[string]bool{"uid": true, "creationTimestamp": true, "time": true, "resourceVersion": true, "clusterIP": true, "clusterIPs": true, "nodePort": true,
	"lastTransitionTime": true, "startTime": true, "lastUpdateTime": true, "lastPhaseTransitionTime": true,
	"authentication.kubernetes.io/credential-id": true, "controller-uid": true, "batch.kubernetes.io/controller-uid": true}

// compareStored holds the bytes of two etcds against each other.
func compareStored(t *testing.T, theirs, ours map[string][]byte) {
	t.Helper()
	excused := func(key string) bool {
		for _, o := range onlyOne {
			if o.key.MatchString(key) {
				return true
			}
		}
		return false
	}
	for _, key := range slices.Sorted(maps.Keys(theirs)) {
		if ours[key] == nil && !excused(key) {
			t.Errorf("%s: only upstream has it", key)
		}
	}
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensions.AddToScheme, apiregistration.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	var excuse []*regexp.Regexp
	same := 0
	for _, o := range differ {
		excuse = append(excuse, o.key)
	}
	for _, key := range slices.Sorted(maps.Keys(ours)) {
		their, ok := theirs[key]
		if !ok {
			if !excused(key) {
				t.Errorf("%s: only Wherry has it", key)
			}
			continue
		}
		a, err := open(types, their)
		if err != nil {
			t.Errorf("%s of upstream: %v", key, err)
			continue
		}
		b, err := open(types, ours[key])
		if err != nil {
			t.Errorf("%s of Wherry: %v", key, err)
			continue
		}
		if slices.ContainsFunc(excuse, func(r *regexp.Regexp) bool { return r.MatchString(key) }) {
			continue
		}
		if diff := differences("", a, b); len(diff) > 0 {
			t.Errorf("%s differs:\n  %s", key, strings.Join(diff, "\n  "))
			continue
		}
		same++
	}
	t.Logf("%d of upstream's %d and Wherry's %d keys have the same value", same, len(theirs), len(ours))
}

// open decodes a stored value, and says whether it is what upstream's own encoder makes of the object: then equal objects mean equal bytes. What comes by chance
// is left out.
func open(types *runtime.Scheme, value []byte) (map[string]any, error) {
	var form any
	switch {
	case bytes.HasPrefix(value, []byte("k8s\x00")):
		s := protobuf.NewSerializer(types, types)
		obj, kind, err := s.Decode(value, nil, nil)
		if err != nil {
			return nil, err
		}
		obj.GetObjectKind().SetGroupVersionKind(*kind)
		var again bytes.Buffer
		if err := s.Encode(obj, &again); err != nil {
			return nil, err
		}
		if !bytes.Equal(again.Bytes(), value) {
			return nil, fmt.Errorf("%d bytes that upstream's encoder would write as %d others", len(value), again.Len())
		}
		text, err := json.Marshal(obj)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &form); err != nil {
			return nil, err
		}
	case bytes.HasPrefix(value, []byte("{")):
		if err := json.Unmarshal(value, &form); err != nil {
			return nil, err
		}
	default:
		return map[string]any{"raw": string(value)}, nil
	}
	out := without(form).(map[string]any)
	out["form"] = string(value[:1])
	return out, nil
}

// without leaves out what comes by chance.
func without(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v["manager"] == "wherry" { // the server's own name, as a field manager
			v["manager"] = "kube-apiserver"
		}
		for k, inner := range v {
			if chance[k] {
				delete(v, k)
				continue
			}
			v[k] = without(inner)
		}
	case []any:
		for i := range v {
			v[i] = without(v[i])
		}
	}
	return v
}
