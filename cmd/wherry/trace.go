package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/trace"
)

func newTraceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "trace", Short: "Show what happened to a pod, stage by stage"}
	cmd.AddCommand(newTracePodCommand())
	return cmd
}

func newTracePodCommand() *cobra.Command {
	var access accessFlags
	var namespace, uid string
	var output outputValue
	var follow bool
	cmd := &cobra.Command{
		Use:   "pod NAME",
		Short: "Draw a pod's creation and deletion as a waterfall, with what took the time and what it waits for",
		Example: `  wherry trace pod web-1
  wherry trace pod web-1 -n shop -f       # live, until the pod is gone
  wherry trace pod web-1 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, inNamespace, err := access.load(namespace)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			terminal := term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb"
			style := trace.Style{Width: 110, Colour: terminal && os.Getenv("NO_COLOR") == "", ASCII: !utf8Terminal()}
			if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
				style.Width = w
			}
			lines := 0
			return readTraces(cmd.Context(), config, inNamespace, args[0], uid, follow, func(t trace.Trace) error {
				if output {
					return json.NewEncoder(out).Encode(t)
				}
				var text strings.Builder
				if err := trace.Waterfall(&text, t, time.Now(), style); err != nil {
					return err
				}
				if lines > 0 && terminal {
					fmt.Fprintf(out, "\x1b[%dA\x1b[J", lines) // draw over the last one
				}
				lines = strings.Count(text.String(), "\n")
				_, err := io.WriteString(out, text.String())
				return err
			})
		},
	}
	access.add(cmd)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "the pod's namespace (default: the kubeconfig context's)")
	output.add(cmd)
	cmd.Flags().StringVar(&uid, "uid", "", "the very pod, when several had the name")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "draw again with each change, until the pod is gone")
	return cmd
}

// readTraces calls show with the trace, and with each later state when following.
func readTraces(ctx context.Context, config *rest.Config, namespace, name, uid string, follow bool, show func(trace.Trace) error) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	query := url.Values{}
	if uid != "" {
		query.Set("uid", uid)
	}
	if follow {
		query.Set("watch", "true")
		client.Timeout = 0
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return fmt.Errorf("server address: %w", err)
	}
	base.Path, base.RawQuery = trace.PodPath(namespace, name), query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.String(), nil)
	if err != nil {
		return fmt.Errorf("read trace: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("read trace: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return fmt.Errorf("read trace: %s", strings.TrimSpace(string(body)))
	}
	decoder := json.NewDecoder(response.Body)
	for {
		var t trace.Trace
		switch err := decoder.Decode(&t); {
		case err == io.EOF, ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("read trace: %w", err)
		}
		if err := show(t); err != nil {
			return err
		}
		if !follow {
			return nil
		}
	}
}

func utf8Terminal() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := os.Getenv(name); v != "" {
			return strings.Contains(strings.ToUpper(v), "UTF-8") || strings.Contains(strings.ToUpper(v), "UTF8")
		}
	}
	return false
}
