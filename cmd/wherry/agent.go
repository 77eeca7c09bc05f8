package main

import (
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/cluster"
)

func newAgentCommand() *cobra.Command {
	var logs logFlags
	var a cluster.Agent
	var tokenFile string
	cmd := &cobra.Command{
		Use:     "agent",
		Short:   "Join a cluster and run a node on this machine, in the foreground",
		Example: "  wherry agent --server https://10.0.0.1:6443 --token abcdef.0123456789abcdef --ca-hash sha256:...",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logs.start()
			if err != nil {
				return err
			}
			if err := completeNode(&a.Node); err != nil {
				return err
			}
			if a.Server == "" {
				return misused(cmd, "which cluster? give --server, as `wherry token create` prints it")
			}
			if tokenFile != "" {
				b, err := os.ReadFile(tokenFile)
				if err != nil {
					return fmt.Errorf("token file: %w", err)
				}
				a.Token = strings.TrimSpace(string(b))
			}
			return cluster.RunAgent(cmd.Context(), a, log, notifyReady)
		},
	}
	logs.add(cmd)
	addNodeFlags(cmd, &a.Node)
	f := cmd.Flags()
	f.StringVar(&a.Server, "server", "", "URL of the cluster's API")
	f.StringVar(&a.Token, "token", "", "join token; needed at the first start only")
	f.StringVar(&tokenFile, "token-file", "", "file that holds the join token")
	f.StringVar(&a.CAHash, "ca-hash", "", "pin of the cluster's CA, sha256:...")
	return cmd
}

// notifyReady tells systemd, or whoever started us like systemd does, that we serve (sd_notify(3)).
func notifyReady() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("READY=1"))
}
