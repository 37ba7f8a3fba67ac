"""`make demo`: the whole story of a configuration, on a real API server, in about a minute.

| module | tells |
| --- | --- |
| shop | a small application in a process of its own: 50 workers and their health |
| manifests | what is applied, version by version |
| picked | which workers a weight picks, worked out without the product's code |
| surroundings | the cluster, its namespace, the operator, the shop: brought up and ended |
| kubectl | the commands that a person would type, run for real |
| follow | what can be seen from outside: status by `kubectl get --watch`, workers by the shop's own word |
| screen, picture | how it is shown, on a terminal and elsewhere |
| ledger | what was expected, what was seen |
| acts, failing, tour, story | version 1 and 2; 3 and 4; the interfaces; the order of it all |

| environment | does |
| --- | --- |
| `DEMO_KEEP=1` | all stays up after the story, with instructions, until Ctrl-C |
| `CLUSTER=external KUBECONFIG=file` | plays on that cluster instead of one of its own |
| `DEMO_CLUSTER=directory` | where the cluster lives; default: the standing one of the checkout |
| `DEMO_SABOTAGE=expectation` or `operator` | spoils the demo on purpose, for its test |

Nothing here may import the operator's code: the demo sees what a user sees, or it proves nothing.
"""
