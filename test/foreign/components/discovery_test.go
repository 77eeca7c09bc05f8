package components

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"wherry.dev/wherry/test/foreign/plane"
)

// resources are what an API server serves, by group, version and name, with what clients read of each.
func resources(t *testing.T, p *plane.Plane) map[string]string {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, list := range lists {
		for _, r := range list.APIResources {
			out[list.GroupVersion+" "+r.Name] = description(r)
		}
	}
	return out
}

func description(r metav1.APIResource) string {
	verbs, short, categories := slices.Sorted(slices.Values(r.Verbs)), slices.Sorted(slices.Values(r.ShortNames)), slices.Sorted(slices.Values(r.Categories))
	return fmt.Sprintf("%s %s, namespaced %v, verbs %s, short %s, categories %s", r.Kind, r.SingularName, r.Namespaced, strings.Join(verbs, ","), strings.Join(short, ","), strings.Join(categories, ","))
}

// left are what is not served here, with the reason.
var left = map[string]string{}

// TestDiscovery: whatever upstream serves by default is served here, and described alike.
func TestDiscovery(t *testing.T) {
	plane.Need(t)
	theirs := resources(t, plane.StartUpstream(t, plane.Port+10))
	ours := resources(t, plane.StartWherry(t, plane.Port))
	var names []string
	for name := range theirs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch got, there := ours[name]; {
		case left[name] != "":
			if there {
				t.Errorf("%s is served: say so", name)
			}
		case !there:
			t.Errorf("%s is not served", name)
		case got != theirs[name]:
			t.Errorf("%s\nis       %s\nupstream %s", name, got, theirs[name])
		}
	}
	for name := range ours {
		if _, there := theirs[name]; !there {
			t.Logf("%s is not upstream's", name)
		}
	}
}
