package policy

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// parallel is how many writes are under way at once.
const parallel = 16

// Reconcile creates what the cluster lacks of p and adds to roles and bindings what they lack: rules, selectors,
// subjects, labels. It takes nothing away, and leaves alone what is annotated
// rbac.authorization.kubernetes.io/autoupdate: "false". A binding whose role is another one is deleted and made anew,
// since a role reference cannot change. Namespaces must exist. The identity of k must be allowed to escalate.
//
// One list per kind tells what there is, so a cluster that is up to date costs four reads.
func Reconcile(ctx context.Context, k kubernetes.Interface, p *Policy) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	api := k.RbacV1()
	have, err := current(ctx, k)
	if err != nil {
		return fmt.Errorf("reconcile default roles: %w", err)
	}
	// write retries what another server did at the same time.
	write := func(kind, name string, once func(first bool) error) {
		group.Go(func() error {
			err := once(true)
			for i := 0; i < 3 && (apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)) && ctx.Err() == nil; i++ {
				err = once(false)
			}
			if err != nil {
				return fmt.Errorf("reconcile %s %s: %w", kind, name, err)
			}
			return nil
		})
	}
	for i := range p.ClusterRoles {
		want := &p.ClusterRoles[i]
		if old := have.clusterRoles[want.Name]; old != nil && mergeClusterRole(old, want) == nil {
			continue
		}
		write("ClusterRole", want.Name, func(first bool) error {
			old := have.clusterRoles[want.Name]
			if !first {
				var err error
				if old, err = optional(api.ClusterRoles().Get(ctx, want.Name, metav1.GetOptions{})); err != nil {
					return err
				}
			}
			if old == nil {
				_, err := api.ClusterRoles().Create(ctx, want, metav1.CreateOptions{})
				return err
			}
			if merged := mergeClusterRole(old, want); merged != nil {
				_, err := api.ClusterRoles().Update(ctx, merged, metav1.UpdateOptions{})
				return err
			}
			return nil
		})
	}
	for i := range p.Roles {
		want := &p.Roles[i]
		if old := have.roles[want.Namespace+"/"+want.Name]; old != nil && mergeRole(old, want) == nil {
			continue
		}
		write("Role", want.Namespace+"/"+want.Name, func(first bool) error {
			old := have.roles[want.Namespace+"/"+want.Name]
			if !first {
				var err error
				if old, err = optional(api.Roles(want.Namespace).Get(ctx, want.Name, metav1.GetOptions{})); err != nil {
					return err
				}
			}
			if old == nil {
				_, err := api.Roles(want.Namespace).Create(ctx, want, metav1.CreateOptions{})
				return err
			}
			if merged := mergeRole(old, want); merged != nil {
				_, err := api.Roles(want.Namespace).Update(ctx, merged, metav1.UpdateOptions{})
				return err
			}
			return nil
		})
	}
	for i := range p.ClusterRoleBindings {
		want := &p.ClusterRoleBindings[i]
		if old := have.clusterRoleBindings[want.Name]; old != nil && mergeClusterRoleBinding(old, want) == nil {
			continue
		}
		write("ClusterRoleBinding", want.Name, func(first bool) error {
			old := have.clusterRoleBindings[want.Name]
			if !first {
				var err error
				if old, err = optional(api.ClusterRoleBindings().Get(ctx, want.Name, metav1.GetOptions{})); err != nil {
					return err
				}
			}
			if old != nil && old.RoleRef != want.RoleRef && !protected(old.Annotations) {
				if err := api.ClusterRoleBindings().Delete(ctx, old.Name, deleteExactly(&old.ObjectMeta)); err != nil && !apierrors.IsNotFound(err) {
					return err
				}
				kept := want.DeepCopy()
				kept.Subjects = addSubjects(old.Subjects, want.Subjects)
				_, err := api.ClusterRoleBindings().Create(ctx, kept, metav1.CreateOptions{})
				return err
			}
			if old == nil {
				_, err := api.ClusterRoleBindings().Create(ctx, want, metav1.CreateOptions{})
				return err
			}
			if merged := mergeClusterRoleBinding(old, want); merged != nil {
				_, err := api.ClusterRoleBindings().Update(ctx, merged, metav1.UpdateOptions{})
				return err
			}
			return nil
		})
	}
	for i := range p.RoleBindings {
		want := &p.RoleBindings[i]
		if old := have.roleBindings[want.Namespace+"/"+want.Name]; old != nil && mergeRoleBinding(old, want) == nil {
			continue
		}
		write("RoleBinding", want.Namespace+"/"+want.Name, func(first bool) error {
			old := have.roleBindings[want.Namespace+"/"+want.Name]
			bindings := api.RoleBindings(want.Namespace)
			if !first {
				var err error
				if old, err = optional(bindings.Get(ctx, want.Name, metav1.GetOptions{})); err != nil {
					return err
				}
			}
			if old != nil && old.RoleRef != want.RoleRef && !protected(old.Annotations) {
				if err := bindings.Delete(ctx, old.Name, deleteExactly(&old.ObjectMeta)); err != nil && !apierrors.IsNotFound(err) {
					return err
				}
				kept := want.DeepCopy()
				kept.Subjects = addSubjects(old.Subjects, want.Subjects)
				_, err := bindings.Create(ctx, kept, metav1.CreateOptions{})
				return err
			}
			if old == nil {
				_, err := bindings.Create(ctx, want, metav1.CreateOptions{})
				return err
			}
			if merged := mergeRoleBinding(old, want); merged != nil {
				_, err := bindings.Update(ctx, merged, metav1.UpdateOptions{})
				return err
			}
			return nil
		})
	}
	return group.Wait()
}

