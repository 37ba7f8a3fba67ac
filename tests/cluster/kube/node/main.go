// Command node is what makes a node of a machine, and what fills it, in one
// static binary: kube-scheduler, kubelet and kube-proxy.
//
// It is apart from the control plane (the package above): whoever needs no
// pods does not wait for the kubelet to be built. Which program it is depends
// on the name by which it is called. Versions are pinned in go.mod.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // build information as a metric
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// A further program is one line here, its import, and its name in build.py.
var applets = map[string]func() *cobra.Command{
	"kube-proxy":     proxy.NewProxyCommand,
	"kube-scheduler": func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	// Without a context it panics, and with one of signals too: it sets up its own.
	"kubelet": func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
}

func main() {
	name := filepath.Base(os.Args[0])
	command, known := applets[name]
	if !known {
		names := slices.Sorted(maps.Keys(applets))
		fmt.Fprintf(os.Stderr, "call this by a link named %s, not %s\n", strings.Join(names, ", "), name)
		os.Exit(2)
	}
	os.Exit(cli.Run(command()))
}
