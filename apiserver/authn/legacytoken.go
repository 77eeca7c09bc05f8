package authn

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Labels of Secrets that hold a service account's token (KEP-2799). The token cleaner of the controller manager marks a token as invalid when nobody has
// used it for a year, as far as the dates tell, and deletes it a year later.
const (
	lastUsedLabel     = "kubernetes.io/legacy-token-last-used"
	invalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
	dateFormat        = time.DateOnly // the label's value, in UTC
)

// checkMarked refuses a token that was marked as invalid.
func checkMarked(secret *corev1.Secret, account string) error {
	if secret.Labels[invalidSinceLabel] == "" {
		return nil
	}
	return fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, "+
		"or remove the '%s' label from the secret to temporarily allow use of this token", secret.Namespace, secret.Name, secret.Namespace, account, invalidSinceLabel)
}

// markUsed writes down the day on which a token is used, once a day. That it cannot be written is no reason to refuse the token: the next use tries again.
func (l *Lookup) markUsed(ctx context.Context, secret *corev1.Secret, now time.Time) {
	today := now.UTC().Format(dateFormat)
	s := l.sources.Load()
	if secret.Labels[lastUsedLabel] == today || s == nil {
		return
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": secret.UID, "labels": map[string]string{lastUsedLabel: today}}})
	if err != nil {
		return
	}
	_, _ = s.live.CoreV1().Secrets(secret.Namespace).Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
}
