package node

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// status is what the node's status is to be now. It asks the runtime and the machine.
func (n *node) status(ctx context.Context, now time.Time) corev1.NodeStatus {
	ask, cancel := context.WithTimeout(ctx, 10*time.Second)
	info, err := n.c.Runtime.Status(ask)
	cancel()
	n.runtimeErr = err
	if err == nil {
		n.runtimeInfo = info
	}
	if n.c.Images != nil && now.Sub(n.imagesAt) >= imagesEvery && err == nil {
		if images, err := n.c.Images(ctx); err == nil {
			n.images, n.imagesAt = trimImages(images), now
		} else if ctx.Err() == nil {
			n.log.Warn("images on the node cannot be listed", "err", err)
		}
	}
	capacity, allocatable := n.resources()
	s := corev1.NodeStatus{
		Capacity: capacity, Allocatable: allocatable,
		Addresses:       n.addresses(),
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: n.c.Port}},
		NodeInfo: corev1.NodeSystemInfo{
			MachineID: n.facts.MachineID, SystemUUID: n.facts.SystemUUID, BootID: n.facts.BootID,
			KernelVersion: n.facts.Kernel, OSImage: n.facts.OSImage, KubeletVersion: n.c.Version,
			OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
		},
		Images:          n.images,
		RuntimeHandlers: n.runtimeInfo.Handlers,
		Features:        n.runtimeInfo.Features,
	}
	if n.facts.Swap > 0 {
		s.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: &n.facts.Swap}
	}
	if n.runtimeInfo.Name != "" {
		s.NodeInfo.ContainerRuntimeVersion = n.runtimeInfo.Name + "://" + n.runtimeInfo.Version
	}
	if n.c.VolumesInUse != nil {
		s.VolumesInUse = n.c.VolumesInUse()
	}
	load, err := n.c.Machine.Load()
	if err != nil {
		n.log.Warn("the machine's load cannot be read; pressure stays as it was", "err", err)
	}
	s.Conditions = n.conditions(load, err == nil, now)
	return s
}

