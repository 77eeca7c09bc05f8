package runtime

import (
	"context"
	"fmt"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pods lists everything the runtime has that a kubelet made, by pod UID, without addresses, exit codes and
// other details: states only (two calls, however many pods there are). uid narrows it to one pod unless empty.
func (c *Client) Pods(ctx context.Context, uid string) (map[string]*Pod, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	var labels map[string]string
	if uid != "" {
		labels = map[string]string{LabelPodUID: uid}
	}
	// Containers first: a container whose sandbox is made in between would look like an orphan the other way round.
	containers, err := c.runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	sandboxes, err := c.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	pods := map[string]*Pod{}
	pod := func(uid, name, namespace string) *Pod {
		p := pods[uid]
		if p == nil {
			p = &Pod{UID: uid, Name: name, Namespace: namespace}
			pods[uid] = p
		}
		return p
	}
	for _, s := range sandboxes.GetItems() {
		if s.GetLabels()[LabelPodUID] == "" {
			continue // not made by a kubelet: not ours to touch
		}
		b := sandboxOfList(s)
		p := pod(b.PodUID, b.Name, b.Namespace)
		p.Sandboxes = append(p.Sandboxes, b)
	}
	for _, s := range containers.GetContainers() {
		l := s.GetLabels()
		if l[LabelPodUID] == "" {
			continue
		}
		p := pod(l[LabelPodUID], l[LabelPodName], l[LabelPodNamespace])
		p.Containers = append(p.Containers, containerOfList(s))
	}
	for _, p := range pods {
		p.Sort()
	}
	return pods, nil
}

// Pod reads everything the runtime has of one pod, in full detail. A pod it does not know is an empty Pod and no error.
func (c *Client) Pod(ctx context.Context, uid string) (Pod, error) {
	pods, err := c.Pods(ctx, uid)
	if err != nil {
		return Pod{}, err
	}
	p := pods[uid]
	if p == nil {
		return Pod{UID: uid}, nil
	}
	return *p, c.fill(ctx, p)
}

// fill reads the details of what a list named. Things which have gone meanwhile are left out.
func (c *Client) fill(ctx context.Context, p *Pod) error {
	sandboxes := p.Sandboxes[:0]
	for _, b := range p.Sandboxes {
		full, err := c.SandboxStatus(ctx, b.ID)
		if IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		sandboxes = append(sandboxes, full)
	}
	p.Sandboxes = sandboxes
	containers := p.Containers[:0]
	for _, x := range p.Containers {
		full, err := c.ContainerStatus(ctx, x.ID)
		if IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		full.SandboxID = x.SandboxID
		containers = append(containers, full)
	}
	p.Containers = containers
	p.Sort()
	return nil
}
