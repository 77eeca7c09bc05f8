package podworker

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func cpu(request, limit string) v1.ResourceRequirements {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(request)}}
	if limit != "" {
		r.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse(limit)}
	}
	return r
}

func sized(name string, c ...v1.Container) *v1.Pod {
	return named(name, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Generation: 1}, Spec: v1.PodSpec{NodeName: "n", RestartPolicy: v1.RestartPolicyAlways, Containers: c}})
}

// resizeOf is the pod's condition of a type; nil if there is none.
func resizeOf(p *v1.Pod, t v1.PodConditionType) *v1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// A running container gets limits that it did not have; one that must be restarted for it is, and what it is made with then is what it asks for.
func TestResize(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.add(sized("p", v1.Container{Name: "live", Image: "i", Resources: cpu("100m", "")},
			v1.Container{Name: "again", Image: "i", Resources: cpu("100m", ""), ResizePolicy: []v1.ContainerResizePolicy{{ResourceName: v1.ResourceCPU, RestartPolicy: v1.RestartContainer}}}))
		after(time.Second)
		before := f.get("p").Status.ContainerStatuses
		f.change("p", func(p *v1.Pod) {
			p.Generation = 2
			p.Spec.Containers[0].Resources, p.Spec.Containers[1].Resources = cpu("200m", "300m"), cpu("50m", "100m")
		})
		after(time.Minute)
		p := f.get("p")
		if p.Status.ObservedGeneration != 2 || resizeOf(p, v1.PodResizeInProgress) != nil || resizeOf(p, v1.PodResizePending) != nil {
			t.Errorf("status %+v", p.Status)
		}
		for i, want := range []v1.ResourceRequirements{cpu("200m", "300m"), cpu("50m", "100m")} {
			s := p.Status.ContainerStatuses[i]
			if s.Resources == nil || !sameResources(*s.Resources, want) || s.AllocatedResources.Cpu().Cmp(*want.Requests.Cpu()) != 0 {
				t.Errorf("%s: resources %v, allocated %v", s.Name, s.Resources, s.AllocatedResources)
			}
			if restarted := s.ContainerID != before[i].ContainerID; restarted != (s.Name == "again") || int(s.RestartCount) != i {
				t.Errorf("%s: restarted %v, %d times", s.Name, restarted, s.RestartCount)
			}
		}
		if calls := f.rt.Calls(); !slices.Contains(calls, "UpdateResources live 204 30000 0") || slices.ContainsFunc(calls, func(c string) bool { return strings.HasPrefix(c, "UpdateResources again") }) {
			t.Errorf("the runtime was asked %q", calls)
		}
	})
}

// What the node can never give is refused, what it cannot give now is put off until another pod has gone; meanwhile the containers keep what they have.
func TestResizeNeedsRoom(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.node = &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourcePods: resource.MustParse("10")}}}
		f.add(sized("other", v1.Container{Name: "c", Image: "i", Resources: cpu("1", "")}))
		f.add(sized("p", v1.Container{Name: "c", Image: "i", Resources: cpu("500m", "")}))
		after(time.Second)
		ask := func(amount string) {
			f.change("p", func(p *v1.Pod) {
				p.Generation++
				p.Spec.Containers[0].Resources = cpu(amount, "")
			})
			after(time.Second)
		}
		for _, c := range []struct{ amount, reason string }{{"3", v1.PodReasonInfeasible}, {"1500m", v1.PodReasonDeferred}} {
			ask(c.amount)
			p := f.get("p")
			pending := resizeOf(p, v1.PodResizePending)
			if pending == nil || pending.Reason != c.reason || pending.Status != v1.ConditionTrue || resizeOf(p, v1.PodResizeInProgress) != nil {
				t.Errorf("%s: %+v", c.amount, p.Status.Conditions)
			}
			if s := p.Status.ContainerStatuses[0]; s.AllocatedResources.Cpu().String() != "500m" || s.Resources.Requests.Cpu().String() != "500m" {
				t.Errorf("%s: %v of %v", c.amount, s.Resources, s.AllocatedResources)
			}
		}
		if !f.saw("p ResizeInfeasible: Pod resize Infeasible: {\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":{\"cpu\":\"3\"}}}],\"generation\":2,\"error\":\"Node didn't have enough capacity: cpu") ||
			!f.saw("p ResizeDeferred: Pod resize Deferred: ") {
			t.Errorf("events %q", f.events)
		}
		f.delete("other", 0)
		after(time.Second) // at once, not when somebody happens to look
		p := f.get("p")
		if s := p.Status.ContainerStatuses[0]; resizeOf(p, v1.PodResizePending) != nil || s.AllocatedResources.Cpu().String() != "1500m" {
			t.Errorf("with room: %v, %+v", s.AllocatedResources, p.Status.Conditions)
		}
		if !f.saw("p ResizeStarted: Pod resize started: ") || !f.saw("p ResizeCompleted: Pod resize completed: ") {
			t.Errorf("events %q", f.events)
		}
	})
}

