"""dataFrom on a real API server: what its ConfigMaps come to, and that their changes are rollouts like any other."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError

import pytest
from tests.integration.running import Client, Operator, condition, said, stable

pytestmark = [pytest.mark.xdist_group("reconcile"), pytest.mark.usefixtures("operator")]

STEPS: dict[str, Any] = {"steps": [{"setWeight": 20}, {"pause": {}}, {"setWeight": 60}, {"pause": {}}]}


def ref(name: str, *, optional: bool = False, **more: Any) -> dict[str, Any]:
    return {"configMapRef": {"name": name, "optional": optional}, **more}


async def gives(operator: Operator, client: Client, name: str, wanted: dict[str, Any], version: str = "stable") -> None:
    """Wait for what is served: that follows the status by a watch of its own."""
    last: dict[str, Any] = {}

    async def met() -> bool:
        nonlocal last
        with suppress(HTTPError):  # 404: it has not heard of a candidate yet
            path = f"/v1/namespaces/{client.namespace}/registries/{name}?version={version}"
            last = (await asyncio.to_thread(operator.read, path))["data"]
        return last == wanted

    await client.wait(met, lambda: f"{name} to give {wanted}, not {last}")


async def test_formats_prefixes_and_order(client: Client, operator: Operator) -> None:
    first = {
        "number": "1",
        "text": "on",
        "quoted": '"on"',
        "object": ' {"a": [1, null]} ',
        "null": "null",
        "truth": "true",
        "almost": "{oops",
        "spaced": "7 \n",
        "both": "first",
        "all": "first",
    }
    await client.configmap("f-first", first)
    await client.configmap("f-second", {"both": "second", "all": "second", "object": "gone"})
    sources = [
        ref("f-first"),
        ref("f-second"),
        ref("f-first", format="String", prefix="s."),
        ref("f-second", prefix="a/b."),
        ref("f-absent", optional=True),
    ]
    await client.apply("formats", data={"all": "data", "s.number": [2]}, dataFrom=sources)
    await client.ready("formats")
    auto = {
        "number": 1,
        "text": "on",
        "quoted": "on",
        "object": "gone",  # whole keys, no merge of what is in them
        "null": None,
        "truth": True,
        "almost": "{oops",
        "spaced": 7,
        "both": "second",
        "all": "data",
    }
    strings = {f"s.{key}": text for key, text in first.items()} | {"s.number": [2]}
    second = {"a/b.both": "second", "a/b.all": "second", "a/b.object": "gone"}
    await gives(operator, client, "formats", {**auto, **strings, **second})
    # The order of the list decides, and is content.
    await client.apply("formats", data={"all": "data", "s.number": [2]}, dataFrom=[sources[1], sources[0]])
    await client.until("formats", lambda s: stable(s, 2))
    swapped = {**auto, "both": "first", "object": {"a": [1, None]}, "s.number": [2]}
    await gives(operator, client, "formats", swapped)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"_hidden": "1"}, "ConfigMap {name}: '_hidden': expected a key of the form"),
        ({"big": "9007199254740993"}, "spec.data['big']"),
        ({"whole": "x" * (512 * 1024)}, "expected at most 524,288 bytes"),
    ],
    ids=["key", "integer", "size"],
)
async def test_a_source_that_cannot_be_taken_holds_what_is_served(
    client: Client, operator: Operator, data: dict[str, str], told: str
) -> None:
    name = f"bad-{next(iter(data)).strip('_')}"
    await client.configmap(name, {"a": "1"})
    await client.apply(name, dataFrom=[ref(name)])
    before = await client.ready(name)
    await client.configmap(name, {"a": "2", **data})
    held = await client.until(name, lambda s: said(s, Stalled=("True", "InvalidSpec")))
    assert told.format(name=name) in condition(held, "Stalled")["message"]
    assert (held["stable"], held["revision"]) == (before["stable"], before["revision"])
    await gives(operator, client, name, {"a": 1})
    await client.configmap(name, {"a": "2"})
    await client.until(name, lambda s: stable(s, 2))


async def test_an_optional_source_that_goes_is_a_rollout_with_steps(client: Client, operator: Operator) -> None:
    await client.configmap("o-base", {"a": "1"})
    await client.configmap("o-extra", {"b": "2"})
    sources = [ref("o-base"), ref("o-extra", optional=True)]
    await client.apply("optional", dataFrom=sources, rollout=STEPS)
    await client.ready("optional")
    await gives(operator, client, "optional", {"a": 1, "b": 2})
    await client.configmap("o-extra", None)
    gray = await client.until("optional", lambda s: said(s, Ready=("False", "Paused")))
    assert (gray["stable"]["version"], gray["canary"]["version"], gray["canary"]["weight"]) == (1, 2, 20)
    await gives(operator, client, "optional", {"a": 1, "b": 2})
    await gives(operator, client, "optional", {"a": 1}, "canary")
    for step, weight in ((0, 60), (2, None)):
        await client.command("optional", "promote", f"2:{step}:go-{step}")
        await client.until("optional", lambda s, weight=weight: s.get("canary", {}).get("weight") == weight)  # type: ignore[misc]
    assert stable(await client.ready("optional"), 2)
    await gives(operator, client, "optional", {"a": 1})
    # It comes back: content that was served before, under its number, by steps as well.
    await client.configmap("o-extra", {"b": "2"})
    back = await client.until("optional", lambda s: said(s, Ready=("False", "Paused")))
    assert (back["stable"]["version"], back["canary"]["version"], back["canary"]["weight"]) == (2, 1, 20)


async def test_a_required_source_that_goes_during_a_rollout_holds_the_candidate(
    client: Client, operator: Operator
) -> None:
    await client.configmap("r-base", {"a": "1"})
    await client.apply("required", dataFrom=[ref("r-base")], rollout=STEPS)
    await client.ready("required")
    await client.configmap("r-base", {"a": "2"})
    begun = await client.until("required", lambda s: said(s, Ready=("False", "Paused")))
    await client.configmap("r-base", None)
    held = await client.until("required", lambda s: said(s, Ready=("False", "SourceNotFound")))
    assert (held["stable"], held["revision"]) == (begun["stable"], begun["revision"])
    assert (held["canary"]["version"], held["canary"]["weight"]) == (2, 20)
    await gives(operator, client, "required", {"a": 1})
    await gives(operator, client, "required", {"a": 2}, "canary")
    # It comes back with a third content while the second is out: that takes its place, from the first step.
    await client.configmap("r-base", {"a": "3"})
    third = await client.until("required", lambda s: said(s, Ready=("False", "Paused")))
    assert (third["canary"]["version"], third["canary"]["weight"]) == (3, 20)
    assert (third["lastOutcome"]["version"], third["lastOutcome"]["result"]) == (2, "Superseded")


async def test_one_edit_of_a_shared_source_is_each_registrys_own_rollout(client: Client, operator: Operator) -> None:
    await client.configmap("shared-base", {"a": "1"})
    names = {f"shares-{number}": f"p{number}." for number in range(4)}
    for name, prefix in names.items():
        rollout = STEPS if name != "shares-0" else {}
        await client.apply(name, dataFrom=[ref("shared-base", prefix=prefix)], rollout=rollout)
        await client.ready(name)
    await client.configmap("shared-base", {"a": "2"})
    await client.until("shares-0", lambda s: stable(s, 2))
    gray = ("shares-1", "shares-2", "shares-3")
    for name in gray:
        held = await client.until(name, lambda s: said(s, Ready=("False", "Paused")))
        assert (held["stable"]["version"], held["canary"]["version"], held["canary"]["weight"]) == (1, 2, 20)
    await client.command("shares-1", "abort", "2:-:no")
    await client.command("shares-2", "promote-full", "2:-:yes")
    assert stable(await client.until("shares-1", lambda s: said(s, Stalled=("True", "Aborted"))), 1)
    assert stable(await client.ready("shares-2"), 2)
    assert (await client.status("shares-3"))["canary"]["weight"] == 20
    for number, value in enumerate((2, 1, 2, 1)):
        await gives(operator, client, f"shares-{number}", {f"p{number}.a": value})
