// What GitOps tools do with an object and say of it, by the tools' own code.
//
// `judge apply` applies as Flux does (see apply.go). Without arguments, each line of
// standard input is a JSON question: an object, and optionally the Lua text of
// Argo CD and the CEL expressions of a Flux Kustomization. Each line of standard
// output is the answer. kstatus is Flux's own fork, which its `wait: true` reads;
// `flux` is its evaluator of healthCheckExprs; Argo CD's Lua runs in the engine
// that Argo CD runs it in (see lua.go).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const longest = 16 << 20

type question struct {
	Object json.RawMessage                   `json:"object"`
	Lua    string                            `json:"lua"`
	Exprs  *kustomize.HealthCheckExpressions `json:"exprs"`
}

type verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type answer struct {
	Kstatus *verdict `json:"kstatus,omitempty"`
	Flux    *verdict `json:"flux,omitempty"`
	Argo    *verdict `json:"argo,omitempty"`
	Error   string   `json:"error,omitempty"`
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "apply" {
		if err := apply(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fail(err)
		}
		return
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, longest)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		if err := out.Encode(judge(lines.Bytes())); err != nil {
			fail(err)
		}
	}
	if err := lines.Err(); err != nil {
		fail(err)
	}
}

func judge(line []byte) answer {
	var asked question
	if err := json.Unmarshal(line, &asked); err != nil {
		return answer{Error: err.Error()}
	}
	// Numbers as the API server's clients have them: integers stay integers.
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(asked.Object); err != nil {
		return answer{Error: err.Error()}
	}
	var found answer
	result, err := status.Compute(object)
	if err != nil {
		return answer{Error: fmt.Sprintf("kstatus: %v", err)}
	}
	found.Kstatus = &verdict{string(result.Status), result.Message}
	if asked.Exprs != nil {
		if found.Flux, err = flux(object, asked.Exprs); err != nil {
			return answer{Error: fmt.Sprintf("healthCheckExprs: %v", err)}
		}
	}
	if asked.Lua != "" {
		if found.Argo, err = argo(object, asked.Lua); err != nil {
			return answer{Error: fmt.Sprintf("lua: %v", err)}
		}
	}
	return found
}

func flux(object *unstructured.Unstructured, exprs *kustomize.HealthCheckExpressions) (*verdict, error) {
	evaluator, err := cel.NewStatusEvaluator(exprs)
	if err != nil {
		return nil, err
	}
	result, err := evaluator.Evaluate(context.Background(), object)
	if err != nil {
		return nil, err
	}
	return &verdict{string(result.Status), result.Message}, nil
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
