package server

import (
	"encoding/json"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	if s.c.Healthy != nil {
		if err := s.c.Healthy(); err != nil {
			answer(w, http.StatusInternalServerError, "%v", err)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok"))
}

// pods is the node's pods as the kubelet knows them, statuses included.
func (s *server) pods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, p := range s.c.Backend.Pods() {
		list.Items = append(list.Items, *p)
	}
	s.json(w, &list)
}

// runningPods is what the runtime runs, which may be more or less than the API server says.
func (s *server) runningPods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	at := map[types.UID]int{}
	for _, i := range s.c.Backend.Instances() {
		if !i.Running {
			continue
		}
		n, ok := at[i.PodUID]
		if !ok {
			n = len(list.Items)
			at[i.PodUID] = n
			list.Items = append(list.Items, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: i.Pod, Namespace: i.Namespace, UID: i.PodUID}})
		}
		if i.Name != "" {
			list.Items[n].Spec.Containers = append(list.Items[n].Spec.Containers, corev1.Container{Name: i.Name, Image: i.Image})
		}
	}
	s.json(w, &list)
}

func (s *server) configz(w http.ResponseWriter, _ *http.Request) {
	s.json(w, map[string]any{"kubeletconfig": s.c.Configz})
}

func (s *server) json(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		answer(w, http.StatusInternalServerError, "encode answer: %v", err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