// A kubelet that comes back goes on with a change that its predecessor had not granted: the containers have what they had.
func TestResizeOutlivesTheKubelet(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.node = &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourcePods: resource.MustParse("10")}}}
		f.add(sized("p", v1.Container{Name: "c", Image: "i", Resources: cpu("500m", "")}))
		after(time.Second)
		f.change("p", func(p *v1.Pod) { p.Generation++; p.Spec.Containers[0].Resources = cpu("3", "") })
		after(time.Second)
		f.stop()
		f.start()
		after(time.Second)
		p := f.get("p")
		if pending := resizeOf(p, v1.PodResizePending); pending == nil || pending.Reason != v1.PodReasonInfeasible {
			t.Errorf("conditions %+v", p.Status.Conditions)
		}
		if s := p.Status.ContainerStatuses[0]; s.AllocatedResources.Cpu().String() != "500m" {
			t.Errorf("allocated %v", s.AllocatedResources)
		}
		f.change("p", func(p *v1.Pod) { p.Generation++; p.Spec.Containers[0].Resources = cpu("1", "") })
		after(time.Second)
		if s := f.get("p").Status.ContainerStatuses[0]; s.AllocatedResources.Cpu().String() != "1" || s.Resources.Requests.Cpu().String() != "1" {
			t.Errorf("after a change that fits: %v of %v", s.Resources, s.AllocatedResources)
		}
	})
}

// A container that is stopped to be made anew is, even if it ends well and its pod's containers are restarted only when they fail; one that ended by itself is not.
func TestResizeRestartsOnFailure(t *testing.T) {
	bubble(t, func(f *fixture) {
		again := v1.Container{Name: "again", Image: "i", Resources: cpu("100m", ""), ResizePolicy: []v1.ContainerResizePolicy{{ResourceName: v1.ResourceCPU, RestartPolicy: v1.RestartContainer}}}
		done := again
		done.Name = "done"
		p := sized("p", again, done)
		p.Spec.RestartPolicy = v1.RestartPolicyOnFailure
		f.add(p)
		after(time.Second)
		f.rt.Exit(string(f.get("p").UID), "done", 0)
		after(time.Second)
		f.change("p", func(p *v1.Pod) {
			p.Generation = 2
			p.Spec.Containers[0].Resources, p.Spec.Containers[1].Resources = cpu("200m", ""), cpu("200m", "")
		})
		after(time.Minute)
		p = f.get("p")
		if s := p.Status.ContainerStatuses[0]; s.State.Running == nil || s.RestartCount != 1 || !sameResources(*s.Resources, cpu("200m", "")) {
			t.Errorf("%+v", s)
		}
		if s := p.Status.ContainerStatuses[1]; s.State.Terminated == nil || s.RestartCount != 0 {
			t.Errorf("%+v", s)
		}
		if !f.saw("p ResizeCompleted: ") {
			t.Errorf("events %q", f.events)
		}
	})
}

// What the runtime refuses is told once, however often it is tried.
func TestResizeErrorIsTold(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.add(sized("p", v1.Container{Name: "c", Image: "i", Resources: cpu("100m", "")}))
		after(time.Second)
		var refusing atomic.Bool
		refusing.Store(true)
		f.rt.Fail = func(call, _ string) error {
			if call == "UpdateResources" && refusing.Load() {
				return errors.New("no such control")
			}
			return nil
		}
		f.change("p", func(p *v1.Pod) { p.Generation = 2; p.Spec.Containers[0].Resources = cpu("200m", "") })
		after(10 * time.Minute)
		told := 0
		for _, e := range f.events {
			if strings.HasPrefix(e, "p ResizeError: Pod resize error: ") && strings.Contains(e, "no such control") {
				told++
			}
		}
		if told != 1 || f.saw("p ResizeCompleted") {
			t.Errorf("events %q", f.events)
		}
		refusing.Store(false)
		after(2 * retryResize)
		if !f.saw("p ResizeCompleted: ") {
			t.Errorf("events %q", f.events)
		}
	})
}
