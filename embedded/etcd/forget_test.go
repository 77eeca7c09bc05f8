package etcd

import (
	"fmt"
	"testing"
)

// The database is read, written, rewritten and closed as before while it is unmapped again and again.
func TestForgetPages(t *testing.T) {
	e, err := Start(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			e.ForgetPages()
		}
	}()
	for i := range 100 {
		if _, err := e.Client().Put(t.Context(), fmt.Sprint("/a/", i), "value"); err != nil {
			t.Fatal(err)
		}
		if i == 50 {
			if err := e.server.Backend().Defrag(); err != nil {
				t.Fatal(err)
			}
		}
	}
	<-done
	e.ForgetPages()
	r, err := e.Client().Get(t.Context(), "/a/99")
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "value" {
		t.Errorf("read %v, %v", r, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e.ForgetPages()
}