// conditions are the four conditions a kubelet owns, in upstream's order and words.
func (n *node) conditions(load Load, known bool, now time.Time) []corev1.NodeCondition {
	if n.pressure == nil {
		n.pressure = map[corev1.NodeConditionType]time.Time{}
	}
	t := n.c.Eviction
	under := map[corev1.NodeConditionType]bool{
		corev1.NodeMemoryPressure: load.MemoryAvailable < t.MemoryAvailable.Of(load.Memory),
		corev1.NodeDiskPressure: load.NodeFSBytes > 0 && load.NodeFSAvailable < t.NodeFSAvailable.Of(load.NodeFSBytes) ||
			load.NodeFSInodes > 0 && load.NodeFSInodesFree < t.NodeFSInodesFree.Of(load.NodeFSInodes),
		corev1.NodePIDPressure: load.MaxPIDs > 0 && load.MaxPIDs-load.PIDs < t.PIDAvailable.Of(load.MaxPIDs),
	}
	var list []corev1.NodeCondition
	for _, p := range []struct {
		kind            corev1.NodeConditionType
		yes, no         string
		yesText, noText string
	}{
		{corev1.NodeMemoryPressure, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "kubelet has insufficient memory available", "kubelet has sufficient memory available"},
		{corev1.NodeDiskPressure, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "kubelet has disk pressure", "kubelet has no disk pressure"},
		{corev1.NodePIDPressure, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "kubelet has insufficient PID available", "kubelet has sufficient PID available"},
	} {
		if known && under[p.kind] {
			n.pressure[p.kind] = now
		}
		c := corev1.NodeCondition{Type: p.kind, Status: corev1.ConditionFalse, Reason: p.no, Message: p.noText}
		// Once seen it is reported for a while, so that the node does not flap.
		if since, ok := n.pressure[p.kind]; ok && now.Sub(since) < pressureStays {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, p.yes, p.yesText
		}
		list = append(list, c)
	}
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	var why []string
	switch {
	case n.runtimeErr != nil:
		why = append(why, "container runtime is down: "+n.runtimeErr.Error())
	default:
		if !n.runtimeInfo.Ready {
			why = append(why, "container runtime not ready: "+n.runtimeInfo.Message)
		}
		if !n.runtimeInfo.NetworkReady {
			why = append(why, "container runtime network not ready: "+n.runtimeInfo.NetworkMessage)
		}
	}
	if len(why) > 0 {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", strings.Join(why, ", ")
		if len(why) > 1 {
			ready.Message = "[" + ready.Message + "]"
		}
	}
	list = append(list, ready)
	for i := range list {
		list[i].LastHeartbeatTime = metav1.NewTime(now)
		list[i].LastTransitionTime = list[i].LastHeartbeatTime
		if n.known == nil {
			continue
		}
		for _, old := range n.known.Status.Conditions {
			if old.Type == list[i].Type && old.Status == list[i].Status {
				list[i].LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	return list
}

// resources are the node's capacity, and what is left of it for pods.
func (n *node) resources() (capacity, allocatable corev1.ResourceList) {
	f := &n.facts
	capacity = corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(f.CPUs, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(f.Memory, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(n.c.MaxPods, resource.DecimalSI),
	}
	if f.NodeFSBytes > 0 {
		capacity[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(f.NodeFSBytes, resource.BinarySI)
	}
	for size, bytes := range f.HugePages {
		capacity[corev1.ResourceName(corev1.ResourceHugePagesPrefix+resource.NewQuantity(size, resource.BinarySI).String())] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	if n.c.Extra != nil {
		more, _ := n.c.Extra()
		for name, q := range more {
			capacity[name] = q
		}
	}
	// Extended resources that an administrator has written into the status stay as they are.
	if n.known != nil {
		for name, q := range n.known.Status.Capacity {
			if _, ours := capacity[name]; !ours && strings.Contains(string(name), "/") {
				capacity[name] = q
			}
		}
	}
	allocatable = capacity.DeepCopy()
	take := func(name corev1.ResourceName, q resource.Quantity) {
		left, ok := allocatable[name]
		if !ok {
			return
		}
		left.Sub(q)
		if left.Sign() < 0 {
			left.Set(0)
		}
		allocatable[name] = left
	}
	for name, q := range n.c.Reserved {
		take(name, q)
	}
	take(corev1.ResourceMemory, *resource.NewQuantity(n.c.Eviction.MemoryAvailable.Of(f.Memory), resource.BinarySI))
	take(corev1.ResourceEphemeralStorage, *resource.NewQuantity(n.c.Eviction.NodeFSAvailable.Of(f.NodeFSBytes), resource.DecimalSI))
	for _, bytes := range f.HugePages {
		take(corev1.ResourceMemory, *resource.NewQuantity(bytes, resource.BinarySI)) // set aside by the kernel
	}
	if n.c.Extra != nil {
		_, more := n.c.Extra()
		for name, q := range more {
			allocatable[name] = q
		}
	}
	return capacity, allocatable
}

func (n *node) addresses() []corev1.NodeAddress {
	var list []corev1.NodeAddress
	for _, ip := range n.c.IPs {
		list = append(list, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	return append(list, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.c.Hostname})
}

// trimImages keeps the largest images, each with a few names, as upstream does to keep Node objects small.
func trimImages(images []corev1.ContainerImage) []corev1.ContainerImage {
	images = slices.Clone(images)
	slices.SortStableFunc(images, func(a, b corev1.ContainerImage) int {
		switch {
		case a.SizeBytes > b.SizeBytes:
			return -1
		case a.SizeBytes < b.SizeBytes:
			return 1
		}
		return strings.Compare(fmt.Sprint(a.Names), fmt.Sprint(b.Names))
	})
	images = images[:min(len(images), mostImages)]
	for i := range images {
		images[i].Names = images[i].Names[:min(len(images[i].Names), mostImageNames)]
	}
	return images
}

// differs says whether a status is news to the API server: in anything but heartbeat times.
func differs(have, want *corev1.NodeStatus) bool {
	a, b := *have, *want
	a.Conditions, b.Conditions = nil, nil
	a.VolumesAttached, b.VolumesAttached = nil, nil
	a.Phase, b.Phase = "", "" //nolint:staticcheck // deprecated, not ours
	if !apiequality.Semantic.DeepEqual(&a, &b) {
		return true
	}
	for _, w := range want.Conditions {
		i := slices.IndexFunc(have.Conditions, func(c corev1.NodeCondition) bool { return c.Type == w.Type })
		if i < 0 {
			return true
		}
		if h := have.Conditions[i]; h.Status != w.Status || h.Reason != w.Reason || h.Message != w.Message {
			return true
		}
	}
	return false
}
