package store

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// The names that upstream's metrics give to requests to etcd.
const (
	requestGet    = "get"
	requestList   = "list"
	requestCreate = "create"
	requestUpdate = "update"
	requestDelete = "delete"
)

// get reads from etcd, as request says.
func (r *resource) get(ctx context.Context, request, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	began := time.Now()
	resp, err := r.s.kv.Get(ctx, key, opts...)
	r.observe(request, began, err)
	return resp, err
}

// observe tells how a request to etcd went.
func (r *resource) observe(request string, began time.Time, err error) {
	if f := r.s.c.Observe; f != nil {
		f(r.c.GroupResource, request, time.Since(began), err)
	}
}
