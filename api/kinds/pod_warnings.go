package kinds

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
)

func podWarnings(context.Context, runtime.Object, runtime.Object) []string { return nil }
