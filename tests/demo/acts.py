"""The first two acts: a first version for everybody, and a second one through 10, 50 and 100 %."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from tests.demo.follow import NotSeenError, View
from tests.demo.kubectl import Kubectl
from tests.demo.ledger import Ledger
from tests.demo.manifests import PAUSE, REGISTRY, Manifest, Manifests
from tests.demo.picked import content_hash, picked
from tests.demo.picture import Picture
from tests.demo.screen import Screen
from tests.demo.shop import PERIOD

SABOTAGE = "DEMO_SABOTAGE"
"""For the test of the demo: `expectation` spoils one, `operator` kills the operator in the second act."""
_READS = 10 * PERIOD
"""Within this all workers have asked again, on a busy machine too."""


@dataclass(frozen=True)
class Stage:
    """What an act works with."""

    screen: Screen
    ledger: Ledger
    kubectl: Kubectl
    namespace: str
    view: View
    picture: Picture
    manifests: Manifests
    kill_operator: Callable[[], None]

    @contextmanager
    def act(self, title: str) -> Iterator[None]:
        """Begin one."""
        self.screen.heading(title)
        self.ledger.act = title.partition(":")[0]
        yield

    async def apply(self, manifest: Manifest, *, before: Manifest | None = None) -> None:
        """Show what is new, and apply it as a person would."""
        self.screen.changes(manifest.changes(before) if before else manifest.text)
        arguments = ("apply", "--server-side", "-n", self.namespace, "-f", manifest.file)
        (self.kubectl.directory / manifest.file).write_text(manifest.text)
        self.screen.command(f"kubectl {' '.join(arguments)}")
        self.screen.output(await self.kubectl.run(*arguments))

    async def list(self) -> None:
        """Show what a person sees."""
        arguments = ("get", "creg", REGISTRY, "-n", self.namespace, "-o", "wide")
        self.screen.command(f"kubectl {' '.join(arguments)}")
        self.screen.output(await self.kubectl.run(*arguments))

    def is_complete(self, version: int) -> bool:
        """Tell whether a version is what everybody gets, by the status."""
        view = self.view
        return view.stable == version and not view.canary and view.condition("Ready").get("status") == "True"

    def all_have(self, version: int, variant: str = "stable") -> bool:
        """Tell whether each worker says that it has this version and works."""
        workers = self.view.workers
        return bool(workers) and all(
            (each["version"], each["variant"], each["ok"]) == (version, variant, True) for each in workers
        )


async def first_version(stage: Stage) -> None:
    """There is nothing to compare with and nobody to protect: everybody gets it at once."""
    view, one = stage.view, stage.manifests.one
    with stage.act("Version 1: the first one, for everybody"):
        began = time.monotonic()
        await stage.apply(one)
        with stage.picture.shown():
            await view.until(lambda: stage.is_complete(1), "version 1 to be stable and Ready to be True")
            await view.until(lambda: stage.all_have(1), "all workers to work with version 1")
        took = max(worker["since"] for worker in view.workers) - began
        served = len(view.having(1))
        stage.ledger.expect("all 50 workers work with version 1", served == 50, f"{served}, {took:.1f} s after apply")
        recorded = view.status["stable"].get("hash")
        stage.ledger.expect("its hash is that of its content", recorded == content_hash(one.data), str(recorded))
        await stage.list()


async def second_version(stage: Stage) -> None:
    """A good change: exactly the picked workers first, then more of them, then all."""
    view, manifests = stage.view, stage.manifests
    with stage.act("Version 2: 10 %, 50 %, 100 %"):
        mark, began = len(view.journal), time.monotonic()
        await stage.apply(manifests.two, before=manifests.one)
        seed = content_hash(manifests.two.data)
        if os.environ.get(SABOTAGE) == "expectation":
            seed = "another seed"
        with stage.picture.shown():
            for weight in (10, 50, 100):
                await _reached(stage, weight, picked(seed, weight, view.names()))
                if weight == 10 and os.environ.get(SABOTAGE) == "operator":
                    stage.kill_operator()
            await view.until(lambda: stage.is_complete(2), "version 2 to be stable and Ready to be True")
            took = time.monotonic() - began
            await view.until(lambda: stage.all_have(2), "all workers to say that version 2 is stable", within=_READS)
        _judge(stage, mark, seed)
        stage.ledger.expect("version 2 is stable for everybody", len(view.having(2)) == 50, f"after {took:.1f} s")
        await stage.list()


async def _reached(stage: Stage, weight: int, expected: frozenset[str]) -> None:
    """Await a weight, and that those who are to get it have it. Who else has it is judged at the end."""
    view = stage.view
    await view.until(lambda: view.at_weight(2, weight), f"version 2 to be at {weight} %", within=PAUSE + 20)
    with contextlib.suppress(NotSeenError):
        await view.until(lambda: view.having(2) >= expected, "the picked workers to have it", within=_READS)


def _judge(stage: Stage, mark: int, seed: str) -> None:
    """Judge by the journal, which misses nothing: who had it at which weight, nobody went back, no pause was cut."""
    view, ledger = stage.view, stage.ledger
    since = view.journal[mark:]
    for weight, after in ((10, 50), (50, 100), (100, None)):
        expected = picked(seed, weight, view.names())
        end = view.at_weight(2, after) if after else None
        have = {e["name"] for e in since if e["version"] == 2 and (end is None or e["revision"] < end.revision)}
        told = f"{len(have)} workers"
        if have != expected:
            told += f"; not expected: {_some(have - expected)}; missing: {_some(expected - have)}"
        ledger.expect(f"at {weight} % exactly the {len(expected)} that sha256 picks", have == expected, told)
    moved: dict[str, list[int]] = {}
    for entry in since:
        moved.setdefault(entry["name"], []).append(entry["version"])
    back = [name for name, versions in moved.items() if versions != sorted(versions)]
    ledger.expect("nobody who had version 2 went back to 1", not back, _some(back) if back else "")
    unwell = sorted({entry["name"] for entry in since if entry["ok"] is False})
    ledger.expect("no worker failed", not unwell, _some(unwell) if unwell else "")
    firsts = [_first_read(view, mark, weight) for weight in (10, 50, 100)]
    pauses = [later - sooner for sooner, later in pairwise(firsts)]
    told = ", ".join(f"{pause:.1f} s" for pause in pauses)
    # One worker asks up to a period later than another.
    ledger.expect(f"the pauses of {PAUSE:g} s were kept", all(pause > PAUSE - 2 * PERIOD for pause in pauses), told)


def _first_read(view: View, mark: int, weight: int) -> float:
    """When the first worker got version 2 because of this weight: it knows the revision that it read."""
    served = view.at_weight(2, weight)
    assert served is not None, "the weight was awaited before"
    later = (e["since"] for e in view.journal[mark:] if e["version"] == 2 and e["revision"] >= served.revision)
    return float(next(later, served.at))


def _some(names: Collection[str]) -> str:
    told = sorted(names)
    return ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "") if told else "none"
