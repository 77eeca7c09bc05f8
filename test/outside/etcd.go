package outside

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Stored is one key of etcd.
type Stored struct {
	Key      string
	Value    []byte
	Revision int64 // of the last change
}

// Etcd reads every key with a prefix from the server's etcd itself. The cluster must be up with --server-arg=--listen-etcd.
func (c *Cluster) Etcd(prefix string) ([]Stored, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(c.RunDir(1), "etcd.sock")}, DialTimeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	defer client.Close()
	answer, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", prefix, err)
	}
	var out []Stored
	for _, kv := range answer.Kvs {
		out = append(out, Stored{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision})
	}
	return out, nil
}

// Pod takes a stored pod apart as upstream's API server would: envelope, type, message.
func (s Stored) Pod() (*corev1.Pod, error) {
	message, ok := bytes.CutPrefix(s.Value, []byte("k8s\x00"))
	if !ok {
		return nil, fmt.Errorf("value of %s begins %q, not with upstream's envelope", s.Key, s.Value[:min(8, len(s.Value))])
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(message); err != nil {
		return nil, fmt.Errorf("envelope of %s: %w", s.Key, err)
	}
	if unknown.APIVersion != "v1" || unknown.Kind != "Pod" || unknown.ContentType != "" || unknown.ContentEncoding != "" {
		return nil, fmt.Errorf("envelope of %s: %s %s, %q, %q", s.Key, unknown.APIVersion, unknown.Kind, unknown.ContentType, unknown.ContentEncoding)
	}
	pod := &corev1.Pod{}
	if err := pod.Unmarshal(unknown.Raw); err != nil {
		return nil, fmt.Errorf("message of %s: %w", s.Key, err)
	}
	return pod, nil
}
