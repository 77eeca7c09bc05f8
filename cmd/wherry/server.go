package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"wherry.dev/wherry/cluster"
)

func newServerCommand() *cobra.Command {
	var logs logFlags
	s := cluster.Server{Network: cluster.DefaultNetwork, Identity: cluster.DefaultIdentity(), Limits: cluster.DefaultLimits}
	var disable []string
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a control plane and a node on this machine, in the foreground",
		Long: "Run etcd, API server, scheduler, controllers and a node's parts in this process, in the foreground.\n" +
			"`wherry up` calls it for each cluster on this machine; systemd or the like calls it in production.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logs.start()
			if err != nil {
				return err
			}
			if err := completeNode(&s.Node); err != nil {
				return err
			}
			s.Flags = map[string]string{}
			cmd.Flags().VisitAll(func(f *pflag.Flag) { s.Flags[f.Name] = f.Value.String() })
			s.Disable = map[string]bool{}
			for _, part := range disable {
				s.Disable[strings.TrimSpace(part)] = true
			}
			return cluster.RunServer(cmd.Context(), s, log, notifyReady)
		},
	}
	logs.add(cmd)
	addNodeFlags(cmd, &s.Node)
	addIdentityFlags(cmd, &s.Identity)
	addLimitFlags(cmd, &s.Limits)
	f := cmd.Flags()
	f.StringVar(&s.Name, "name", "default", "the cluster's name")
	f.IntVar(&s.Port, "port", cluster.DefaultPort, "of the API")
	f.BoolVar(&s.NoNode, "no-node", false, "run the control plane only")
	f.StringSliceVar(&disable, "disable", nil, "parts that somebody else runs: scheduler, controllers, proxy, dns")
	f.StringSliceVar(&s.SANs, "tls-san", nil, "further names and addresses by which users reach the API")
	f.Var(&prefixValue{&s.Network.PodCIDR}, "pod-cidr", "range of the pods' addresses")
	f.Var(&prefixValue{&s.Network.ServiceCIDR}, "service-cidr", "range of the Services' addresses")
	f.Var(&addrValue{&s.Network.ClusterDNS}, "cluster-dns", "address that pods ask for names, in the Services' range")
	f.StringVar(&s.Network.ClusterDomain, "cluster-domain", s.Network.ClusterDomain, "DNS domain of the cluster")
	addDatastoreFlags(cmd, &s.Datastore)
	return cmd
}
