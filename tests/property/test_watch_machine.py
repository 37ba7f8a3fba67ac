"""Clients watch while registries change, vanish and come back, and move between replicas that are not equally quick.

The truth is, for each uid, the list of decisions. Replicas are given the same actions in the same order, each at its
own pace. After each event a client knows from its cursor which revision of each registry of the chain it is told of;
what it has folded together must be exactly what the truth gives it at those. It never goes back, and once nothing is
under way it has what a read gives. A client that stays with one replica (or comes back to it with any cursor that it
ever had from it) is shown all that the replica published for it, in that order, and nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.serve_fakes import Key, World, body, digest, revision, status_of
from tests.watch_clients import Client, Event

from configregistry.rollout.buckets import gets_candidate
from configregistry.serve.responses import Stream
from configregistry.serve.watch.cursor import Link, decode, mark
from configregistry.serve.watch.watcher import Watcher
from configregistry.state import Canary, Match, Version

NAMES = ("a", "b", "c")
KEYS = [("shop", name) for name in NAMES]
CONTENTS: list[dict[str, Any]] = [
    {},
    {"x": 1},
    {"x": 2, "y/~": [1]},
    {"x": 2, "z": None},
    {"y/~": "Ω", "z": {"k": 1}},
    {f"long{n}": "v" * 20 for n in range(20)},
]
WEIGHTS = [0, 1, 30, 60, 99, 100]
ATTRS = [None, "eu", "us"]
BOTH, NEITHER = (0, 1), ()
SEEN = st.sampled_from([(0,), BOTH, (0,), (1,), NEITHER])
"""Which replicas have it at once."""
PARTIES = 6
ROOMS = st.sampled_from([None, None, 0, 100, 1000])
TRUTHS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "change": {"content": st.sampled_from(CONTENTS), "direct": st.booleans(), "late": st.sampled_from([False, True])},
    "step": {"weight": st.sampled_from(WEIGHTS), "match": st.sampled_from([(), ("eu",), ("eu", "us")])},
    "finish": {"promote": st.booleans()},
    "fall_back": {"fallback": st.sampled_from([None, *NAMES, "missing"])},
    "roll_back": {"data": st.data()},
    "touch": {},
    "create": {"status": st.booleans()},
    "delete": {},
    "prune": {"data": st.data()},
}
COMES = {
    "room": ROOMS,
    "kind": st.sampled_from(["newest", "newest", "earlier", "earlier", "none", "nonsense"]),
    "data": st.data(),
}
ACTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "take": {"room": st.sampled_from([1, 50, 300, 5000, None])},
    "again": COMES,
    "beat": {},
    "drain": {},
    "disconnect": {},
}


class Decision(NamedTuple):
    revision: int
    stable: int | None
    canary: int | None = None
    weight: int = 0
    seed: str = "s"
    match: tuple[str, ...] = ()
    fallback: str | None = None


class Life:
    """One uid."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.uid = f"uid-{number}"
        self.contents: dict[int, dict[str, Any]] = {}
        self.decisions: list[Decision] = []

    @property
    def last(self) -> Decision:
        return self.decisions[-1] if self.decisions else Decision(0, None)

    def at(self, number: int) -> Decision:
        return self.decisions[number - 1] if number else Decision(0, None)

    def status(self, decision: Decision) -> dict[str, Any]:
        canary = None
        if decision.canary is not None:
            match = [{"attribute": "region", "values": list(decision.match)}] if decision.match else []
            canary = {"version": decision.canary, "weight": decision.weight, "seed": decision.seed, "match": match}
        stable = self.contents[decision.stable] if decision.stable else None
        candidate = self.contents[decision.canary] if decision.canary else None
        return {
            "uid": self.uid,
            **status_of(decision.revision, decision.stable, stable, canary, candidate, decision.fallback),
        }


WHATS = [*TRUTHS, *ACTS, "hear", *["change", "step"] * 4, "finish", "fall_back", "touch", *["move"] * 8]


@dataclass
class Replica:
    """One world, how many of the actions it was given, and what it has published for whom."""

    world: World
    given: int = 0
    shown: dict[tuple[int, Key], list[Any]] = field(default_factory=dict)


@dataclass
class Party:
    """A client, its identity, and what it has seen."""

    number: int
    client: Client
    keys: tuple[Key, ...]
    target: str
    region: str | None
    replica: int | None = None
    seen: dict[str, dict[str, tuple[tuple[int, int, bool], bytes]]] = field(default_factory=dict)
    """By registry that is watched, of each registry of its chain: life, revision, dropped; and the uid before."""
    places: dict[str, dict[Key, tuple[int, int]]] = field(default_factory=dict)
    """By cursor: the replica that it is of, and how many of the states that it showed were had then."""
    had: dict[Key, int] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        return self.region if name == "region" else None


