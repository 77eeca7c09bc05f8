package bench

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/plane"
)

const (
	// putClients is how many clients put at once, each on a connection of its own.
	putClients = 64
	// putSize is that of a benchmark's pod as it is stored, in bytes.
	putSize = 2048
)

// rawPuts returns how many puts a second an etcd alone takes in from clients that share nothing.
func rawPuts(t *testing.T, count int) float64 {
	client, peer := "http://127.0.0.1:7379", "http://127.0.0.1:7380"
	etcd := plane.Start(t, "etcd", build.Need(t, "etcd"), "--data-dir", filepath.Join(plane.Dir(t), "etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--log-level", "warn")
	defer etcd.Stop()
	clients := make([]*clientv3.Client, putClients)
	for i := range clients {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{client}, DialTimeout: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients[i] = c
	}
	put := func(tag string, count int) float64 {
		next := make(chan int)
		var group sync.WaitGroup
		value := bytes.Repeat([]byte("0123456789abcdef"), putSize/16)
		began := time.Now()
		for _, c := range clients {
			group.Go(func() {
				for i := range next {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					if _, err := c.Put(ctx, fmt.Sprintf("/registry/pods/bench/%s-%d", tag, i), string(value)); err != nil {
						t.Errorf("put: %v", err)
					}
					cancel()
				}
			})
		}
		for i := range count {
			next <- i
		}
		close(next)
		group.Wait()
		return float64(count) / time.Since(began).Seconds()
	}
	put("warm", putClients*4)
	return put("put", count)
}
