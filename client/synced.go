package client

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/client-go/tools/cache"
)

// ErrStopped is why nothing is added to an informer that has stopped: the process is ending.
var ErrStopped = errors.New("the informer has stopped")

// Handlers are the event handlers of one controller, removed again together.
type Handlers struct {
	remove []func()
	synced []cache.DoneChecker
}

// Refused is why an informer took no handler or index: ErrStopped where it has stopped, of which client-go says the same with a page of text, else err.
func Refused(informer cache.SharedIndexInformer, err error) error {
	if err != nil && informer.IsStopped() {
		return ErrStopped
	}
	return err
}

// On adds a handler to an informer. One that has stopped is ErrStopped.
func (h *Handlers) On(informer cache.SharedIndexInformer, handler cache.ResourceEventHandler) error {
	registration, err := informer.AddEventHandler(handler)
	if err != nil {
		return fmt.Errorf("add event handler: %w", Refused(informer, err))
	}
	h.remove = append(h.remove, func() { _ = informer.RemoveEventHandler(registration) })
	h.synced = append(h.synced, registration.HasSyncedChecker())
	return nil
}

// Sync starts the informers that do not run yet and waits until each handler has seen all that was there; false when ctx ended first.
func (h *Handlers) Sync(ctx context.Context, s *Set) bool {
	s.Informers.Start(ctx.Done())
	return cache.WaitFor(ctx, "", h.synced...) // which is told, where cache.WaitForCacheSync asks every 100 ms
}

// Remove takes the handlers away.
func (h *Handlers) Remove() {
	for _, remove := range h.remove {
		remove()
	}
}

// Each makes a handler that calls f with the object of every event, its last known state when it was deleted.
func Each[T any](f func(T)) cache.ResourceEventHandler {
	call := func(obj any) {
		if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = unknown.Obj
		}
		if t, ok := obj.(T); ok {
			f(t)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: call, UpdateFunc: func(_, obj any) { call(obj) }, DeleteFunc: call}
}
