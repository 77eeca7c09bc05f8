// Command sample is the sample app: a web server that says which pod answers. It shows what a pod behind a Service looks
// like, stops the moment it is told to (so that nothing but the order of deletion keeps requests from being lost),
// and serves as the tests' and the bench tool's workload.
//
// Environment: PORT (8080), MESSAGE (hello), START_DELAY and STOP_DELAY (durations), READY_FILE (ready once it exists).
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "get" { // a client for exec probes and tests: sample get URL
		os.Exit(get(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "load" {
		os.Exit(load(os.Args[2:]))
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "sample:", err)
		os.Exit(1)
	}
}

func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := sleep(ctx, os.Getenv("START_DELAY")); err != nil {
		return err
	}
	host, _ := os.Hostname()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s from %s\n", env("MESSAGE", "hello"), host)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if file := os.Getenv("READY_FILE"); file != "" {
			if _, err := os.Stat(file); err != nil {
				http.Error(w, "not ready", http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{Addr: ":" + env("PORT", "8080"), Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	fmt.Println("serving on", server.Addr, "as", host)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	fmt.Println("told to stop")
	_ = sleep(context.Background(), os.Getenv("STOP_DELAY"))
	finish, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := server.Shutdown(finish); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func get(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: sample get URL")
		return 2
	}
	client := http.Client{Timeout: 5 * time.Second}
	r, err := client.Get(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer r.Body.Close()
	_, _ = fmt.Fprintln(os.Stdout, r.Status)
	buf := make([]byte, 4096)
	n, _ := r.Body.Read(buf)
	_, _ = os.Stdout.Write(buf[:n])
	if r.StatusCode >= 400 {
		return 1
	}
	return 0
}

func sleep(ctx context.Context, text string) error {
	if text == "" {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return nil
}

func env(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}
