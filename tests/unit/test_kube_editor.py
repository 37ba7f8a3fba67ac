"""Who changed an object last: of its managedFields."""

from __future__ import annotations

import json
from typing import Any

import pytest

from configregistry.kube.objects import decode_registry

EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"


def managed(manager: str, time: str | None, subresource: str = "") -> dict[str, Any]:
    """One entry, as the API server writes it."""
    more = {"subresource": subresource} if subresource else {}
    return {"manager": manager, "operation": "Update", "fieldsV1": {"f:spec": {}}, "time": time, **more}


@pytest.mark.parametrize(
    ("fields", "editor"),
    [
        ([managed("kubectl", LATE), managed("helm", EARLY)], "kubectl"),
        ([managed("helm", EARLY), managed("kubectl", LATE)], "kubectl"),
        ([managed("argocd-controller", LATE), managed("kubectl-configregistry", LATE)], "kubectl-configregistry"),
        ([managed("a", LATE), managed("b", LATE), managed("c", LATE), managed("d", EARLY)], "c"),
        ([managed("kubectl", EARLY), managed("configregistry", LATE, "status")], "kubectl"),
        ([managed("configregistry", LATE, "status")], ""),
        ([managed("old", None), managed("new", EARLY)], "new"),
        ([], ""),
        (None, ""),
    ],
)
def test_the_last_of_those_who_wrote_more_than_a_subresource(fields: Any, editor: str) -> None:
    """Times are whole seconds: of several of the same one the last in the list counts."""
    raw = json.dumps({"metadata": {"name": "a", "namespace": "b", "managedFields": fields}, "spec": {}})
    assert decode_registry(raw.encode()).meta.editor == editor
