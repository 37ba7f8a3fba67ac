"""Listings of keys beside a sorted dict: across publications, pages, prunings and two replicas that lag.

Each page must be what the sorted dict of the first page's state goes on with, whichever replica gives it, or be
refused for a reason that holds there.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.serve_fakes import World, body, digest, request, revision, status_of

from configregistry.serve.responses import Response

NAMES = ("a", "b", "c")
KEYS = ("a", "a.b", "a/b", "aa", "b", "ba", "c0", "c1", "c10", "c2")
CONTENTS = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3), min_size=4, max_size=len(KEYS))
NAME = st.sampled_from(NAMES)
REPLICA = st.integers(0, 1)
AT_ONCE = st.sampled_from([None, 0, 1])
ANY = st.integers(0, 99)
PREFIX = st.sampled_from(["", "", "a", "c1"])
BOUND = st.sampled_from([None] * 8 + [*KEYS, "", "ab", "zz"])


@dataclass(frozen=True)
class Decision:
    """What a status says of one registry."""

    uid: str
    revision: int
    stable: int
    canary: int | None = None
    weight: int = 0
    fallback: str | None = None

    @property
    def given(self) -> tuple[int, str]:
        return (self.canary, "canary") if self.canary is not None and self.weight else (self.stable, "stable")


@dataclass
class Life:
    """One registry as it is in truth; versions that were pruned are in `contents` still."""

    decision: Decision
    contents: dict[int, dict[str, int]]
    recorded: set[int] = field(default_factory=set)


@dataclass
class Listing:
    """A listing under way: what has to come, and what names it."""

    name: str
    filter: dict[str, str]
    links: list[tuple[str, Decision]]
    about: dict[str, Any]
    rest: list[dict[str, Any]]
    token: str


class Timer:
    def cancel(self) -> None:
        pass


class Ranges(RuleBasedStateMachine):
    @initialize(contents=st.lists(CONTENTS, min_size=3, max_size=3))
    def start(self, contents: list[dict[str, int]]) -> None:
        self.replicas = (World(), World())
        for world in self.replicas:
            world.service.waits._later = lambda _seconds, _call: Timer()
            world.service.waits.drain()
        self.lives: dict[str, Life] = {}
        self.contents: dict[tuple[str, int], dict[str, int]] = {}
        self.seen: tuple[dict[str, Decision], ...] = ({}, {})
        self.listings: list[Listing] = []
        self.uids = 0
        for name, content, fallback in zip(NAMES, contents, ("b", "c", None), strict=True):
            self.create(name, content)
            self.decide(name, fallback=fallback)
            self.all_arrives(0, name)
            self.all_arrives(1, name)

    # The truth.

    def create(self, name: str, data: dict[str, int]) -> None:
        self.uids += 1
        uid = f"uid-{self.uids}"
        self.lives[name] = Life(Decision(uid, 1, 1), {1: data}, {1})
        self.contents[uid, 1] = data

    @rule(name=NAME, data=CONTENTS, deleted=st.booleans())
    def end_or_replace(self, name: str, data: dict[str, int], deleted: bool) -> None:
        if name not in self.lives or not deleted:
            self.create(name, data)
        else:
            del self.lives[name]

    def decide(self, name: str, **changes: Any) -> None:
        life = self.lives[name]
        life.decision = replace(life.decision, revision=life.decision.revision + 1, **changes)

    @rule(name=NAME, content=CONTENTS, way=st.sampled_from(["swap", "canary", "shown"]), at_once=AT_ONCE)
    def change(self, name: str, content: dict[str, int], way: str, at_once: int | None) -> None:
        if name not in self.lives:
            self.create(name, content)
        life = self.lives[name]
        number = max(life.contents) + 1
        life.contents[number] = self.contents[life.decision.uid, number] = content
        life.recorded.add(number)
        if way == "swap":
            self.decide(name, stable=number, canary=None)
        else:
            self.decide(name, canary=number, weight=100 if way == "shown" else 0)
        if at_once is not None:
            self.all_arrives(at_once, name)
            self.begin(at_once, name, "", None, None, 1)

    @rule(name=NAME, weight=st.sampled_from([0, 100, None]), fallback=st.sampled_from([*NAMES, None]))
    def step_or_roll_back(self, name: str, weight: int | None, fallback: str | None) -> None:
        life = self.lives.get(name)
        if life is None:
            return
        if life.decision.canary is None:
            self.decide(name, fallback=fallback)
        elif weight is None:
            self.decide(name, canary=None)
        else:
            self.decide(name, weight=weight)

    @rule(name=NAME, which=ANY)
    def prune(self, name: str, which: int) -> None:
        life = self.lives.get(name)
        old = sorted(life.recorded - {life.decision.stable, life.decision.canary}) if life is not None else []
        if life is not None and old:
            life.recorded.discard(old[which % len(old)])

    # What arrives of it.

    @rule(replica=REPLICA, name=NAME)
    def versions_arrive(self, replica: int, name: str) -> None:
        world, life = self.replicas[replica], self.lives.get(name)
        there = {key: made for key, made in world.revisions.items() if key[1].rpartition("-")[0] == name}
        wanted = life.recorded if life is not None else set()
        for (_, held), made in there.items():
            number = int(held.rpartition("-")[2])
            if number not in wanted or (life and made.owner_uid != life.decision.uid):
                world.forget(("shop", name), number)
        if life is not None:
            for number in wanted:
                if ("shop", f"{name}-{number}") not in world.revisions:
                    world.record(("shop", name), number, revision(life.decision.uid, life.contents[number]))
        world.flush()

    @rule(replica=REPLICA, name=NAME)
    def all_arrives(self, replica: int, name: str) -> None:
        self.versions_arrive(replica, name)
        world, life = self.replicas[replica], self.lives.get(name)
        if life is not None:
            decision = life.decision
            canary = {"version": decision.canary, "weight": decision.weight} if decision.canary else None
            told = status_of(
                decision.revision,
                decision.stable,
                life.contents[decision.stable],
                canary,
                life.contents[decision.canary] if decision.canary else None,
                decision.fallback,
            )
            world.put(("shop", name), decision.uid, {**told, "uid": decision.uid})
            self.seen[replica][name] = decision
        elif name in self.seen[replica]:
            world.drop(("shop", name))
            del self.seen[replica][name]
        world.flush()

    # Readers.

    def ask(self, replica: int, name: str, query: dict[str, Any]) -> Response:
        path = f"/v1/namespaces/shop/registries/{name}/keys"
        reply = self.replicas[replica].app(request(path, urlencode(query)))
        if isinstance(reply, Response):
            return reply
        assert isinstance(reply, Coroutine)
        with pytest.raises(StopIteration) as ended:  # held, and let go at once: this replica is draining
            reply.send(None)
        assert isinstance(ended.value.value, Response)
        return ended.value.value

    def chain(self, replica: int, name: str) -> list[tuple[str, Decision]]:
        links: list[tuple[str, Decision]] = []
        following: str | None = name
        while following in self.seen[replica] and following not in [met for met, _ in links]:
            links.append((following, self.seen[replica][following]))
            following = links[-1][1].fallback
        return links

    @rule(replica=REPLICA, name=NAME, prefix=PREFIX, low=BOUND, high=BOUND, limit=st.integers(1, 3))
    def begin(self, replica: int, name: str, prefix: str, low: str | None, high: str | None, limit: int) -> None:
        if name not in self.seen[replica]:
            return
        links = self.chain(replica, name)
        merged: dict[str, dict[str, Any]] = {}
        for source, decision in links:
            for key, value in self.contents[decision.uid, decision.given[0]].items():
                merged.setdefault(key, {"key": key, "value": value, "source": source})
        expected = [
            merged[key]
            for key in sorted(merged)
            if key.startswith(prefix) and (low is None or key >= low) and (high is None or key < high)
        ]
        first = links[0][1]
        number, variant = first.given
        content = self.contents[first.uid, number]
        about = {
            "namespace": "shop",
            "registry": name,
            "version": number,
            "hash": digest(content),
            "variant": variant,
            "revision": first.revision,
        }
        bounds = {"prefix": prefix, "start": low, "end": high}
        query = {key: value for key, value in bounds.items() if value is not None}
        response = self.ask(replica, name, {**query, "limit": limit})
        self.page(Listing(name, query, links, about, expected, ""), response, limit)

    @rule(which=ANY, limit=st.integers(1, 4), repeated=st.booleans())
    def go_on(self, which: int, limit: int, repeated: bool) -> None:
        if not self.listings:
            for name in NAMES:
                self.begin(which % 2, name, "", None, None, 1)
        if not self.listings:
            return
        listing = self.listings[which % len(self.listings)]
        query = {**(listing.filter if repeated else {}), "continue": listing.token, "limit": limit}
        pages = []
        for replica in (0, 1):
            response = self.ask(replica, listing.name, query)
            why = [self.lacks(replica, *link) for link in listing.links]
            if response.status == 503:
                assert "behind" in why
            elif response.status == 410:
                assert "gone" in why
            else:
                pages.append(response)
            if not any(why):
                assert response in pages
        if pages:
            assert all(page.body == pages[0].body for page in pages)
            self.listings.remove(listing)
            self.page(listing, pages[0], limit)

    def lacks(self, replica: int, name: str, decision: Decision) -> str | None:
        """Say why a replica need not know a version: it may all the same, from memory."""
        seen = self.seen[replica].get(name)
        if seen is None or seen.uid != decision.uid:
            return "gone"
        held = self.replicas[replica].revisions.get(("shop", f"{name}-{decision.given[0]}"))
        if held is not None and held.owner_uid == decision.uid:
            return None
        return "behind" if seen.revision < decision.revision else "gone"

    def page(self, listing: Listing, response: Response, limit: int) -> None:
        assert response.status == 200, response
        answer = body(response)
        assert answer.pop("keys") == listing.rest[:limit]
        more = answer.pop("continue", None)
        assert answer == listing.about
        assert (more is not None) == (len(listing.rest) > limit)
        if more is not None:
            self.listings.append(replace(listing, rest=listing.rest[limit:], token=more))


TestRanges = Ranges.TestCase
TestRanges.settings = settings(max_examples=100, stateful_step_count=50)
