"""Statuses and contents arrive in any order, vanish, and come back as somebody else's.

The truth is a list of decisions for each uid; what is delivered of it, when and how often, is
Hypothesis's. After each flush the reads are held against what they may give at all: never a
mixture, never content that was not recorded, never an older revision, never a candidate that the
newest status seen does not name, and exactly the newest status once its content is there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.serve_fakes import World, body, digest, named, revision, status_of

from configregistry.kube.objects import RevisionObject

NAMES = ("a", "a-1")  # a-1's revisions are named a-1-N, which is not version "1-N" of a
KEYS = [("shop", name) for name in NAMES]
CONTENTS: list[dict[str, Any]] = [{}, {"x": 1}, {"x": 2}, {"x": 2, "y": [1]}, {"z": None}]


class Decision(NamedTuple):
    revision: int
    stable: int
    canary: int | None
    weight: int


class Life:
    """One uid: what was recorded and decided, and what this replica has seen of it."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.contents: dict[int, dict[str, Any]] = {}
        self.decisions: list[Decision] = []
        self.seen: Decision | None = None
        self.given = 0

    def status(self, decision: Decision) -> dict[str, Any]:
        canary = None
        if decision.canary is not None:
            canary = {"version": decision.canary, "weight": decision.weight}
        return {
            "uid": self.uid,
            **status_of(
                decision.revision,
                decision.stable,
                self.contents[decision.stable],
                canary,
                self.contents[decision.canary] if decision.canary is not None else None,
            ),
        }


