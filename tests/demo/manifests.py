"""What the demo applies. Each version is the one before with a few lines changed.

The contents are chosen so that about 5 of the 50 workers are picked at 10 %: who is picked follows
from the content's hash, so it is the same in each run.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

REGISTRY = "checkout"
PAUSE = 4.0
INTERVAL = 2.0
"""Of the check, and before its first measurement: long enough that a person sees the broken workers."""
CHECK = "alive"
FAILURE_LIMIT = 0


@dataclass(frozen=True)
class Manifest:
    """One text to apply."""

    file: str
    health: str
    """The address that the check asks."""
    batch: str = "10"
    """As YAML: the last version puts a text where a number belongs."""
    discount: int = 0
    basket: bool = False
    weights: tuple[int, int] = (10, 50)
    remark: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def data(self) -> dict[str, object]:
        """What a consumer is to get."""
        return {
            "batch.size": int(self.batch),
            "timeout.ms": 2500,
            "discount.percent": self.discount,
            "feature.new-basket": self.basket,
            "retry": {"max": 3, "backoff": "exponential"},
        }

    @property
    def text(self) -> str:
        """Give the YAML."""
        return f"""\
apiVersion: configregistry.dev/v1alpha1
kind: ConfigRegistry
metadata:
  name: {REGISTRY}
spec:
  data:
    batch.size: {self.batch}{self._said("batch")}
    timeout.ms: 2500
    discount.percent: {self.discount}
    feature.new-basket: {str(self.basket).lower()}
    retry: {{max: 3, backoff: exponential}}
  schema:
    type: object
    required: [batch.size, timeout.ms]
    properties:
      batch.size: {{type: integer, minimum: 0, maximum: 500}}
      timeout.ms: {{type: integer, minimum: 100, maximum: 10000}}
      discount.percent: {{type: integer, minimum: 0, maximum: 100}}
  rollout:
    steps:
    - setWeight: {self.weights[0]}
    - pause: {{duration: {PAUSE:g}s}}
    - setWeight: {self.weights[1]}{self._said("weights")}
    - pause: {{duration: {PAUSE:g}s}}
    bake: {PAUSE:g}s
    checks:
    - name: {CHECK}
      initialDelay: {INTERVAL:g}s
      interval: {INTERVAL:g}s
      failureLimit: {FAILURE_LIMIT}
      http: {{url: "{self.health}"}}
"""

    def changes(self, before: Manifest) -> str:
        """Give what differs, as a unified diff without a heading."""
        lines = difflib.unified_diff(before.text.splitlines(), self.text.splitlines(), n=1, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))

    def _said(self, about: str) -> str:
        return f"  # {self.remark[about]}" if about in self.remark else ""


@dataclass(frozen=True)
class Manifests:
    """All that is applied, in order."""

    one: Manifest
    two: Manifest
    three: Manifest
    four: Manifest
    backwards: Manifest


def manifests(health: str) -> Manifests:
    """Write them for a shop whose health is asked at this address."""
    one = Manifest(file="version-1.yaml", health=health)
    two = replace(one, file="version-2.yaml", batch="16", discount=5, basket=True)
    three = replace(two, file="version-3.yaml", batch="0", remark={"batch": 'meant as "no limit"'})
    four = replace(two, file="version-4.yaml", batch="unlimited", remark={"batch": "not even a number"})
    backwards = replace(two, file="backwards.yaml", weights=(50, 10), remark={"weights": "less than before"})
    return Manifests(one, two, three, four, backwards)