// existing is what the cluster has, by name or namespace/name.
type existing struct {
	clusterRoles        map[string]*rbacv1.ClusterRole
	roles               map[string]*rbacv1.Role
	clusterRoleBindings map[string]*rbacv1.ClusterRoleBinding
	roleBindings        map[string]*rbacv1.RoleBinding
}

func current(ctx context.Context, k kubernetes.Interface) (*existing, error) {
	e := &existing{map[string]*rbacv1.ClusterRole{}, map[string]*rbacv1.Role{}, map[string]*rbacv1.ClusterRoleBinding{}, map[string]*rbacv1.RoleBinding{}}
	api := k.RbacV1()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		list, err := api.ClusterRoles().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			e.clusterRoles[list.Items[i].Name] = &list.Items[i]
		}
		return nil
	})
	group.Go(func() error {
		list, err := api.Roles("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			e.roles[list.Items[i].Namespace+"/"+list.Items[i].Name] = &list.Items[i]
		}
		return nil
	})
	group.Go(func() error {
		list, err := api.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			e.clusterRoleBindings[list.Items[i].Name] = &list.Items[i]
		}
		return nil
	})
	group.Go(func() error {
		list, err := api.RoleBindings("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			e.roleBindings[list.Items[i].Namespace+"/"+list.Items[i].Name] = &list.Items[i]
		}
		return nil
	})
	return e, group.Wait()
}

// optional turns "not found" into nil.
func optional[T any](object *T, err error) (*T, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return object, err
}

func deleteExactly(meta *metav1.ObjectMeta) metav1.DeleteOptions {
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &meta.UID}}
}

func protected(annotations map[string]string) bool {
	return annotations[rbacv1.AutoUpdateAnnotationKey] == "false"
}

// The merge functions return the object that old must become, or nil when it may stay as it is.

func mergeClusterRole(old, want *rbacv1.ClusterRole) *rbacv1.ClusterRole {
	if protected(old.Annotations) {
		return nil
	}
	merged := old.DeepCopy()
	changed := mergeMeta(&merged.ObjectMeta, &want.ObjectMeta)
	if want.AggregationRule == nil { // the rules of an aggregated role are the aggregation controller's
		if _, missing := validation.Covers(old.Rules, want.Rules); len(missing) > 0 {
			merged.Rules = append(merged.Rules, missing...)
			changed = true
		}
	}
	switch {
	case want.AggregationRule == nil && old.AggregationRule != nil:
		merged.AggregationRule = nil
		changed = true
	case want.AggregationRule != nil:
		if merged.AggregationRule == nil {
			merged.AggregationRule = &rbacv1.AggregationRule{}
		}
		for _, selector := range want.AggregationRule.ClusterRoleSelectors {
			if !slices.ContainsFunc(merged.AggregationRule.ClusterRoleSelectors, func(have metav1.LabelSelector) bool {
				return equality.Semantic.DeepEqual(have, selector)
			}) {
				merged.AggregationRule.ClusterRoleSelectors = append(merged.AggregationRule.ClusterRoleSelectors, selector)
				changed = true
			}
		}
	}
	if !changed {
		return nil
	}
	return merged
}

func mergeRole(old, want *rbacv1.Role) *rbacv1.Role {
	if protected(old.Annotations) {
		return nil
	}
	merged := old.DeepCopy()
	changed := mergeMeta(&merged.ObjectMeta, &want.ObjectMeta)
	if _, missing := validation.Covers(old.Rules, want.Rules); len(missing) > 0 {
		merged.Rules = append(merged.Rules, missing...)
		changed = true
	}
	if !changed {
		return nil
	}
	return merged
}

// mergeClusterRoleBinding returns an object also when the role differs; the caller then makes the binding anew.
func mergeClusterRoleBinding(old, want *rbacv1.ClusterRoleBinding) *rbacv1.ClusterRoleBinding {
	if protected(old.Annotations) {
		return nil
	}
	merged := old.DeepCopy()
	merged.Subjects = addSubjects(old.Subjects, want.Subjects)
	if !mergeMeta(&merged.ObjectMeta, &want.ObjectMeta) && len(merged.Subjects) == len(old.Subjects) && old.RoleRef == want.RoleRef {
		return nil
	}
	return merged
}

func mergeRoleBinding(old, want *rbacv1.RoleBinding) *rbacv1.RoleBinding {
	if protected(old.Annotations) {
		return nil
	}
	merged := old.DeepCopy()
	merged.Subjects = addSubjects(old.Subjects, want.Subjects)
	if !mergeMeta(&merged.ObjectMeta, &want.ObjectMeta) && len(merged.Subjects) == len(old.Subjects) && old.RoleRef == want.RoleRef {
		return nil
	}
	return merged
}

// mergeMeta adds wanted labels and annotations that are missing; values that somebody changed stay.
func mergeMeta(merged, want *metav1.ObjectMeta) (changed bool) {
	add := func(have, want map[string]string) map[string]string {
		for key, value := range want {
			if _, ok := have[key]; !ok {
				have = maps.Clone(have)
				if have == nil {
					have = map[string]string{}
				}
				have[key] = value
				changed = true
			}
		}
		return have
	}
	merged.Labels = add(merged.Labels, want.Labels)
	merged.Annotations = add(merged.Annotations, want.Annotations)
	return changed
}

func addSubjects(have, want []rbacv1.Subject) []rbacv1.Subject {
	out := slices.Clone(have)
	for _, subject := range want {
		if !slices.Contains(out, subject) {
			out = append(out, subject)
		}
	}
	return out
}
