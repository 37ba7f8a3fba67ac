"""Rounds: all stories at once under one operator, which dies at one target after the other.

Each kill hits every registry of the round, wherever it is; which one it was aimed at is in the plan. A round ends
when all its stories have, and a target that nobody came to is given back.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from tests.integration.crash_judge import Kept, ending_of, judge
from tests.integration.crash_lives import KILLED, Lane, Target
from tests.integration.crash_stories import DEPENDENCY, STORIES, Play, Surroundings, watched
from tests.integration.histories_world import patiently
from tests.integration.running import Client, History, stable

NOBODY: Final = ""
"""The story of what is done for no registry."""
EACH: Final = 5
"""Targets of one story in one round."""
STARTS: Final = 1
"""Targets of a round in what is done for no registry."""
COMMITTED: Final = "act.status.after"
"""The commit point: from here on a decision is one, and this process alone knows of it."""
BY_CHANCE: Final = ("events.again.", "api.patch.events.")
"""Only come to when the same is told twice by one life."""
READ_IN: Final = 3
"""Stories in which each place is a target where nothing is written."""


class Aim(NamedTuple):
    """A place to die at, in any registry of a story."""

    story: str
    name: str
    hit: int


class CrashError(AssertionError):
    """What kills broke, and which."""


def aims(reached: Mapping[tuple[str, str], int], seed: int, part: int, parts: int, *, all_of_them: bool) -> list[Aim]:
    """What one of some parts aims at, by how often each story came to each place when nothing was killed.

    Each place where something is written, in each story; each other place in `READ_IN` stories; which hit of those
    that there are is drawn, but after the status was written it is each. Or, with `all_of_them`, each hit of each
    place in each story.
    """
    stories = defaultdict[str, list[str]](list)
    for story, name in sorted(reached):
        if not name.startswith(BY_CHANCE):
            stories[name].append(story)
    found: list[Aim] = []
    for name, among in stories.items():
        chance = random.Random(f"{seed} {name}")
        chosen = among if all_of_them or writes(name) else chance.sample(among, min(len(among), READ_IN))
        for story in chosen:
            if zlib.crc32(f"{seed} {story} {name}".encode()) % parts != part:
                continue
            times = 1 if story == NOBODY else reached[story, name]
            each = all_of_them or name == COMMITTED
            hits = range(1, times + 1) if each else [1 + int(chance.random() * times)]
            found += [Aim(story, name, hit) for hit in hits]
    random.Random(seed).shuffle(found)
    return found


def writes(name: str) -> bool:
    """Whether it is a place at which something is written, or decided to be."""
    return name.startswith(("act.", "api.create.", "api.replace.", "api.patch.", "api.delete."))


def rounds(todo: list[Aim]) -> list[dict[str, list[Aim]]]:
    """Which round aims at what."""
    waiting: defaultdict[str, list[Aim]] = defaultdict(list)
    for aim in todo:
        waiting[aim.story].append(aim)
    found = []
    while any(waiting.values()):
        taken: dict[str, list[Aim]] = {}
        for story, left in waiting.items():
            number = STARTS if story == NOBODY else EACH
            taken[story], waiting[story] = left[:number], left[number:]
        found.append(taken)
    return found


class Stage:
    """One lane, and all that is needed to play in it."""

    def __init__(self, lane: Lane, client: Client, around: Surroundings) -> None:
        self.lane = lane
        self.client = client
        self.around = around
        self.plays: dict[str, Play] = {}
        self.kept: dict[str, Kept] = {}
        """What each story of the last round came to."""
        self.killed: list[tuple[str, Target]] = []
        """In which order who died where."""

    async def dependency(self) -> None:
        """Have the registry that others depend on ready."""
        await self.client.apply(DEPENDENCY, data={"n": 0})
        await self.lane.begin()
        await self.client.until(DEPENDENCY, lambda s: stable(s, 1))
        await self.lane.end()

    async def play(self, number: int, aimed: Mapping[str, list[Aim]], references: Mapping[str, Kept]) -> list[Aim]:
        """One round; gives what was not come to, at an earlier hit to be tried next. Raises `CrashError`.

        A life that finds what the one before has written does not write it again: the last hits may never come.
        """
        names = {story: f"{story}-{number}" for story in STORIES}
        targets = [Target(names.get(aim.story, ""), aim.name, aim.hit) for each in aimed.values() for aim in each]
        plays = {name: Play(self.client, name, story, self.around, History(name)) for story, name in names.items()}
        self.plays.clear()
        self.plays.update(plays)
        kills = len(self.killed)
        watching = asyncio.create_task(watched(self.client, self.plays))
        await asyncio.sleep(0)
        stories = [asyncio.ensure_future(STORIES[play.story](play)) for play in plays.values()]
        try:
            await self._lives(stories, watching, targets)
            kept = await asyncio.gather(*(patiently(partial(ending_of, play)) for play in plays.values()))
            for play, each in zip(plays.values(), kept, strict=True):
                if references:
                    self._judge(play, each, references[play.story], len(self.killed) - kills)
            self.kept = {play.story: each for play, each in zip(plays.values(), kept, strict=True)}
            assert not self.lane.defects, self.lane.defects[:3]
        except Exception as error:
            told = "\n".join(f"  {life}: killed at {target}" for life, target in self.killed[kills:])
            raise CrashError(f"round {number} of {self.lane.namespace}: {error}\n{told}") from error
        finally:
            for task in (watching, *stories):
                task.cancel()
            await asyncio.gather(watching, *stories, return_exceptions=True)
            await self.lane.end()
            for name in plays:
                await patiently(partial(self.client.delete, name))
        left = [aim for each in aimed.values() for aim in each if self._left(names, aim, targets)]
        return [aim._replace(hit=(aim.hit + 1) // 2) for aim in left]

    @staticmethod
    def _judge(play: Play, kept: Kept, reference: Kept, kills: int) -> None:
        try:
            judge(play, kept, reference, kills)
        except AssertionError as error:
            raise CrashError(f"{play.name}: {error}") from error

    @staticmethod
    def _left(names: Mapping[str, str], aim: Aim, targets: list[Target]) -> bool:
        return Target(names.get(aim.story, ""), aim.name, aim.hit) in targets

    async def _lives(
        self, stories: Sequence[asyncio.Future[None]], watching: asyncio.Task[None], targets: list[Target]
    ) -> None:
        """One life after the other, until all stories have ended. Takes away from `targets` what was come to."""
        over = asyncio.gather(*stories)
        while not over.done():
            starts = [each for each in targets if not each.registry]
            # One that dies at its start comes to nothing else: only when others have died before.
            armed = [each for each in targets if each.registry] if self.lane.lives % 5 else starts or targets
            end = await self.lane.begin(armed)
            await asyncio.wait((over, end, watching), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()  # without it the stories would wait in vain
            if not end.done():
                break
            place = self.lane.look()
            assert end.result() == KILLED, f"a life ended with {end.result()}: {self.lane.log.read_text()[-2000:]}"
            assert place is not None
            hit = next(each for each in armed if self._is_at(each, place))
            targets.remove(hit)
            self.killed.append((f"life {self.lane.lives}", hit))
        await over

    def _is_at(self, target: Target, place: tuple[str, str]) -> bool:
        if not target.registry:
            return target.name == place[1]
        return (target.registry, target.name) == place and self.lane.reached[place] >= target.hit


def by_story(reached: Counter[tuple[str, str]], number: int) -> Counter[tuple[str, str]]:
    """How often each story of a round came where."""
    names = {f"{story}-{number}": story for story in STORIES}
    found: Counter[tuple[str, str]] = Counter()
    for (registry, name), times in reached.items():
        if registry in names or not registry:
            found[names.get(registry, NOBODY), name] += times
    return found
