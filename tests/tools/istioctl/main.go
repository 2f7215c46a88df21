// Command istioctl is Istio's own `istioctl proxy-config`, without the commands that a test of dumps has no use for (and
// which take most of the time to build).
//
//	istioctl proxy-config routes --file dump.json
package main

import (
	"os"

	"github.com/spf13/cobra"
	"istio.io/istio/istioctl/pkg/cli"
	"istio.io/istio/istioctl/pkg/proxyconfig"
	_ "istio.io/istio/pkg/config/xds" // every type that Istio knows in a dump
)

func main() {
	root := &cobra.Command{Use: "istioctl", SilenceUsage: true}
	root.AddCommand(proxyconfig.ProxyConfig(cli.NewCLIContext(cli.AddRootFlags(root.PersistentFlags()))))
	if err := root.Execute(); err != nil {
		os.Exit(1)
	}
}
