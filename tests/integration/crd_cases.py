"""Registries that the API server must refuse: one fault each, put into an example that is accepted."""

from __future__ import annotations

import copy
import re
from typing import Any, Final, NamedTuple

DROP: Final = object()
"""As a value: take the field away."""

STEPS: Final = "spec.rollout.steps"
CHECK: Final = "spec.rollout.checks[0]"
HTTP_CHECK: Final = "spec.rollout.checks[1]"
EXPECTED: Final = f"{HTTP_CHECK}.http.expectedStatus"
VALUES: Final = "spec.rollout.match[0].values"
PROMETHEUS: Final = {"address": "http://prometheus:9090", "query": "up"}
LONG_NAME: Final = "a" * 64
BAD_URLS: Final = {"ftp": "ftp://host/x", "no scheme": "host:80/x", "no host": "http:///x", "space": "http://h/a b"}
URLS: Final = (
    "spec.validators[0].url",
    "spec.hooks[0].url",
    f"{CHECK}.prometheus.address",
    f"{HTTP_CHECK}.http.url",
)
TOO_LONG: Final = {
    **dict.fromkeys(URLS, 2048),
    "spec.dataFrom[0].configMapRef.name": 253,
    "spec.dataFrom[0].prefix": 252,
    "spec.fallback.name": 63,
    "spec.validators[0].name": 63,
    "spec.dependsOn[0].name": 63,
    "spec.hooks[0].name": 63,
    "spec.rollout.match[0].attribute": 63,
    f"{VALUES}[0]": 253,
    "spec.rollout.seed": 128,
    "spec.rollout.bake": 32,
    "spec.rollout.progressDeadline": 32,
    f"{CHECK}.name": 63,
    f"{CHECK}.prometheus.query": 4096,
    "spec.rollout.checks[3].workload.name": 253,
    "spec.project.configMap": 253,
}


BADLY_NAMED: Final = (
    "spec.validators[0].name",
    "spec.dependsOn[0].name",
    f"{CHECK}.name",
    "spec.rollout.checks[3].workload.name",
    "spec.project.configMap",
)
DURATIONS: Final = (f"{CHECK}.interval", f"{CHECK}.initialDelay", "spec.rollout.progressDeadline")


