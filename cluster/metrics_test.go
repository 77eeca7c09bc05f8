package cluster

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestStorageSize(t *testing.T) {
	if n := testutil.ToFloat64(storageSize{func(context.Context) (int64, error) { return 42, nil }}); n != 42 {
		t.Error(n)
	}
	if n := testutil.CollectAndCount(storageSize{func(context.Context) (int64, error) { return 0, errors.New("away") }}); n != 0 {
		t.Error("an etcd that is away has a size")
	}
}
