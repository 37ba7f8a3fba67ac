package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/normalize"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	controller = "kustomize-controller"
	group      = "kustomize.toolkit.fluxcd.io"
	pollEvery  = 200 * time.Millisecond // Flux: 5 s
)

// apply applies one object as kustomize-controller does: its library with its options
// (kustomization_controller.go, apply and checkHealth). It prints what came of it:
// created, configured, unchanged. With -wait it then waits as `wait: true` does.
func apply(arguments []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("apply", flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "of the cluster")
	wait := flags.Duration("wait", 0, "how long to wait for health; 0: not at all")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(raw); err != nil {
		return err
	}
	manager, err := newManager(config)
	if err != nil {
		return err
	}
	objects := []*unstructured.Unstructured{object}
	if err := normalize.UnstructuredList(objects); err != nil {
		return err
	}
	manager.SetOwnerLabels(objects, "tests", object.GetNamespace())
	changed, err := manager.Apply(context.Background(), object, options())
	if err != nil {
		return err
	}
	fmt.Fprintln(out, changed.Action)
	if *wait == 0 {
		return nil
	}
	return manager.Wait(objects, ssa.WaitOptions{Interval: pollEvery, Timeout: *wait, FailFast: true})
}

func newManager(config *rest.Config) (*ssa.ResourceManager, error) {
	api, err := client.New(config, client.Options{})
	if err != nil {
		return nil, err
	}
	poller := polling.NewStatusPoller(api, api.RESTMapper(), polling.Options{})
	return ssa.NewResourceManager(api, poller, ssa.Owner{Field: controller, Group: group}), nil
}

func options() ssa.ApplyOptions {
	found := ssa.DefaultApplyOptions()
	update, byApply := metav1.ManagedFieldsOperationUpdate, metav1.ManagedFieldsOperationApply
	found.Cleanup = ssa.ApplyCleanupOptions{
		Annotations: []string{"kubectl.kubernetes.io/last-applied-configuration"},
		// A name is a prefix here: kubectl-edit and kubectl-annotate are meant too.
		FieldManagers: []ssa.FieldManager{
			{Name: "kubectl", OperationType: byApply},
			{Name: "kubectl", OperationType: update},
			{Name: "before-first-apply", OperationType: update},
			{Name: controller, OperationType: update},
		},
		Exclusions: map[string]string{group + "/ssa": "Merge"},
	}
	return found
}
