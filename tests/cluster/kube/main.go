// Command kube is a Kubernetes control plane in one static binary.
//
// Which program it is depends on the name by which it is called. All of them
// share most of their packages, so one binary builds in about the time, and
// takes about the space, of the largest. Versions are pinned in go.mod.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // build information as a metric
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

// A further program is one line here, its import, and its name in build.py.
var applets = map[string]func() int{
	"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
	"kube-apiserver":          run(apiserver.NewAPIServerCommand),
	"kube-controller-manager": run(controllermanager.NewControllerManagerCommand),
	"kubectl":                 runKubectl,
}

// run defers the making of a command: it registers flags and metrics globally,
// and only one program may do that in a process.
func run(command func() *cobra.Command) func() int {
	return func() int { return cli.Run(command()) }
}

// runKubectl differs as the released kubectl does: errors are worded for people.
func runKubectl() int {
	kubectlutil.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
	return 0
}

func main() {
	name := filepath.Base(os.Args[0])
	applet, known := applets[name]
	if !known {
		names := slices.Sorted(maps.Keys(applets))
		fmt.Fprintf(os.Stderr, "call this by a link named %s, not %s\n", strings.Join(names, ", "), name)
		os.Exit(2)
	}
	os.Exit(applet())
}
