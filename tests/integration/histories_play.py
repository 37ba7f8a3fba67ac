"""One history: what somebody does to one registry, drawn from a seed, and the judgement after each of it.

`Operations` in `histories_operations` draws; this does, waits, and compares.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from itertools import zip_longest
from typing import Any, Final

from tests.integration.histories_compare import visible
from tests.integration.histories_model import Model
from tests.integration.histories_registry import Registry, verdict_of
from tests.integration.histories_rules import Rules
from tests.integration.histories_world import Event, Read, World, patiently

from configregistry.kube import payload
from configregistry.model.status import Status, parse_status
from configregistry.rollout.observation import VersionInfo
from configregistry.rollout.table import phase_of

WITHIN: Final = 60.0
_FOREIGN: Final = "999999:-:"
"""A command that fits nothing: that it is told to be ignored shows that the operator has come by."""


class HistoryError(AssertionError):
    """What went wrong, with all that was done."""


class History(Registry):
    """One registry, and what may be so of it."""

    def __init__(self, world: World, name: str, seed: int) -> None:
        super().__init__(world, name, seed)
        self.log: list[str] = []
        self.seen: list[Status] = []
        """All that the API server accepted, by whomever, of all lives."""
        self._hands: set[str] = set()
        """The resourceVersions of statuses that a hand wrote."""
        self._shown = Status()
        """What is there, whoever wrote it."""
        self._at = 0
        """The resourceVersion up to which all was seen."""
        self._rules = Rules(self.contents, self.stages)

    @property
    def model(self) -> Model:
        """What may be so."""
        return self._model

    @property
    def status(self) -> Status:
        """The status, as far as it is compared."""
        return self._model.status

    # --- what is done ----------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """For whoever reads a failure."""
        self.log.append(text)

    async def create(self) -> None:
        """Begin the (next) life."""
        self.annotations = {}
        asked = await self.write_spec()
        self.uid = asked["metadata"]["uid"]
        self._shown = Status()
        self._rules = Rules(self.contents, self.stages)
        self._model = Model(self.asked(asked), self.configmaps(), self.verdicts)

    async def recreate(self) -> None:
        """Delete it, and make one of the same name at once."""
        await self.world.client.delete(self.name)
        await self.create()

    async def apply(self) -> None:
        """Have the object ask for `spec`."""
        self._model.edit(self.asked(await self.write_spec()))

    async def annotate(self, commands: dict[str, str]) -> None:
        """Command, all in one write."""
        self._model.edit(self.asked(await self.write_commands(commands)))

    async def set_configmap(self, data: dict[str, str] | None) -> None:
        """Make the ConfigMap hold this; None: absent."""
        if data is None and self.configmap is None:
            return
        self.configmap = data
        await patiently(lambda: self.world.client.configmap(self.configmap_name, data))
        self._model.configmaps(self.configmaps())

    def answer(self, content: str, code: int) -> None:
        """From now on checks of this content are answered so."""
        self._model.said[content] = self._model.said.get(content, frozenset()) | {self.verdicts[content]}
        self.codes[content] = code
        self.verdicts[content] = verdict_of(code)
        self._model.changed()

    async def scribble(self, status: Any) -> Status:
        """Write a part of the status, as no person should; gives what is there then."""
        found = await self.patch({"status": status}, "status")
        there = parse_status(json.dumps(found["status"]).encode()) if found.get("status") else Status()
        self._hands.add(found["metadata"]["resourceVersion"])
        await self._catch_up(found)
        return there

    def believe(self, status: Status, *, lost: bool = False) -> None:
        """The operator has to take this status for the truth."""
        self._rules.hand(status, lost=lost)
        self._model.believe(state._replace(status=status) for state in list(self._model.states.values()))

    def put_back(self, there: Status) -> None:
        """The operator has to put back what it knows, under a revision that is not behind what a hand wrote."""
        states = []
        for state in self._model.states.values():
            known = state.status
            if there.revision >= known.revision:
                known = _with_revision(known, there.revision + (_gives(there) != _gives(known)))
            states.append(state._replace(status=known))
        self._model.believe(states)

    async def ping(self) -> None:
        """See that the operator, as it runs now, knows the registry. To be called while it is held up."""
        await self.annotate({"retry": f"{_FOREIGN}{self.token()}"})
        await self.settle()

    async def delete_revision(self, number: int) -> None:
        """As no person should. What status names is made again."""
        gone = {each.number: each for state in self._model.states.values() for each in state.versions}
        self._model.deleted[number] = gone[number]
        await patiently(lambda: self.world.client.delete_revision(self.name, number))
        states = list(self._model.states.values())
        without = [s._replace(versions=tuple(v for v in s.versions if v.number != number)) for s in states]
        self._model.believe([*states, *without])
        self._model.changed()

    # --- judgement -------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until the registry is where the model says, judging each status on the way."""
        deadline = time.monotonic() + WITHIN
        try:
            await self._settle(deadline)
        finally:
            self.world.moving.pop(self.name, None)

    async def _settle(self, deadline: float) -> None:
        while not (self.queue.empty() and self._model.at_rest(self._shown)):
            self.world.moving[self.name] = phase_of(self._shown).value
            try:
                event = await asyncio.wait_for(self.queue.get(), deadline - time.monotonic())
            except TimeoutError:
                raise self.vain() from None
            self._judge(event)
        self._model.said = {}
        self._model.changed()

    async def catch_up(self) -> None:
        """See all that is there by now."""
        await self._catch_up(await patiently(lambda: self.world.client.get(self.name)))

    async def _catch_up(self, found: dict[str, Any]) -> None:
        while self._at < int(found["metadata"]["resourceVersion"]):
            self._judge(await asyncio.wait_for(self.queue.get(), WITHIN))

    async def restored(self, number: int) -> None:
        """Wait until a version that status names is there again; what came of its absence was written before."""
        if number in self._model.named():
            deadline = time.monotonic() + WITHIN
            while number not in {each.number for each in await self.revisions()}:
                assert time.monotonic() < deadline, f"version {number} is in use and was not made again"
                await asyncio.sleep(0.1)
            await self.catch_up()
            await self.compare_versions()

    def vain(self) -> HistoryError:
        """It does not come to where it should."""
        shown = dict(visible(self._shown))
        wanted = [dict(visible(each.status)) for each in self._model.ends()]
        differs = [
            {name: (shown[name], each.get(name)) for name in shown if shown[name] != each.get(name)} for each in wanted
        ]
        return HistoryError(
            f"waited {WITHIN:g} s in vain; there is {shown}\nwhat is missing (there, expected): {differs}"
        )

    def _judge(self, event: Event) -> None:
        self._at = int(event.version)
        if event.uid != self.uid or not (event.status or event.version in self._hands):
            return
        status = parse_status(event.status or b"{}")
        self.seen.append(status)
        if event.version in self._hands:
            self._shown = status
            return
        if status == self._shown:
            return  # an edit of the spec, or of annotations
        self._rules.saw(status)
        self._tally(status)
        if visible(status) != visible(self._shown):
            self._model.accept(status)
        self._shown = status

    def _tally(self, status: Status) -> None:
        """What happened, for whoever asks whether enough did."""
        before, outcome = self._shown, status.last_outcome
        met = self.world.met
        met["write"] += 1
        if outcome is not None and outcome != before.last_outcome:
            met[outcome.result] += 1
        met.update(
            f"{verb} {each.result}" for verb, each in status.commands.items() if before.commands.get(verb) != each
        )
        for now, then in zip_longest(status.conditions, before.conditions):
            if now != then and now is not None:
                met[f"{now.type} {now.reason}"] += 1

    async def see(self) -> None:
        """Settle; where versions that were recorded in passing may be there or not, look."""
        await self.settle()
        if len({tuple(sorted(each.versions)) for each in self._model.states.values()}) > 1:
            await self.compare_versions()

    async def compare_versions(self) -> None:
        """The recorded versions are those of the model; each content once, under its number, whole."""
        found = await self.revisions()
        for each in found:
            assert json.loads(payload.decode(each.payload, each.hash)) == self.contents[each.hash]
        assert len({each.hash for each in found}) == len(found), "content recorded twice"
        there = tuple(VersionInfo(each.number, each.hash, each.keys) for each in found)
        self._model.recorded(there)

    def compare_reads(self, reads: list[Read]) -> None:
        """Each answer is whole, and what its revision gave to who asked."""
        statuses: dict[int, list[Status]] = {}
        for each in self.seen:
            statuses.setdefault(each.revision, []).append(each)
        for read in reads:
            assert read.data == self.contents.get(read.hash), f"a mixture was read: {read}"
            given = {_given(each, read.target) for each in statuses.get(read.revision, ())}
            assert (read.version, read.hash, read.variant) in given, f"{read} was read; that revision gives {given}"
        self.world.met["read"] += len(reads)


def _with_revision(status: Status, revision: int) -> Status:
    raw = {name: getattr(status, name) for name in status.__struct_fields__}
    return Status(**(raw | {"revision": revision}))


def _given(status: Status, target: str) -> tuple[int, str, str] | None:
    """Version, hash and variant for a target, by the words of rollout.md."""
    canary, stable = status.canary, status.stable
    if canary is not None:
        digest = hashlib.sha256(f"{canary.seed}\n{target}".encode()).digest()
        if int.from_bytes(digest[:8], "big") % 10_000 < canary.weight * 100:
            return canary.version, canary.hash, "canary"
    return (stable.version, stable.hash, "stable") if stable is not None else None


def _gives(status: Status) -> object:
    canary, stable = status.canary, status.stable
    return (
        stable and stable.version,
        status.fallback,
        canary and (canary.version, canary.weight, canary.match, canary.seed),
    )
