package volumes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// tokens asks for service account tokens bound to pods (TokenRequest) and keeps each until it is due for renewal: at
// 80% of its life, or after a day. Safe for concurrent use; bounded by the pods on the node.
type tokens struct {
	api kubernetes.Interface

	mu   sync.Mutex // guards held
	held map[types.UID]map[tokenKey]token
}

type tokenKey struct {
	account, audience string
	seconds           int64
}

type token struct {
	text  string
	until time.Time // to be renewed at
	end   time.Time // invalid from
}

func newTokens(api kubernetes.Interface) *tokens {
	return &tokens{api: api, held: map[types.UID]map[tokenKey]token{}}
}

// get returns a token and when it is due for renewal. When renewal fails and the old one is still good, the old one is
// returned, to be renewed soon.
func (t *tokens) get(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (token, error) {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	k := tokenKey{account, audience, seconds}
	now := time.Now()
	t.mu.Lock()
	old, ok := t.held[pod.UID][k]
	t.mu.Unlock()
	if ok && now.Before(old.until) {
		return old, nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	answer, err := t.api.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		if ok && now.Before(old.end) {
			old.until = now.Add(10 * time.Second)
			return old, nil
		}
		return token{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	end := answer.Status.ExpirationTimestamp.Time
	if answer.Spec.ExpirationSeconds != nil {
		seconds = *answer.Spec.ExpirationSeconds // the server may have granted another life
	}
	life := time.Duration(seconds) * time.Second
	if end.IsZero() {
		end = now.Add(life)
	}
	// Spread over up to 10 s, so that the tokens of pods that started together are not renewed together.
	spread := time.Duration(rand.Int64N(int64(min(10*time.Second, life/10)) + 1))
	until := end.Add(-life / 5).Add(-spread)
	if day := now.Add(24*time.Hour - spread); until.After(day) {
		until = day
	}
	fresh := token{text: answer.Status.Token, until: until, end: end}
	t.mu.Lock()
	if t.held[pod.UID] == nil {
		t.held[pod.UID] = map[tokenKey]token{}
	}
	t.held[pod.UID][k] = fresh
	t.mu.Unlock()
	return fresh, nil
}

func (t *tokens) forget(pod types.UID) {
	t.mu.Lock()
	delete(t.held, pod)
	t.mu.Unlock()
}

// token adds a service account token to the payload and says when it must be renewed. Pods which share one user get
// it readable by that user alone; with an fsGroup the group's permission is added when the file is given to it.
func (t contentTree) token(ctx context.Context, p payload, pod *corev1.Pod, src *corev1.ServiceAccountTokenProjection, defaultMode *int32) (time.Time, error) {
	seconds := int64(3600)
	if src.ExpirationSeconds != nil {
		seconds = *src.ExpirationSeconds
	}
	got, err := t.tokens.get(ctx, pod, src.Audience, seconds)
	if err != nil {
		return time.Time{}, err
	}
	f := file{data: []byte(got.text), mode: modeOf(nil, defaultMode)}
	user := onlyUser(pod)
	if user != nil || fsGroup(pod) != nil {
		f.mode = 0o600
	}
	f.user = user
	p[src.Path] = f
	return got.until, nil
}

// onlyUser is the user that every container of the pod runs as; nil if they differ or leave it to the image.
func onlyUser(pod *corev1.Pod) *int64 {
	var whole *int64
	if pod.Spec.SecurityContext != nil {
		whole = pod.Spec.SecurityContext.RunAsUser
	}
	var user *int64
	same := true
	see := func(c *corev1.SecurityContext) {
		u := whole
		if c != nil && c.RunAsUser != nil {
			u = c.RunAsUser
		}
		if u == nil || user != nil && *user != *u {
			same = false
			return
		}
		user = u
	}
	for i := range pod.Spec.InitContainers {
		see(pod.Spec.InitContainers[i].SecurityContext)
	}
	for i := range pod.Spec.Containers {
		see(pod.Spec.Containers[i].SecurityContext)
	}
	for i := range pod.Spec.EphemeralContainers {
		see(pod.Spec.EphemeralContainers[i].SecurityContext)
	}
	if !same {
		return nil
	}
	return user
}
