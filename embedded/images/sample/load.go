package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// loadResult is what a load prints when it ends, as JSON on one line.
type loadResult struct {
	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`
	Errors   map[string]int `json:"errors,omitempty"` // by text, with counts
	Answers  map[string]int `json:"answers"`          // by the pod that answered
	Seconds  float64        `json:"seconds"`
	P50      float64        `json:"p50"` // seconds
	P99      float64        `json:"p99"`
	Max      float64        `json:"max"`
}

// load sends a bounded number of requests, each on a connection of its own, spread evenly over a time.
//
//	sample load -url URL -requests N -workers W -for D
func load(args []string) int {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	url := flags.String("url", "", "what to get")
	requests := flags.Int("requests", 1000, "how many")
	workers := flags.Int("workers", 4, "at once")
	spread := flags.Duration("for", 10*time.Second, "time over which they are spread")
	timeout := flags.Duration("timeout", 5*time.Second, "of one request")
	_ = flags.Parse(args)
	if *url == "" || *requests < 1 || *workers < 1 {
		flags.Usage()
		return 2
	}
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{
		DisableKeepAlives: true, // a new connection is what a Service decides on
		DialContext:       (&net.Dialer{Timeout: *timeout}).DialContext,
	}}
	result := loadResult{Errors: map[string]int{}, Answers: map[string]int{}}
	var mu sync.Mutex
	var took []time.Duration
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	fmt.Println("load begins")
	for range *workers {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(*requests) {
					return
				}
				time.Sleep(time.Until(began.Add(*spread * time.Duration(i) / time.Duration(*requests))))
				start := time.Now()
				answer, err := getOnce(client, *url)
				d := time.Since(start)
				mu.Lock()
				took = append(took, d)
				if err != nil {
					result.Failed++
					result.Errors[err.Error()]++
				} else {
					result.Answers[answer]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	result.Requests, result.Seconds = len(took), time.Since(began).Seconds()
	slices.Sort(took)
	result.P50, result.P99, result.Max = took[len(took)/2].Seconds(), took[len(took)*99/100].Seconds(), took[len(took)-1].Seconds()
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return 1
	}
	if result.Failed > 0 {
		return 1
	}
	return 0
}

func getOnce(client *http.Client, url string) (answer string, err error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", response.StatusCode)
	}
	return string(body), nil
}
