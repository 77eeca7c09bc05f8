package admission

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apiserver/pkg/admission"
)

const (
	defaultServiceAccount     = "default"
	defaultServiceAccountWait = 2 * time.Second
	// tokenMountPath is where client libraries look for the token, the authority and the namespace.
	tokenMountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenVolumePrefix is followed by five random letters.
	tokenVolumePrefix = "kube-api-access-"
	rootCAConfigMap   = "kube-root-ca.crt"
	// tokenSeconds is the age at which client libraries that never reload their token are noticed (see authn's Issuer).
	tokenSeconds                = 60*60 + 7
	enforceMountableAnnotation  = "kubernetes.io/enforce-mountable-secrets"
	projectedVolumeMode         = int32(0o644)
	namespaceFieldPath          = "metadata.namespace"
	serviceAccountNotFoundShape = "error looking up service account %s/%s: %w"
)

// serviceAccount gives pods their account, its pull secrets, and a volume with a token (KEP-1205, KEP-2799).
type serviceAccount struct{ cluster *cluster }

func (*serviceAccount) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update)
}

// Admit implements admission.MutationInterface.
func (p *serviceAccount) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := podOf(a, "")
	if !ok || a.GetOperation() != admission.Create {
		return nil
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return p.validateCreate(ctx, a, pod)
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if automount(account, pod) {
		mountToken(pod, tokenVolumePrefix+utilrand.String(5))
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (p *serviceAccount) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if pod, ok := podOf(a, ""); ok && a.GetOperation() == admission.Create {
		return p.validateCreate(ctx, a, pod)
	}
	if pod, ok := podOf(a, "ephemeralcontainers"); ok && a.GetOperation() == admission.Update {
		account, err := p.account(ctx, a, pod)
		if err != nil {
			return err
		}
		if enforcesMountable(account) {
			for i := range pod.Spec.EphemeralContainers {
				c := &pod.Spec.EphemeralContainers[i]
				if err := mountableEnv(account, "ephemeral container", c.Name, c.Env, c.EnvFrom); err != nil {
					return admission.NewForbidden(a, err)
				}
			}
		}
	}
	return nil
}

func (p *serviceAccount) account(ctx context.Context, a admission.Attributes, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	account, err := p.cluster.serviceAccount(ctx, a.GetNamespace(), pod.Spec.ServiceAccountName)
	if apierrors.IsServiceUnavailable(err) {
		return nil, err
	}
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(corev1.Resource("serviceaccount"), pod.Spec.ServiceAccountName)
	}
	if err != nil {
		return nil, admission.NewForbidden(a, fmt.Errorf(serviceAccountNotFoundShape, a.GetNamespace(), pod.Spec.ServiceAccountName, err))
	}
	return account, nil
}

func (p *serviceAccount) validateCreate(ctx context.Context, a admission.Attributes, pod *corev1.Pod) error {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		if pod.Spec.ServiceAccountName != "" {
			return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not reference service accounts"))
		}
		if len(secretNames(pod)) > 0 {
			return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not reference secrets"))
		}
		for i := range pod.Spec.Volumes {
			if projected := pod.Spec.Volumes[i].Projected; projected != nil {
				for j := range projected.Sources {
					if projected.Sources[j].ServiceAccountToken != nil {
						return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not use ServiceAccountToken volume projections"))
					}
				}
			}
		}
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		return admission.NewForbidden(a, fmt.Errorf("no service account specified for pod %s/%s", a.GetNamespace(), pod.Name))
	}
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if enforcesMountable(account) {
		if err := mountable(account, pod); err != nil {
			return admission.NewForbidden(a, err)
		}
	}
	return nil
}

// podOf returns the pod of a request for pods with that subresource.
func podOf(a admission.Attributes, subresource string) (*corev1.Pod, bool) {
	if a.GetResource().Resource != "pods" || a.GetResource().Group != "" || a.GetSubresource() != subresource {
		return nil, false
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	return pod, ok
}

// automount: the pod's wish counts before the account's; without either it is yes.
func automount(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

// mountToken mounts a token volume called name into each container that has nothing at its place yet. A pod that brings
// such a volume keeps it.
func mountToken(pod *corev1.Pod, name string) {
	has := false
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Projected != nil && strings.HasPrefix(v.Name, tokenVolumePrefix) {
			name, has = v.Name, true
			break
		}
	}
	mounted := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
			mounted = true
		}
	}
	if has || !mounted {
		return
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: new(projectedVolumeMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: new(int64(tokenSeconds))}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: namespaceFieldPath}},
			}}},
		},
	}}})
}

// enforcesMountable: the annotation limits pods of the account to the secrets it lists.
func enforcesMountable(account *corev1.ServiceAccount) bool {
	enforced, _ := strconv.ParseBool(account.Annotations[enforceMountableAnnotation])
	return enforced
}

func mountable(account *corev1.ServiceAccount, pod *corev1.Pod) error {
	for i := range pod.Spec.Volumes {
		if secret := pod.Spec.Volumes[i].Secret; secret != nil && !lists(account, secret.SecretName) {
			return fmt.Errorf("volume with secret.secretName=\"%s\" is not allowed because service account %s does not reference that secret", secret.SecretName, account.Name)
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if err := mountableEnv(account, "init container", c.Name, c.Env, c.EnvFrom); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if err := mountableEnv(account, "container", c.Name, c.Env, c.EnvFrom); err != nil {
			return err
		}
	}
	for i, ref := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, ref) {
			return fmt.Errorf(`imagePullSecrets[%d].name="%s" is not allowed because service account %s does not reference that imagePullSecret`, i, ref.Name, account.Name)
		}
	}
	return nil
}

func mountableEnv(account *corev1.ServiceAccount, kind, name string, env []corev1.EnvVar, from []corev1.EnvFromSource) error {
	for i := range env {
		if source := env[i].ValueFrom; source != nil && source.SecretKeyRef != nil && !lists(account, source.SecretKeyRef.Name) {
			return fmt.Errorf("%s %s with envVar %s referencing secret.secretName=\"%s\" is not allowed because service account %s does not reference that secret",
				kind, name, env[i].Name, source.SecretKeyRef.Name, account.Name)
		}
	}
	for i := range from {
		if ref := from[i].SecretRef; ref != nil && !lists(account, ref.Name) {
			return fmt.Errorf("%s %s with envFrom referencing secret.secretName=\"%s\" is not allowed because service account %s does not reference that secret",
				kind, name, ref.Name, account.Name)
		}
	}
	return nil
}

func lists(account *corev1.ServiceAccount, secret string) bool {
	return slices.ContainsFunc(account.Secrets, func(ref corev1.ObjectReference) bool { return ref.Name == secret })
}
