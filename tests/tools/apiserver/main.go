// Command kube-apiserver is the Kubernetes API server itself, built from its module: the real thing for tests, beside
// Debian's etcd. Its options are those of the original.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
