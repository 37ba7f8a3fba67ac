"""Each row of the conditions table, by a real registry: read through `kubectl wait`, kstatus and Argo CD's script.

All cases are brought about at once, for most of their time is waiting; each is then a test of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from tests.cluster import KubeCluster
from tests.cluster.standing import REPOSITORY
from tests.gitops import Judges
from tests.integration import gitops_docs
from tests.integration.conditions_rows import CASES, Case, Helpers, Place, id_of
from tests.integration.running import Client, Operator, Status, condition, said, speaks

pytestmark = [pytest.mark.xdist_group("gitops")]

TYPES: Final = ("Available", "Ready", "Reconciling", "Stalled", "Healthy")
SPEC_PAGE: Final = REPOSITORY / "docs" / "spec" / "configregistry.md"
GITOPS_PAGE: Final = REPOSITORY / "docs" / "gitops.md"


class Brought(NamedTuple):
    """How a case ended: its object as it stands, or why it did not come so far."""

    found: dict[str, Any]
    failure: BaseException | None = None


def expected(case: Case) -> dict[str, tuple[str, str]]:
    says = case.says
    return dict(zip(TYPES, (case.available, says.ready, says.reconciling, says.stalled, case.healthy), strict=True))


async def bring(client: Client, helpers: Helpers, case: Case) -> Brought:
    name = id_of(case)
    found: dict[str, Any] = {}

    async def there() -> bool:
        nonlocal found
        found = await client.get(name) or {}
        status: Status = found.get("status", {})
        generation = found.get("metadata", {}).get("generation", 0)
        return speaks(status, generation) and said(status, **expected(case))

    try:
        await case.bring(Place(client, helpers, name))
        await client.wait(there, lambda: f"{name}: {expected(case)}, not {found.get('status')}")
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - told by the test of this case
        return Brought(found, error)
    return Brought(found)


async def bring_all(cluster: KubeCluster, place: str, helpers: Helpers) -> dict[str, Brought]:
    async with Client.of(cluster, place) as client:
        ended = await asyncio.gather(*(bring(client, helpers, case) for case in CASES))
    return {id_of(case): brought for case, brought in zip(CASES, ended, strict=True)}


@pytest.fixture(scope="module")
def standing(crd: KubeCluster, place: str, operator: Operator) -> Iterator[dict[str, Brought]]:
    """A registry in each state."""
    with Helpers() as helpers:
        yield asyncio.run(bring_all(crd, place, helpers))


@pytest.fixture(scope="module")
def judges() -> Judges:
    """The GitOps tools, with the texts of the docs."""
    return Judges(lua=gitops_docs.lua(), exprs=gitops_docs.exprs())


@pytest.mark.parametrize("case", CASES, ids=id_of)
async def test_a_row_as_tools_read_it(
    crd: KubeCluster, client: Client, standing: dict[str, Brought], judges: Judges, case: Case
) -> None:
    name = id_of(case)
    brought = standing[name]
    if brought.failure is not None:
        raise brought.failure

    async def wait(kind: str, status: str) -> None:
        await asyncio.to_thread(
            crd.kubectl,
            *("wait", f"--for=condition={kind}={status}", f"creg/{name}", f"--namespace={client.namespace}"),
            "--timeout=30s",
        )

    wanted = expected(case)
    await asyncio.gather(*(wait(kind, status) for kind, (status, _) in wanted.items()))
    found = await client.get(name)
    assert found is not None
    status = found["status"]
    assert {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]} == wanted
    assert [each["type"] for each in status["conditions"]] == list(TYPES)
    generation = found["metadata"]["generation"]
    assert {status["observedGeneration"], *(each["observedGeneration"] for each in status["conditions"])} == {
        generation
    }
    assert not (wanted["Reconciling"][0] == wanted["Stalled"][0] == "True")
    (judged,) = judges.ask(found)
    assert judged.kstatus.status == case.says.kstatus, judged
    assert judged.argo is not None
    assert judged.argo.status == case.says.argo, judged
    assert judged.argo.message == condition(status, "Ready")["message"]
    assert judged.flux is not None
    assert judged.flux.status == ("Current" if said(status, Ready=("False", "Paused")) else case.says.kstatus)


def test_a_rollback_names_its_check_the_value_and_the_limit(standing: dict[str, Brought], judges: Judges) -> None:
    found = standing["rolled-back"].found
    (judged,) = judges.ask(found)
    for message in (condition(found["status"], "Stalled")["message"], judged.kstatus.message):
        assert all(part in message for part in ("version 2", "alive", "500", "limit 0")), message


def test_every_row_of_the_table_has_a_case() -> None:
    assert list(dict.fromkeys(case.row for case in CASES)) == rows(SPEC_PAGE, "## Conditions")


def test_the_page_on_gitops_says_of_each_row_what_the_tools_say() -> None:
    told = [tuple(cells[:3]) for cells in table(GITOPS_PAGE, "## What each state means to a tool")]
    assert told == list(dict.fromkeys((case.row, case.says.kstatus, case.says.argo) for case in CASES))


def rows(page: Path, heading: str) -> list[str]:
    return [cells[0] for cells in table(page, heading)]


def table(page: Path, heading: str) -> list[list[str]]:
    """The first table below a heading, without its head."""
    text = page.read_text().partition(f"\n{heading}\n")[2]
    found = re.search(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    assert found, f"{page.name}: a table below {heading!r}"
    lines = found.group().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
