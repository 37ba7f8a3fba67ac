"""What can be said of a check before it is asked."""

from __future__ import annotations

import msgspec
import pytest

from configregistry.errors import FieldError
from configregistry.health import PROBES, examine, unsupported
from configregistry.model.spec import (
    Check,
    ConsumersCheck,
    HttpCheck,
    PrometheusCheck,
    WorkloadCheck,
)

FIELD = "spec.rollout.checks[3]"


@pytest.mark.parametrize(
    "check",
    [
        Check("a", http=HttpCheck("http://{{registry}}.{{namespace}}.svc/healthz?v={{version}}")),
        Check("a", http=HttpCheck("https://user:word@h:8443/")),
        Check("a", http=HttpCheck("http://[fd00::1]:80/")),
        Check("a", max=1, prometheus=PrometheusCheck("http://prometheus:9090", "up")),
        Check("a", consumers=ConsumersCheck()),
        Check("a", min=1, max=2, consumers=ConsumersCheck(0, 1)),
        Check("a", workload=WorkloadCheck("Deployment", "a")),
    ],
)
def test_can_be_made(check: Check) -> None:
    assert unsupported(check) is None
    examine(check, FIELD)


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (
            Check("a", http=HttpCheck("http://h/{{pod}}")),
            f"{FIELD}.http.url: 'pod': expected one of",
        ),
        (
            Check("a", http=HttpCheck("ftp://h/")),
            f"{FIELD}.http.url: 'ftp': expected a URL of http or https",
        ),
        (
            Check("a", http=HttpCheck("file:///etc/passwd")),
            f"{FIELD}.http.url: 'file': expected a URL of http or https",
        ),
        (
            Check("a", http=HttpCheck("h/healthz")),
            f"{FIELD}.http.url: '': expected a URL of http or https",
        ),
        (
            Check("a", http=HttpCheck("http:///healthz")),
            f"{FIELD}.http.url: expected a URL with a host",
        ),
        (Check("a", http=HttpCheck("http://h:99999/")), f"{FIELD}.http.url: expected a URL"),
        (
            Check("a", http=HttpCheck("http://h:0/")),
            f"{FIELD}.http.url: expected a URL with a host",
        ),
        (Check("a", http=HttpCheck("http://user:word@h:x/")), f"{FIELD}.http.url: expected a URL"),
        (Check("a", http=HttpCheck("http://[::1/")), f"{FIELD}.http.url: expected a URL"),
        (
            Check("a", max=1, prometheus=PrometheusCheck("http://p", "x{{y}}")),
            f"{FIELD}.prometheus.query: 'y': expected one of",
        ),
        (
            Check("a", max=1, prometheus=PrometheusCheck("p:9090", "up")),
            f"{FIELD}.prometheus.address: 'p': expected a URL of http or https",
        ),
    ],
)
def test_can_not_be_made(check: Check, told: str) -> None:
    with pytest.raises(FieldError) as error:
        examine(check, FIELD)
    assert str(error.value).startswith(told)
    assert "word" not in str(error.value)
    assert unsupported(check, FIELD) == str(error.value)


def test_the_table_has_every_kind_that_a_spec_can_name() -> None:
    kinds = {field.name for field in msgspec.structs.fields(Check) if field.default is None} - {"min", "max"}
    assert set(PROBES) == kinds
