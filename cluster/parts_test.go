package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// TestPartsThatWereBeginning: a part that is started while the process ends has nothing to warn of, another error is warned of.
func TestPartsThatWereBeginning(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	informer := cache.NewSharedIndexInformer(&cache.ListWatch{}, &corev1.Pod{}, 0, nil)
	informer.RunWithContext(ended)
	var said bytes.Buffer
	p := newParts(ended, slog.New(slog.NewTextHandler(&said, nil)))
	p.run("late", func(context.Context) error {
		var handlers client.Handlers
		if err := handlers.On(informer, cache.ResourceEventHandlerFuncs{}); err == nil || !errors.Is(err, client.ErrStopped) {
			t.Errorf("an informer that has stopped takes a handler: %v", err)
		} else {
			return fmt.Errorf("watch pods: %w", err)
		}
		return nil
	})
	if err := p.stop(); err != nil || said.Len() > 0 {
		t.Error(err, said.String())
	}
	p = newParts(ended, slog.New(slog.NewTextHandler(&said, nil)))
	p.run("broken", func(context.Context) error { return errors.New("broken") })
	if err := p.stop(); err != nil || !strings.Contains(said.String(), "broken") {
		t.Error(err, said.String())
	}
}