class Hydration(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.world = World()
        self.lives: dict[tuple[str, str], Life] = {}
        self.uids = 0
        self.put: dict[tuple[str, str], Decision | None] = {}

    def live(self, data: st.DataObject) -> tuple[tuple[str, str], Life] | None:
        if not self.lives:
            return None
        key = data.draw(st.sampled_from(sorted(self.lives)))
        return key, self.lives[key]

    # The truth.

    @rule(key=st.sampled_from(KEYS), status=st.booleans())
    def create(self, key: Any, status: Any) -> None:
        """A new object; its namesake, if there was one, goes without a separate event."""
        self.uids += 1
        self.lives[key] = Life(f"uid-{self.uids}")
        self.put[key] = None
        self.world.put(key, self.lives[key].uid, {"revision": 0} if status else None)

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: Any) -> None:
        if self.lives.pop(key, None) is not None:
            self.put.pop(key)
            self.world.drop(key)

    @rule(data=st.data(), content=st.sampled_from(CONTENTS), weight=st.sampled_from([0, 50, 100]))
    def decide(self, data: Any, content: Any, weight: Any) -> None:
        """The controller records content and writes a status; nothing of it is delivered yet."""
        if (chosen := self.live(data)) is None:
            return
        _key, life = chosen
        number = len(life.contents) + 1
        life.contents[number] = content
        numbers = st.sampled_from(sorted(life.contents))
        stable = data.draw(numbers)
        canary = data.draw(st.none() | numbers.filter(lambda n: n != stable))
        life.decisions.append(Decision(len(life.decisions) + 1, stable, canary, weight))

    # What is delivered of it.

    @rule(data=st.data())
    def deliver_status(self, data: Any) -> None:
        if (chosen := self.live(data)) is None or not chosen[1].decisions:
            return
        key, life = chosen
        decision = data.draw(st.sampled_from(life.decisions[-3:]))
        self.put[key] = decision
        self.world.put(key, life.uid, life.status(decision))

    @rule(data=st.data(), raw=st.sampled_from([b"{", b"[]", b'{"revision":"x"}', b"\xff"]))
    def deliver_nonsense(self, data: Any, raw: Any) -> None:
        if (chosen := self.live(data)) is not None:
            key, life = chosen
            self.put[key] = None
            self.world.put(key, life.uid, raw)

    @rule(data=st.data(), whole=st.booleans())
    def deliver_content(self, data: Any, whole: Any) -> None:
        if (chosen := self.live(data)) is None or not chosen[1].contents:
            return
        key, life = chosen
        numbers = sorted(life.contents)
        for number in numbers if whole else [data.draw(st.sampled_from(numbers))]:
            self.world.record(key, number, revision(life.uid, life.contents[number]))

    @rule(data=st.data(), kind=st.sampled_from(["owner", "content", "label", "garbage"]))
    def deliver_something_else(self, data: Any, kind: Any) -> None:
        """A namesake's revision, or one whose content is not what its hash says."""
        if (chosen := self.live(data)) is None or not chosen[1].contents:
            return
        key, life = chosen
        number = data.draw(st.sampled_from(sorted(life.contents)))
        self.world.record(key, number, self.wrong(life, number, kind))

    def wrong(self, life: Life, number: int, kind: str) -> RevisionObject:
        right = revision(life.uid, life.contents[number])
        if kind == "owner":
            return revision("uid-of-a-namesake", {"secret": True})
        if kind == "content":
            return revision(life.uid, {"forged": 1}, label=right.hash)
        if kind == "label":
            return revision(life.uid, {"forged": 2})
        return revision(life.uid, {}, raw=b"\x00")

    @rule(data=st.data())
    def lose_content(self, data: Any) -> None:
        if self.world.revisions:
            namespace, name = data.draw(st.sampled_from(sorted(self.world.revisions)))
            registry, _, number = name.rpartition("-")
            self.world.forget((namespace, registry), int(number))

    @precondition(lambda self: self.world.asked)
    @rule(data=st.data(), kind=st.sampled_from(["absent", "right", "owner", "content"]))
    def answer(self, data: Any, kind: Any) -> None:
        """A GET by name is answered, perhaps long after anybody wants to know."""
        key, uid, number = data.draw(st.sampled_from(self.world.asked))
        life = self.lives.get(key)
        found = None
        if life is not None and life.uid == uid and kind != "absent":
            right = revision(uid, life.contents[number])
            found = right if kind == "right" else self.wrong(life, number, kind)
            found = named(found, key[0], key[1], number)
        self.world.hydrator.answered(key, uid, number, found)

    # What may be read.

    @rule()
    def flush(self) -> None:
        self.world.flush()
        for key in KEYS:
            self.check(key)
        assert self.world.hydrator.ready

    def check(self, key: tuple[str, str]) -> None:
        registry = self.world.hydrator.snapshot().registry(*key)
        life = self.lives.get(key)
        response = self.world.get(f"/v1/namespaces/{key[0]}/registries/{key[1]}")
        if life is None:
            assert registry is None
            assert response.status == 404
            return
        assert registry is not None
        assert registry.uid == life.uid
        put = self.put[key]
        if put is not None and (life.seen is None or put.revision >= life.seen.revision):
            life.seen = put
        if life.seen is None:
            assert body(response)["type"].endswith("/NoVersion")
            return
        assert registry.revision >= life.given
        life.given = registry.revision
        if registry.revision:
            decision = life.decisions[registry.revision - 1]
            assert registry.stable is not None
            assert registry.stable.number == decision.stable
            if registry.canary is not None:
                assert registry.canary.version.number == decision.canary
                assert registry.canary.weight == decision.weight
                assert decision.canary in (life.seen.stable, life.seen.canary)
        self.check_reads(key, life, response)
        if all(self.there(key, life, n) for n in (life.seen.stable, life.seen.canary)):
            assert registry.revision == life.seen.revision
            given = registry.canary.version.number if registry.canary else None
            assert given == life.seen.canary
        elif registry.revision != life.seen.revision:
            names = {life.seen.stable, life.seen.canary} - {None}
            assert any((key, life.uid, number) in self.world.asked for number in names)

    def there(self, key: tuple[str, str], life: Life, number: int | None) -> bool:
        if number is None:
            return True
        held = self.world.revisions.get((key[0], f"{key[1]}-{number}"))
        right = revision(life.uid, life.contents[number])
        return held == named(right, *key, number)

    def check_reads(self, key: tuple[str, str], life: Life, response: Any) -> None:
        path = f"/v1/namespaces/{key[0]}/registries/{key[1]}"
        if response.status == 503:
            assert body(response)["type"].endswith("/VersionMissing")
            assert life.given == 0
        for read in (response, self.world.get(path, "version=canary")):
            if read.status == 200:
                answer = body(read)
                content = life.contents[answer["version"]]
                assert answer["data"] == content
                assert answer["hash"] == digest(content)
                assert answer["revision"] == life.given
        for number in life.contents:
            read = self.world.get(path, f"version={number}")
            if read.status == 200:
                held = body(read)["data"]
                # A forged revision that is consistent in itself is history, but never given.
                assert held in (life.contents[number], {"forged": 2})

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.flush()


Hydration.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHydration = Hydration.TestCase