class Watching(RuleBasedStateMachine):
    @initialize(
        limit=st.sampled_from([200, 2000, 10**9]),
        window=st.sampled_from([0, 3, 1000, 1000]),
        begun=st.sampled_from([0, 3, 3, 3]),
    )
    def start(self, limit: int, window: int, begun: int) -> None:
        self.limit = limit
        self.exact = window == 1000
        self.actions: list[tuple[Any, ...]] = []
        self.lives: dict[Key, Life] = {}
        self.all: dict[bytes, Life] = {}
        self.replicas = [Replica(World()) for _ in range(2)]
        for replica in self.replicas:
            watches = replica.world.service.watches
            watches._limit = limit
            watches._past._max_decisions = window
            replica.world.hydrator.subscribe(lambda *_, replica=replica: self.note(replica))
        self.parties: list[Party] = []
        parties = [("t1", None, KEYS[:1]), ("t2", "eu", KEYS[:1]), ("t6", "us", KEYS[1:2]), ("", "eu", KEYS[:1])]
        for target, region, keys in [*parties, ("t1", None, KEYS), ("t2", "us", KEYS)]:
            self.add_party(len(self.parties), tuple(keys), target, region)
        for key in KEYS[:begun]:
            self.create(key, status=True, seen=BOTH)
            self.change(key, CONTENTS[1], direct=True, late=False, seen=BOTH)
        for party in self.parties:
            self.attach(party, party.number % 2, "", None)

    def add_party(self, number: int, keys: tuple[Key, ...], target: str, region: str | None) -> None:
        query = f"target={target}" + (f"&attr.region={region}" if region else "")
        path = f"/v1/namespaces/shop/registries/{keys[0][1]}/watch"
        if len(keys) > 1:
            path = "/v1/watch"
            query += "".join(f"&registry={'/'.join(key)}" for key in keys)
        self.parties.append(Party(number, Client(query, path=path), keys, target, region))

    # What happens.

    @rule(data=st.data(), what=st.sampled_from(WHATS))
    def go_on(self, data: Any, what: str) -> None:
        """One rule, because Hypothesis leaves out some of many, and here each needs the others."""
        if what in TRUTHS:
            key, seen = data.draw(st.tuples(st.sampled_from(KEYS), SEEN))
            getattr(self, what)(key, seen=seen, **{arg: data.draw(each) for arg, each in TRUTHS[what].items()})
        elif what == "hear":
            self.follow(*data.draw(st.tuples(st.sampled_from(BOTH), st.sampled_from([1, 2, 3, 50]), st.booleans())))
        else:
            number = data.draw(st.integers(0, PARTIES - 1))
            drawn = {arg: data.draw(each) for arg, each in ACTS.get(what, COMES).items()}
            if what == "move":
                self.connect(number, data.draw(st.sampled_from(BOTH)), **drawn)
            else:
                getattr(self, what)(number, **drawn)

    # The truth.

    def create(self, key: Key, status: bool, seen: tuple[int, ...]) -> None:
        life = Life(len(self.all) + 1)
        self.all[mark(life.uid)] = self.lives[key] = life
        self.actions.append(("put", key, life.uid, {"revision": 0} if status else None))
        self.let(seen)

    def delete(self, key: Key, seen: tuple[int, ...]) -> None:
        if self.lives.pop(key, None) is not None:
            self.actions.append(("drop", key))
        self.let(seen)

    def change(self, key: Key, content: dict[str, Any], direct: bool, late: bool, seen: tuple[int, ...]) -> None:
        """A new version: a candidate at weight 0, or stable at once."""
        if (life := self.lives.get(key)) is None:
            return
        number = len(life.contents) + 1
        life.contents[number] = content
        last = life.last
        seed = f"seed-{number}"
        if direct or last.stable is None:
            decision = last._replace(stable=number, canary=None)
        else:
            decision = last._replace(canary=number, weight=0, seed=seed, match=())
        record = ("record", key, number, revision(life.uid, content, parent=last.stable or 0))
        if not late:
            self.actions.append(record)
        self.decide(key, decision)
        if late:
            self.let(seen)
            self.actions.append(record)
        self.let(seen)

    def step(self, key: Key, weight: int, match: tuple[str, ...], seen: tuple[int, ...]) -> None:
        if (life := self.lives.get(key)) is not None and life.last.canary is not None:
            self.decide(key, life.last._replace(weight=weight, match=match))
        self.let(seen)

    def finish(self, key: Key, promote: bool, seen: tuple[int, ...]) -> None:
        """The candidate becomes stable, or is rolled back."""
        if (life := self.lives.get(key)) is not None and life.last.canary is not None:
            stable = life.last.canary if promote else life.last.stable
            self.decide(key, life.last._replace(stable=stable, canary=None))
        self.let(seen)

    def roll_back(self, key: Key, data: Any, seen: tuple[int, ...]) -> None:
        if (life := self.lives.get(key)) is not None and life.last.stable is not None:
            numbers = [n for n in life.contents if n != life.last.canary and (key, life.uid, n) not in self.gone()]
            self.decide(key, life.last._replace(stable=data.draw(st.sampled_from(numbers))))
        self.let(seen)

    def fall_back(self, key: Key, fallback: str | None, seen: tuple[int, ...]) -> None:
        if (life := self.lives.get(key)) is not None:
            self.decide(key, life.last._replace(fallback=fallback))
        self.let(seen)

    def touch(self, key: Key, seen: tuple[int, ...]) -> None:
        """Only the revision moves."""
        if (life := self.lives.get(key)) is not None:
            self.decide(key, life.last)
        self.let(seen)

    def prune(self, key: Key, data: Any, seen: tuple[int, ...]) -> None:
        if not self.exact and (life := self.lives.get(key)) is not None:
            named = {life.last.stable, life.last.canary}
            old = [n for n in life.contents if n not in named and (key, life.uid, n) not in self.gone()]
            if old:
                self.actions.append(("forget", key, data.draw(st.sampled_from(old)), life.uid))
        self.let(seen)

    def let(self, seen: tuple[int, ...]) -> None:
        for number in seen:
            self.follow(number, 10**6, together=False)

    def gone(self) -> set[Any]:
        return {(action[1], action[3], action[2]) for action in self.actions if action[0] == "forget"}

    def decide(self, key: Key, decision: Decision) -> None:
        life = self.lives[key]
        life.decisions.append(decision._replace(revision=len(life.decisions) + 1))
        self.actions.append(("put", key, life.uid, life.status(life.last)))

    # What the replicas are given of it.

    def follow(self, number: int, count: int, together: bool) -> None:
        """Some actions, one publication each or all in one."""
        replica = self.replicas[number]
        for action in self.actions[replica.given : replica.given + count]:
            replica.given += 1
            perform(replica.world, action)
            if not together:
                replica.world.flush()
        replica.world.flush()

    def note(self, replica: Replica) -> None:
        """Remember what reads give right behind a publication."""
        for party in self.parties:
            for key in party.keys:
                states = replica.shown.setdefault((party.number, key), [])
                answer = self.read(replica, party, key)
                if answer != "unknown" and (not states or states[-1] != answer):
                    states.append(answer)

    def read(self, replica: Replica, party: Party, key: Key) -> Any:
        query = f"target={party.target}" + (f"&attr.region={party.region}" if party.region else "")
        response = replica.world.get(f"/v1/namespaces/{key[0]}/registries/{key[1]}", query)
        answer = body(response)
        if response.status == 200:
            return (self.chain(replica, key), answer["version"], answer["hash"], answer["variant"], answer["data"])
        return "unknown" if answer["type"].endswith("VersionMissing") else None

    def chain(self, replica: Replica, key: Key) -> tuple[int, ...]:
        """The lives of the registries that a read meets."""
        met: dict[str, int] = {}
        following: str | None = key[1]
        while following is not None and following not in met:
            registry = replica.world.hydrator.snapshot().registry(key[0], following)
            if registry is None:
                break
            met[following] = self.all[mark(registry.uid)].number
            following = registry.fallback
        return tuple(met.values())

    # What the clients do.

    def again(self, number: int, room: int | None, kind: str, data: Any) -> None:
        self.connect(number, self.parties[number].replica or 0, room, kind, data)

    def connect(self, number: int, to: int, room: int | None, kind: str, data: Any) -> None:
        """To the same replica or another one, with its newest cursor, an earlier one, none, or nonsense."""
        party = self.parties[number]
        party.client.disconnect()
        cursor = party.client.cursor
        if kind == "earlier" and party.places:
            cursor = data.draw(st.sampled_from(sorted(party.places)))
        elif kind == "none":
            cursor = ""
        elif kind == "nonsense":
            cursor = data.draw(st.sampled_from(["x", "41", "kgE", "****", "Ω", "kgGRksQEHfwupZA"]))
        self.attach(party, to, cursor, room)

    def attach(self, party: Party, where: int, cursor: str, room: int | None) -> None:
        party.replica = where
        # A client that comes with another cursor than its newest is another client: it has what that one had.
        positions = decode(cursor, party.keys)
        party.client.has, party.client.about = {}, {}
        party.seen = {}
        for key, position in zip(party.keys, positions, strict=True):
            self.believe(party, key, position)
        places = party.places.get(cursor, {})
        party.had = {key: places[key][1] for key in party.keys if key in places and places[key][0] == where}
        reply = party.client.connect(self.replicas[where].world, room=room, cursor=cursor)
        assert isinstance(reply, Stream)
        watcher = party.client.sink.feed
        assert isinstance(watcher, Watcher)
        watcher.patience = 10**9
        self.drink(party)
        if room is None:
            assert party.client.events, "a stream that says nothing at all"

    def believe(self, party: Party, key: Key, position: tuple[Link, ...]) -> None:
        """Give a client what its cursor says that it has."""
        if position and position[0].uid not in self.all and position[0].uid:
            position = ()
        name = "/".join(key)
        if position and position[0].version:
            data, about = self.expected(party, position)
            party.client.has[name] = data
            party.client.about[name] = about
        party.seen[name] = {link.name: (self.vector(link), link.former) for link in position}

    def disconnect(self, number: int) -> None:
        self.parties[number].client.disconnect()

    def take(self, number: int, room: int | None) -> None:
        party = self.parties[number]
        party.client.sink.take(room)
        self.drink(party)

    def beat(self, number: int) -> None:
        for _ in range(15):
            self.replicas[number % 2].world.service.watches.beat()

    def drain(self, number: int) -> None:
        client = self.parties[number].client
        if client.sink.feed is not None and not client.sink.over:
            client.sink.feed.drain()
            assert client.sink.ended

    # What has to hold.

    @invariant()
    def everybody_drinks(self) -> None:
        for party in getattr(self, "parties", []):
            self.drink(party)
            sink = party.client.sink
            assert sink.longest <= self.limit + 2 * sink.largest + 100  # one event, and a goodbye

    def drink(self, party: Party) -> None:
        before = len(party.client.events)
        everything = party.client.peek()
        for event in everything[before:]:
            self.check(party, event)

    def check(self, party: Party, event: Event) -> None:
        client = party.client
        client.events.append(event)
        if event.name == "cut-off":
            assert event.id is None
            assert client.sink.over
            return
        client.fold(event)
        assert event.id is not None
        assert event.id == client.cursor
        positions = decode(event.id, party.keys)
        for key, position in zip(party.keys, positions, strict=True):
            name = "/".join(key)
            self.check_order(party, name, position)
            if position and position[0].version:
                data, about = self.expected(party, position)
                assert client.has.get(name) == data, (name, event)
                told = client.about[name]
                ours = {"version": told.get("to", told.get("version"))} | {k: told[k] for k in ("hash", "variant")}
                assert ours == {k: about[k] for k in ("version", "hash", "variant")}
            else:
                assert client.has.get(name) is None
        if "registry" in event.data and event.name != "deleted":
            place = party.keys.index((event.data["namespace"], event.data["registry"]))
            assert event.data["revision"] == positions[place][0].revision
        if event.name == "delta" and not event.data["changes"]:
            told = event.data
            place = party.keys.index((told["namespace"], told["registry"]))
            assert positions[place][0].version == told["to"]
        self.check_shown(party, event, positions)

    def vector(self, link: Link) -> tuple[int, int, bool]:
        life = self.all.get(link.uid)
        return (life.number if life else 0, link.revision, link.dropped)

    def check_order(self, party: Party, name: str, position: tuple[Link, ...]) -> None:
        """Never back, but to a uid that neither knew of the other."""
        seen = party.seen.setdefault(name, {})
        for link in position:
            now, (was, former) = self.vector(link), seen.get(link.name, ((0, 0, False), b""))
            if link.uid:
                assert link.uid != former, (name, link)
                assert now[0] != was[0] or now >= was, (name, link, was)
            seen[link.name] = now, link.former

    def expected(self, party: Party, position: tuple[Link, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the truth gives to a consumer at these revisions."""
        merged: dict[str, Any] = {}
        about: dict[str, Any] = {}
        following: str | None = position[0].name
        for place, link in enumerate(position):
            assert link.name == following
            if not link.uid:
                assert place
                assert place == len(position) - 1
                break
            life = self.all[link.uid]
            decision = life.at(link.revision)
            number, variant = decision.stable, "stable"
            if decision.canary is not None and not link.dropped:
                rules = (Match("region", decision.match),) if decision.match else ()
                canary = Canary(VERSION, decision.weight, decision.seed, rules)
                if gets_candidate(canary, party.target, party):
                    number, variant = decision.canary, "canary"
            assert (number or 0, variant == "canary") == (link.version, link.canary), (link, decision)
            if number is not None:
                content = life.contents[number]
                merged = {**content, **merged}
                about = about or {"version": number, "hash": digest(content), "variant": variant}
            following = decision.fallback
        assert following is None or following in [link.name for link in position]
        return merged, about

    def check_shown(self, party: Party, event: Event, positions: tuple[tuple[Link, ...], ...]) -> None:
        """What one replica shows is what it had, in that order; all of it, where nothing is gone."""
        assert party.replica is not None
        replica = self.replicas[party.replica]
        now = {}
        for key, position in zip(party.keys, positions, strict=True):
            if not position or self.ahead(replica, position):
                continue  # not told of yet; or waited for, as it has come from another replica
            states = replica.shown.get((party.number, key), [])
            had = party.had.get(key)
            state = None
            if position and position[0].version:
                data, about = self.expected(party, position)
                lives = tuple(self.all[link.uid].number for link in position if link.uid)
                state = (lives, about["version"], about["hash"], about["variant"], data)
            if had is None:
                found = [n for n, each in enumerate(states) if each == state]
                if found:
                    now[key] = (party.replica, found[-1])
                continue
            if states[had] != state and not (had == 0 and not states):
                after = [n for n in range(had + 1, len(states)) if states[n] == state]
                if not after:
                    continue  # came from another replica
                if self.exact:
                    skipped = states[had + 1 : after[0]]
                    while skipped and states[had] and skipped[0] and skipped[0][1:] == states[had][1:]:
                        skipped = skipped[1:]  # only the chain was another
                    # What is gone with its uid is not shown again.
                    known = {mark(each.uid) for _, each in replica.world.hydrator.snapshot()}
                    live = {self.all[uid].number for uid in known}
                    lost = any(each is None or not live.issuperset(each[0]) for each in (states[had], *skipped))
                    assert not skipped or lost, (event, states[had], skipped)
                had = after[0]
            now[key] = (party.replica, had)
        party.had = {key: place[1] for key, place in now.items()}
        party.places[event.id or ""] = now

    def ahead(self, replica: Replica, position: tuple[Link, ...]) -> bool:
        """Whether a client has seen more than a replica."""
        for link in position:
            registry = replica.world.hydrator.snapshot().registry("shop", link.name)
            if registry is not None and mark(registry.uid) == link.uid and registry.revision < link.revision:
                return True
        return False

    def settle(self) -> None:
        """Nothing is under way any more: each client has what a read gives."""
        for number, replica in enumerate(self.replicas):
            self.follow(number, 10**6, together=False)
            assert not replica.world.hydrator._pending
        for party in self.parties:
            party.client.sink.take(None)
            self.drink(party)
            if party.client.sink.over or party.replica is None:
                self.attach(party, party.replica or 0, party.client.cursor, None)
            self.lose_patience(party)
            for key in party.keys:
                name = "/".join(key)
                state = self.read(self.replicas[party.replica or 0], party, key)
                if state is None:
                    assert party.client.has.get(name) is None
                else:
                    assert party.client.has.get(name) == state[-1]
                    about = party.client.about[name]
                    assert (about["hash"], about["variant"]) == state[2:4]

    def lose_patience(self, party: Party) -> None:
        """What a replica has never heard of, although there is nothing more to hear, is gone."""
        watcher = party.client.sink.feed
        assert isinstance(watcher, Watcher)
        watcher.patience = 1
        for _ in range(15):
            self.replicas[party.replica or 0].world.service.watches.beat()
        self.drink(party)

    def teardown(self) -> None:
        if hasattr(self, "replicas"):
            self.settle()
            for party in self.parties:
                party.client.disconnect()
            for replica in self.replicas:
                watches = replica.world.service.watches
                assert not watches._groups
                assert not watches._groups._by_key
                assert not any(watches._beats)
                assert watches.streams == 0


VERSION = Version.derive(None, 1, "", {})


def perform(world: World, action: tuple[Any, ...]) -> None:
    what, key, *rest = action
    if what == "put":
        world.put(key, *rest)
    elif what == "drop":
        world.drop(key)
    elif what == "record":
        world.record(key, *rest)
    elif (key[0], f"{key[1]}-{rest[0]}") in world.revisions:
        world.forget(key, rest[0])


Watching.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestWatching = Watching.TestCase
