package images

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/kubelet/runtime/fake"
)

type secrets map[string]string

func (s secrets) Secret(_ context.Context, _ types.UID, _, name string) (*v1.Secret, error) {
	if text, ok := s[name]; ok {
		return &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(text)}}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
}

func ensure(m *Manager, image string, policy v1.PullPolicy, secret ...string) (Pulled, error, []string) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}}
	for _, s := range secret {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, v1.LocalObjectReference{Name: s})
	}
	var events []string
	got, err := m.Ensure(context.Background(), pod, &v1.Container{Name: "c", Image: image, ImagePullPolicy: policy}, "", nil,
		func(_, reason, message string) { events = append(events, reason+": "+message) })
	return got, err, events
}

func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		image  string
		policy v1.PullPolicy
		pulls  int
		reason string
		event  string
	}{
		{"here:1", v1.PullIfNotPresent, 0, "", `Pulled: Container image "here:1" already present on machine`},
		{"here:1", "", 0, "", `Pulled: Container image "here:1" already present on machine`},
		{"here:1", v1.PullNever, 0, "", `Pulled: Container image "here:1" already present on machine`},
		{"here:1", v1.PullAlways, 1, "", `Successfully pulled image "here:1" in 0s (0s including waiting). Image size: 1000 bytes.`},
		{"here", "", 1, "", `Pulling: Pulling image "here"`},
		{"absent:1", v1.PullIfNotPresent, 1, "", `Pulling: Pulling image "absent:1"`},
		{"absent:1", v1.PullNever, 0, ErrImageNeverPull, `ErrImageNeverPull: Container image "absent:1" is not present with pull policy of Never`},
		{"UPPER:1", "", 0, ErrInvalidImageName, `InspectFailed: Failed to apply default image tag "UPPER:1"`},
	} {
		synctest.Test(t, func(t *testing.T) {
			rt := fake.New("docker.io/library/here:1")
			_, err, events := ensure(New(Config{Runtime: rt, Objects: secrets{}}), c.image, c.policy)
			var p *Problem
			errors.As(err, &p)
			if c.reason == "" && err != nil || c.reason != "" && (p == nil || p.Reason != c.reason) {
				t.Errorf("%s %s: %v", c.image, c.policy, err)
			}
			if n := len(rt.Calls()); n != c.pulls {
				t.Errorf("%s %s: %d pulls", c.image, c.policy, n)
			}
			if last := events[len(events)-1]; c.reason != "" && last != "Failed: Error: "+c.reason {
				t.Errorf("%s %s: last event %q does not name the reason", c.image, c.policy, last)
			}
			if !slices.ContainsFunc(events, func(e string) bool { return strings.Contains(e, c.event) }) {
				t.Errorf("%s %s: events %q, want %q", c.image, c.policy, events, c.event)
			}
		})
	}
}

// An image that is not there is not pulled while the node's own are still being imported: it may be one of them.
func TestNothingIsPulledBeforeImportsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New()
		preloaded := make(chan struct{})
		m := New(Config{Runtime: rt, Objects: secrets{}, Preloaded: preloaded})
		done := make(chan error, 1)
		go func() {
			_, err, _ := ensure(m, "absent:1", v1.PullIfNotPresent)
			done <- err
		}()
		synctest.Wait()
		if n := len(rt.Calls()); n != 0 {
			t.Errorf("%d pulls before the imports ended", n)
		}
		close(preloaded)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := len(rt.Calls()); n != 1 {
			t.Errorf("%d pulls after the imports ended, want 1", n)
		}
	})
}

func TestPullBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New()
		rt.Fail = func(string, string) error { return errors.New("no such registry") }
		m := New(Config{Runtime: rt, Objects: secrets{}, Log: slog.New(slog.DiscardHandler)})
		begun := time.Now()
		var tries []time.Duration
		for len(tries) < 7 {
			_, err, _ := ensure(m, "a:1", "")
			var p *Problem
			if !errors.As(err, &p) {
				t.Fatal(err)
			}
			switch p.Reason {
			case ErrImagePull:
				tries = append(tries, time.Since(begun))
			case ErrImagePullBackOff:
				if p.Message != `Back-off pulling image "a:1": ErrImagePull: no such registry` {
					t.Errorf("message %q", p.Message)
				}
			}
			time.Sleep(time.Until(p.Retry))
		}
		if want := []time.Duration{0, 10e9, 30e9, 70e9, 150e9, 310e9, 610e9}; !slices.Equal(tries, want) {
			t.Errorf("pulled at %v, want %v", tries, want)
		}
	})
}

func TestParallelLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New()
		rt.Latency = map[string]time.Duration{"PullImage": time.Minute}
		m := New(Config{Runtime: rt, Objects: secrets{}, Parallel: 2})
		begun := time.Now()
		done := make(chan struct{})
		for i := range 4 {
			go func() {
				ensure(m, fmt.Sprintf("a%d:1", i), "")
				done <- struct{}{}
			}()
		}
		for range 4 {
			<-done
		}
		if took := time.Since(begun); took != 2*time.Minute {
			t.Errorf("four pulls of a minute, two at once, took %s", took)
		}
	})
}

func TestSecrets(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("me:pass:word"))
	s := secrets{"good": `{"auths":{"https://reg.example/v2/":{"auth":"` + auth + `"},"other.example":{"username":"x"}}}`, "broken": "{"}
	rt := fake.New()
	_, err, events := ensure(New(Config{Runtime: rt, Objects: s, Log: slog.New(slog.DiscardHandler)}), "reg.example/a:1", "", "good", "broken", "missing")
	if err != nil || !slices.Equal(rt.Calls(), []string{"PullImage reg.example/a:1 as me"}) {
		t.Errorf("%v %v", err, rt.Calls())
	}
	if len(events) == 0 || !strings.HasPrefix(events[0], "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (missing)") {
		t.Errorf("%q", events)
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		entry, repository string
		want              bool
	}{
		{"https://index.docker.io/v1/", "docker.io/library/busybox", true},
		{"docker.io", "docker.io/library/busybox", true},
		{"*.example.com", "reg.example.com/a", true},
		{"*.example.com", "example.com/a", false},
		{"*.example.com", "a.b.example.com/a", false},
		{"reg.example.com/team", "reg.example.com/team/a", true},
		{"reg.example.com/team", "reg.example.com/other/a", false},
		{"reg.example.com:5000", "reg.example.com/a", false},
		{"reg.example.com:5000", "reg.example.com:5000/a", true},
		{"evil.com", "reg.example.com/a", false},
	} {
		if got := matches(c.entry, c.repository); got != c.want {
			t.Errorf("matches(%q, %q) = %v", c.entry, c.repository, got)
		}
	}
}

func FuzzParseSecret(f *testing.F) {
	f.Add([]byte(`{"auths":{"a":{"auth":"bWU6cHc="}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, key := range []string{v1.DockerConfigJsonKey, v1.DockerConfigKey} {
			entries, err := parseSecret(&v1.Secret{Data: map[string][]byte{key: b}})
			if err == nil {
				for host := range entries {
					matches(host, "docker.io/library/a")
				}
			}
		}
	})
}