class Bad(NamedTuple):
    """A fault: `value` put at `path`. `field` is the path that the refusal names, `says` a part of its message."""

    name: str
    path: str
    value: Any
    says: str
    field: str = ""

    def registry(self, good: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of an accepted registry that has this fault."""
        bad = copy.deepcopy(good)
        *parents, last = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", self.path)]
        where: Any = bad
        for part in parents:
            where = where[part]
        if self.value is DROP:
            del where[last]
        else:
            where[last] = self.value
        return bad

    @property
    def expected_field(self) -> str:
        """The path that the refusal must name."""
        return self.field or self.path


def weights(*steps: int) -> list[dict[str, int]]:
    return [{"setWeight": weight} for weight in steps]


def check(**kinds: Any) -> list[dict[str, Any]]:
    return [{"name": "errors", **kinds}]


def names(count: int) -> list[dict[str, str]]:
    return [{"name": f"n{index}"} for index in range(count)]


BAD: Final = [
    # metadata and the whole
    Bad("name with a dot", "metadata.name", "a.b", "should match"),
    Bad("name of 64 characters", "metadata.name", LONG_NAME, "may not be more than 63"),
    Bad("no spec", "spec", DROP, "Required value"),
    Bad("spec is a list", "spec", [], "must be of type object"),
    # data and where it comes from
    Bad("data is a list", "spec.data", [1], "must be of type object"),
    Bad("too many keys", "spec.data", {f"k{index}": 0 for index in range(20_001)}, "at most 20000"),
    Bad("source without a ConfigMap", "spec.dataFrom[0].configMapRef", DROP, "Required value"),
    Bad("source without a name", "spec.dataFrom[0].configMapRef.name", DROP, "Required value"),
    Bad("source with an empty name", "spec.dataFrom[0].configMapRef.name", "", "should match"),
    Bad("source with a bad name", "spec.dataFrom[0].configMapRef.name", "A_b", "should match"),
    Bad("optional is a word", "spec.dataFrom[0].configMapRef.optional", "yes", "must be of type boolean"),
    Bad("unknown format", "spec.dataFrom[0].format", "Yaml", '"Auto", "String"'),
    Bad("prefix begins with a dot", "spec.dataFrom[0].prefix", ".x", "should match"),
    Bad("17 sources", "spec.dataFrom", [{"configMapRef": name} for name in names(17)], "at most 16 items"),
    # other registries
    Bad("falls back to itself", "spec.fallback.name", "everything", "own fallback: expected the name of another"),
    Bad("fallback without a name", "spec.fallback.name", DROP, "Required value"),
    Bad("fallback of another namespace", "spec.fallback.name", "shop/defaults", "should match"),
    Bad("depends on itself", "spec.dependsOn", [*names(1), {"name": "everything"}], 'got "everything"'),
    Bad("depends on one twice", "spec.dependsOn", names(2) + names(1), "Duplicate value", "spec.dependsOn[2]"),
    Bad("17 dependencies", "spec.dependsOn", names(17), "at most 16 items"),
    Bad("dependency is a string", "spec.dependsOn[0]", "database", "must be an object"),
    # validation
    Bad("schema is a boolean", "spec.schema", True, "must be of type object"),
    Bad("3 validators", "spec.validators", [{**name, "url": "http://h"} for name in names(3)], "at most 2 items"),
    Bad(
        "two validators of a name",
        "spec.validators",
        [{"name": "a", "url": "http://h"}] * 2,
        'Duplicate value: {"name":"a"}',
        "spec.validators[1]",
    ),
    Bad("validator without a URL", "spec.validators[0].url", DROP, "Required value"),
    Bad("validator without a name", "spec.validators[0].name", DROP, "Required value"),
    Bad("validator waits 0 s", "spec.validators[0].timeoutSeconds", 0, "greater than or equal to 1"),
    Bad("validator waits 31 s", "spec.validators[0].timeoutSeconds", 31, "less than or equal to 30"),
    Bad("validator waits 1.5 s", "spec.validators[0].timeoutSeconds", 1.5, "must be of type integer"),
    # hooks
    Bad("hook at no time", "spec.hooks[0].when", DROP, "Required value"),
    Bad("hook at an unknown time", "spec.hooks[0].when", "Midway", '"PreRollout", "PostRollout", "Rollback"'),
    Bad("hook waits 0 s", "spec.hooks[0].timeoutSeconds", 0, "greater than or equal to 1"),
    Bad("two hooks of a name", "spec.hooks[1].name", "warm", "Duplicate value", "spec.hooks[1]"),
    Bad("hook named with a blank", "spec.hooks[0].name", "warm up", "should match"),
    # steps
    Bad("unknown preset", "spec.rollout", {"preset": "Fast"}, "AllAtOnce", "spec.rollout.preset"),
    Bad("preset and steps", "spec.rollout.preset", "AllAtOnce", 'got preset "AllAtOnce" and 4 steps'),
    Bad("no steps", STEPS, [], "at least 1 item"),
    Bad("101 steps", STEPS, weights(*[1] * 101), "at most 100 items"),
    Bad("weight above 100", f"{STEPS}[2].setWeight", 101, "less than or equal to 100"),
    Bad("weight below 0", f"{STEPS}[0].setWeight", -1, "greater than or equal to 0"),
    Bad("half a percent", f"{STEPS}[0].setWeight", 0.5, "must be of type integer"),
    Bad("weights decrease", STEPS, weights(5, 50, 20), "weights must never decrease", STEPS),
    Bad("weights decrease over a pause", f"{STEPS}[2].setWeight", 4, "got [5, 4]", STEPS),
    Bad("step with both", f"{STEPS}[0].pause", {}, "expected exactly one, got both", f"{STEPS}[0]"),
    Bad("step with neither", f"{STEPS}[0].setWeight", DROP, "expected exactly one, got neither", f"{STEPS}[0]"),
    Bad("pause of null, which is none", f"{STEPS}[1].pause", None, "got neither", f"{STEPS}[1]"),
    Bad("pause of no time", f"{STEPS}[1].pause.duration", "0s", "more than 0s and at most 720h, got"),
    Bad("pause of a year", f"{STEPS}[1].pause.duration", "8760h", 'at most 720h, got "8760h"'),
    Bad("pause of a number", f"{STEPS}[1].pause.duration", 30, "must be of type string"),
    Bad("duration without a unit", f"{STEPS}[1].pause.duration", "30", 'at most 720h, got "30"'),
    Bad("duration with a fraction", f"{STEPS}[1].pause.duration", "1.5m", "should match"),
    Bad("duration in days", f"{STEPS}[1].pause.duration", "1d", "such as 500ms, 30s or 1h30m, more than 0s"),
    Bad("duration in the wrong order", f"{STEPS}[1].pause.duration", "5m1h", "should match"),
    Bad("empty duration", f"{STEPS}[1].pause.duration", "", 'got ""'),
    Bad("negative bake", "spec.rollout.bake", "-5m", "should match"),
    Bad("bake of a year", "spec.rollout.bake", "8760h", '0s to 720h, got "8760h"'),
    # who, and what then
    Bad("match without values", VALUES, [], "at least 1 item"),
    Bad("match a value twice", VALUES, ["a", "a"], "Duplicate", f"{VALUES}[1]"),
    Bad("match no attribute", "spec.rollout.match[0].attribute", DROP, "Required value"),
    Bad("match a bad attribute", "spec.rollout.match[0].attribute", "a b", "should match"),
    Bad("unknown onFailure", "spec.rollout.onFailure", "Ignore", '"Rollback", "Pause"'),
    Bad("no deadline", "spec.rollout.progressDeadline", "0s", "more than 0s"),
    Bad("deadline of a year", "spec.rollout.progressDeadline", "8760h", "at most 720h"),
    Bad("paused is a word", "spec.rollout.paused", "true", "must be of type boolean"),
    # checks
    Bad("17 checks", "spec.rollout.checks", [{**name, "consumers": {}} for name in names(17)], "at most 16 items"),
    Bad("check without a name", f"{CHECK}.name", DROP, "Required value"),
    Bad("two checks of a name", f"{HTTP_CHECK}.name", "errors", "Duplicate value", HTTP_CHECK),
    Bad("check of no kind", "spec.rollout.checks", check(), 'check "errors": expected exactly one', CHECK),
    Bad("check of two kinds", f"{CHECK}.consumers", {}, "got several", CHECK),
    Bad("check never", f"{CHECK}.interval", "0s", '100ms to 24h, got "0s"'),
    Bad("check all the time", f"{CHECK}.interval", "99ms", '100ms to 24h, got "99ms"'),
    Bad("check too seldom", f"{CHECK}.interval", "24h1s", "100ms to 24h"),
    Bad("check too late", f"{CHECK}.initialDelay", "25h", "0s to 24h"),
    Bad("failures below 0", f"{CHECK}.failureLimit", -1, "greater than or equal to 0"),
    Bad("errors below 0", f"{CHECK}.consecutiveErrorLimit", -1, "greater than or equal to 0"),
    Bad("failures without end", f"{CHECK}.failureLimit", 1001, "less than or equal to 1000"),
    Bad("unknown noData", f"{CHECK}.noData", "Ignore", '"Wait", "Fail", "Pass"'),
    Bad("max is a string", f"{CHECK}.max", "0.03", "must be of type number"),
    Bad("min above max", f"{CHECK}.min", 0.5, "got min 0.5 and max 0.03"),
    Bad("min for http", f"{HTTP_CHECK}.min", 1, "min is for prometheus and consumers: expected none here, got 1"),
    Bad("max for http", f"{HTTP_CHECK}.max", 2.5, "expected none here, got 2.5"),
    Bad("max for a workload", "spec.rollout.checks[3].max", 1, "max is for prometheus and consumers"),
    Bad(
        "prometheus without limits",
        "spec.rollout.checks",
        check(prometheus=PROMETHEUS),
        "expected min, max or both",
        f"{CHECK}.prometheus",
    ),
    Bad("prometheus without a query", f"{CHECK}.prometheus.query", DROP, "Required value"),
    Bad("prometheus without an address", f"{CHECK}.prometheus.address", DROP, "Required value"),
    Bad("empty query", f"{CHECK}.prometheus.query", "", "should be at least 1"),
    Bad("unknown template", f"{CHECK}.prometheus.query", "up{v='{{tag}}'}", "unknown template: expected"),
    Bad("template with blanks", f"{CHECK}.prometheus.query", "{{ version }}", "without spaces"),
    Bad("template in a URL", f"{HTTP_CHECK}.http.url", "http://h/{{x}}", "unknown template"),
    Bad("status 99", EXPECTED, [99], "greater than or equal to 100", f"{EXPECTED}[0]"),
    Bad("status 600", EXPECTED, [600], "less than or equal to 599", f"{EXPECTED}[0]"),
    Bad("no status", EXPECTED, [], "at least 1 item"),
    Bad("a status twice", EXPECTED, [200, 200], "Duplicate", f"{EXPECTED}[1]"),
    Bad("http waits too long", f"{HTTP_CHECK}.http.timeoutSeconds", 31, "less than or equal to 30"),
    Bad("http without a URL", f"{HTTP_CHECK}.http.url", DROP, "Required value"),
    Bad("101 percent", "spec.rollout.checks[2].consumers.maxErrorPercent", 101, "less than or equal to 100"),
    Bad("nobody reporting", "spec.rollout.checks[2].consumers.minReporting", 0, "greater than or equal to 1"),
    Bad("workload of an odd kind", "spec.rollout.checks[3].workload.kind", "Pod", '"Deployment"'),
    Bad("workload without a name", "spec.rollout.checks[3].workload.name", DROP, "Required value"),
    # the rest
    Bad("pinned to 0", "spec.pinnedVersion", 0, "greater than or equal to 1"),
    Bad("pinned to a word", "spec.pinnedVersion", "7", "must be of type integer"),
    Bad("history below 0", "spec.revisionHistoryLimit", -1, "greater than or equal to 0"),
    Bad("history of 101", "spec.revisionHistoryLimit", 101, "less than or equal to 100"),
    Bad("projects nowhere", "spec.project", {}, "Required value", "spec.project.configMap"),
    Bad("projects onto a source", "spec.project.configMap", "everything-base", "must not be a source in dataFrom"),
    Bad("pinned beyond JSON's integers", "spec.pinnedVersion", 2**53, "less than or equal to"),
    Bad("schema of 1001 keywords", "spec.schema", {f"x-{index}": 0 for index in range(1001)}, "at most 1000"),
    Bad("hook waits 31 s", "spec.hooks[0].timeoutSeconds", 31, "less than or equal to 30"),
    Bad("17 match rules", "spec.rollout.match", [{"attribute": "a", "values": ["b"]}] * 17, "at most 16 items"),
    Bad("match 101 values", VALUES, [str(index) for index in range(101)], "at most 100 items"),
    Bad("match an empty value", f"{VALUES}[0]", "", "should be at least 1"),
    Bad("errors without end", f"{CHECK}.consecutiveErrorLimit", 1001, "less than or equal to 1000"),
    Bad("17 statuses", EXPECTED, list(range(200, 217)), "at most 16 items"),
    Bad("http waits 0 s", f"{HTTP_CHECK}.http.timeoutSeconds", 0, "greater than or equal to 1"),
    Bad("-1 percent", "spec.rollout.checks[2].consumers.maxErrorPercent", -1, "greater than or equal to 0"),
    Bad("too many reporting", "spec.rollout.checks[2].consumers.minReporting", 10_001, "less than or equal to 10000"),
    *(Bad(f"bad {path}", path, "A b", "should match") for path in BADLY_NAMED),
    *(Bad(f"disorder in {path}", path, "5m1h", "should match") for path in DURATIONS),
    *(Bad(f"long {path}", path, "a" * (most + 1), f"not be more than {most}") for path, most in TOO_LONG.items()),
    *(Bad(f"{name} in {url}", url, value, "should match") for url in URLS for name, value in BAD_URLS.items()),
]

UNKNOWN: Final = [
    ("spec.datas", {}),
    ("spec.rollout.maxSurge", 1),
    (f"{STEPS}[0].setweight", 5),
    (f"{CHECK}.prometheus.token", "x"),
    ("spec.project.secret", "x"),
]
"""Fields that there are not: refused with strict field validation, which kubectl asks for."""

BAD_STATUS: Final = [
    Bad("short hash", "status.stable.hash", "abc", "should match"),
    Bad("hash in capitals", "status.rejectedHashes", ["22334455667788BB"], "should match", "status.rejectedHashes[0]"),
    Bad("weight above 100", "status.canary.weight", 101, "less than or equal to 100"),
    Bad("version is a word", "status.canary.version", "8", "must be of type integer"),
    Bad("time is a word", "status.canary.startedAt", "today", "should match"),
    Bad("elapsed is a number", "status.canary.elapsed", 12, "must be of type string"),
    Bad("too many hashes", "status.rejectedHashes", ["22334455667788bb"] * 1001, "at most 1000 items"),
    Bad("11 told rejections", "status.rejected", [{"version": 1}] * 11, "at most 10 items"),
    Bad("condition neither true nor false", "status.conditions[0].status", "Yes", '"True", "False", "Unknown"'),
]
