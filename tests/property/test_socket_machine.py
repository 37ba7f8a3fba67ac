"""Clients of two replicas, over sockets: whatever happens, and in whatever order, each sees a prefix of one history.

The model is one line of moments: what all registries give after each action. A replica is given the actions in that
order, some at once or later than the other one, so it is always at one place of the line. It follows that

- a read is what one moment gives, the same or a later one than that of the answer before (of that replica), and
  between when it was asked and when it was answered; nothing of it is of another moment;
- who shows the revision that it has seen is never given an older one, on any replica;
- all pages of a listing are of the moment of the first, wherever the next are asked for;
- a stream goes through all states that are published for its consumer, in that order, each once; so does one that is
  cut and goes on anywhere behind the last event. Only what is gone with its registry is not told later on.

Nobody sleeps: time passes for held requests when a rule says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.serve_clients import Client, Received, serving
from tests.serve_fakes import World, revision, status_of
from tests.socket_clients import Follower
from tests.watch_clients import Client as Folded
from tests.watch_clients import Event

from configregistry.rollout.buckets import bucket
from configregistry.serve.wire import HttpServer

NAMES = ("a", "b", "c")
ROOT = "/v1/namespaces/shop/registries/"
BOTH = (0, 1)
PATIENCE = 10.0
"""Seconds for what takes milliseconds: an example that hangs has to be made small before the runner gives it up."""
EXTRAS: list[dict[str, Any]] = [{}, {"x": 1}, {"x": 2, "y/~": [1]}, {"y/~": "Ω", "z": {"k": 1}}]
HAPPENS = ["edit", "edit", "edit", "step", "step", "step", "finish", "finish", "fall_back", "roll_back", "make_again"]
READS = ["whole", "whole", "held", "held", "page", "next", "next", "key", "flags"]

ACTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "happens": {
        "what": st.sampled_from(HAPPENS),
        "name": st.sampled_from(["a", "a", "b", "c"]),
        "heard": st.sampled_from([BOTH, BOTH, (0,), (0,), (1,), ()]),
        "turns": st.integers(0, 3),
    },
    "follow": {
        "number": st.sampled_from(BOTH),
        "count": st.sampled_from([1, 2, 5, None]),
        "together": st.booleans(),
        "turns": st.integers(0, 3),
    },
    "read": {
        "which": st.integers(0, 2),
        "kind": st.sampled_from(READS),
        "name": st.sampled_from(["a", "a", "a", "b"]),
        "number": st.sampled_from(BOTH),
        "limit": st.integers(1, 3),
        "turns": st.integers(0, 6),
        "wait": st.booleans(),
    },
    "time_passes": {"number": st.sampled_from(BOTH)},
    "connect": {
        "which": st.integers(0, 3),
        "number": st.sampled_from(BOTH),
        "resume": st.sampled_from([True] * 4 + [False]),
        "wait": st.booleans(),
    },
    "watch": {"which": st.integers(0, 3)},
}
WHATS = ["happens"] * 5 + ["follow", "time_passes", "watch"] + ["read"] * 6 + ["connect"] * 3


class Decision(NamedTuple):
    revision: int
    stable: int | None = None
    canary: int | None = None
    weight: int = 0
    match: tuple[str, ...] = ()
    fallback: str | None = None


class Life:
    """One uid of a registry; no content of it is like any other."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.uid = f"uid-{number}"
        self.contents: dict[int, dict[str, Any]] = {}
        self.last = Decision(0)

    def status(self) -> dict[str, Any]:
        decision, contents = self.last, self.contents
        canary = None
        if decision.canary is not None:
            match = [{"attribute": "region", "values": list(decision.match)}] if decision.match else []
            seed = f"{self.uid}-{decision.canary}"
            canary = {"version": decision.canary, "weight": decision.weight, "seed": seed, "match": match}
        stable, candidate = (contents.get(number or 0) for number in (decision.stable, decision.canary))
        return status_of(decision.revision, decision.stable, stable, canary, candidate, decision.fallback)


class Served(NamedTuple):
    """What is published of one registry at one moment."""

    life: Life
    decision: Decision


Moment = dict[str, Served]


class State(NamedTuple):
    """What one consumer is given of one registry at one moment."""

    life: int
    version: int
    variant: str
    revision: int
    data: dict[str, Any]
    sources: dict[str, str]
    links: tuple[tuple[str, int, int], ...]

    @property
    def told(self) -> tuple[Any, ...]:
        """What a watch tells: a revision alone is no event."""
        return (self.life, self.version, self.variant, self.data)


class Who(NamedTuple):
    """A consumer."""

    target: str
    region: str

    @property
    def query(self) -> str:
        return f"target={self.target}&attr.region={self.region}"

    def chosen(self, at: Served) -> tuple[int | None, str]:
        decision = at.decision
        share = decision.weight * 100
        if decision.canary is not None and (
            self.region in decision.match or bucket(f"{at.life.uid}-{decision.canary}", self.target) < share
        ):
            return decision.canary, "canary"
        return decision.stable, "stable"

    def given(self, at: Moment, name: str) -> State | None:
        """None: nothing, because there is no such registry or no version of it."""
        links: list[tuple[str, Served, int | None, str]] = []
        following: str | None = name
        while following in at and following not in [link[0] for link in links]:
            served = at[following]
            number, variant = self.chosen(served)
            links.append((following, served, number, variant))
            following = served.decision.fallback
        if not links or links[0][2] is None:
            return None
        data: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for link, served, number, _ in links:
            for key, value in served.life.contents[number].items() if number is not None else ():
                if key not in data:
                    data[key], sources[key] = value, link
        _, first, version, variant = links[0]
        assert version is not None
        named = tuple((link, served.life.number, number) for link, served, number, _ in links if number is not None)
        return State(first.life.number, version, variant, first.decision.revision, data, sources, named)


class Timer(NamedTuple):
    """What a held request waits for besides a publication."""

    timers: list[Timer]
    call: Callable[[], None]

    def cancel(self) -> None:
        self.timers[:] = [timer for timer in self.timers if timer is not self]


@dataclass
class Replica:
    """One world on one port, and where on the line it is."""

    world: World
    server: HttpServer
    published: list[int] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)
    gone: dict[str, int] = field(default_factory=dict)
    """The highest revision of former lives that it has published, by name."""
    known: set[int] = field(default_factory=set)
    """Lives that it has published."""

    @property
    def now(self) -> int:
        return self.published[-1]

    def between(self, first: float, last: float) -> list[int]:
        return [moment for moment in self.published if first <= moment <= last]


@dataclass
class Asked:
    """A request that is under way."""

    kind: str
    name: str
    replica: int
    since: int
    answer: asyncio.Task[Received]
    shown: int = 0
    known: State | None = None
    """What the client already has."""
    key: str = ""
    limit: int = 0
    late: bool = False
    """Whether time has passed for it."""


@dataclass
class Reader:
    """A client that reads, one request at a time, and remembers."""

    who: Who
    shows: bool
    connections: dict[int, Client] = field(default_factory=dict)
    asked: Asked | None = None
    floor: dict[int, int] = field(default_factory=dict)
    """By replica: the moment of the last answer."""
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By registry: life and revision of the last answer."""
    has: dict[str, tuple[str, State]] = field(default_factory=dict)
    """By registry: an ETag and what it stands for."""
    listing: tuple[str, State, int, str] | None = None
    """Registry, the state of the first page, keys seen, token."""


@dataclass
class Watcher:
    """A client with a stream of one registry or of all."""

    who: Who
    names: tuple[str, ...]
    folded: Folded = field(default_factory=Folded)
    follower: Follower | None = None
    replica: int = 0
    checked: int = 0
    since: int = 0
    places: dict[str, set[int]] = field(default_factory=dict)
    """By registry: the moments at which it may be."""
    leaps: dict[str, float] = field(default_factory=dict)
    """By registry: up to which moment it may leap over what is gone with its registry."""


class Sockets(RuleBasedStateMachine):
    @initialize(fallback=st.sampled_from([None, "b"]))
    def start(self, fallback: str | None) -> None:
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.actions: list[tuple[Any, ...]] = []
        self.line: list[Moment] = [{}]
        self.lives: dict[str, Life] = {}
        self.all: list[Life] = []
        self.states: dict[tuple[Any, ...], State | None] = {}
        self.replicas: list[Replica] = []
        whos = [Who("t1", ""), Who("t2", "eu"), Who("t3", "us")]
        self.readers = [Reader(whos[0], shows=True), Reader(whos[1], shows=True), Reader(whos[2], shows=False)]
        streams = [(whos[0], NAMES[:1]), (whos[1], NAMES[:1]), (whos[0], NAMES), (whos[2], NAMES)]
        self.watchers = [Watcher(*stream) for stream in streams]
        self.run(self.serve())
        for name in NAMES:
            self.make(name)
            self.edit(name, EXTRAS[1], None, late=False)
        self.decide(self.lives["a"], fallback=fallback)
        self.run(self.hear(BOTH, None, together=True))

    async def serve(self) -> None:
        for _ in BOTH:
            world = World()
            server = await self.stack.enter_async_context(serving(world.app, state=world.hydrator.snapshot))
            replica = Replica(world, server, [0])
            self.replicas.append(replica)

            def later(_seconds: float, call: Callable[[], None], timers: list[Timer] = replica.timers) -> Timer:
                timers.append(Timer(timers, call))
                return timers[-1]

            world.service.waits._later = later

    def run(self, doing: Coroutine[Any, Any, None]) -> None:
        async def within() -> None:
            async with asyncio.timeout(PATIENCE):
                await doing

        self.loop.run_until_complete(within())

    @rule(what=st.sampled_from(WHATS), data=st.data())
    def go_on(self, what: str, data: Any) -> None:
        """One rule, because Hypothesis leaves out some of many, and here each needs the others."""
        drawn = {name: data.draw(each, name) for name, each in ACTS[what].items()}
        if what == "happens":
            drawn["data"] = data
        getattr(self, what)(**drawn)

    # What happens, and how far which replica has heard of it.

    def happens(self, what: str, name: str, heard: tuple[int, ...], turns: int, data: Any) -> None:
        life = self.lives.get(name)
        decision = life.last if life is not None else Decision(0)
        if life is None or (what == "make_again" and data.draw(st.booleans())):
            self.make(name)
        elif what == "make_again":
            del self.lives[name]
            self.act(("drop", ("shop", name)), name, None)
        elif what == "edit" or decision.stable is None:
            weight = data.draw(st.sampled_from([None, 0, 40, 100])) if decision.stable is not None else None
            late = decision.stable is not None and data.draw(st.booleans())
            self.edit(name, data.draw(st.sampled_from(EXTRAS)), weight, late=late)
        elif what == "fall_back":
            others = [None, "missing", *(other for other in NAMES if other != name)]
            self.decide(life, fallback=data.draw(st.sampled_from(others)))
        elif decision.canary is None:
            self.decide(life, stable=data.draw(st.sampled_from(sorted(life.contents))))
        elif what == "step":
            match = data.draw(st.sampled_from([(), ("eu",), ("eu", "us")]))
            self.decide(life, weight=data.draw(st.sampled_from([1, 30, 60, 99, 100])), match=match)
        else:
            self.decide(life, stable=decision.canary if what == "finish" else decision.stable, canary=None)
        self.run(self.hear(heard, None, together=False, turns=turns))

    def make(self, name: str) -> None:
        life = self.lives[name] = Life(len(self.all) + 1, name)
        self.all.append(life)
        self.act(("put", ("shop", name), life.uid, {"revision": 0}), name, Served(life, life.last))

    def edit(self, name: str, extra: dict[str, Any], weight: int | None, *, late: bool) -> None:
        """A new version: stable at once, or a candidate. Late: its content comes behind the status that names it."""
        life = self.lives[name]
        number = len(life.contents) + 1
        life.contents[number] = {"id": f"{life.number}-{number}", name: number, **extra}
        record = ("record", ("shop", name), number, revision(life.uid, life.contents[number]))
        if not late:
            self.act(record, name, self.line[-1][name])
        former = self.line[-1][name]
        if weight is None:
            self.decide(life, stable=number, canary=None, served=not late)
        else:
            self.decide(life, canary=number, weight=weight, match=(), served=not late)
        if late:
            # A candidate that is no longer named is taken back at once; all else waits.
            self.line[-1][name] = former._replace(decision=former.decision._replace(canary=None))
            self.act(record, name, Served(life, life.last))

    def decide(self, life: Life, *, served: bool = True, **changes: Any) -> None:
        life.last = life.last._replace(revision=life.last.revision + 1, **changes)
        after = Served(life, life.last) if served else self.line[-1][life.name]
        self.act(("put", ("shop", life.name), life.uid, life.status()), life.name, after)

    def act(self, action: tuple[Any, ...], name: str, after: Served | None) -> None:
        self.actions.append(action)
        moment = dict(self.line[-1])
        moment.pop(name, None)
        self.line.append(moment if after is None else {**moment, name: after})

    def follow(self, number: int, count: int | None, together: bool, turns: int) -> None:
        self.run(self.hear([number], count, together=together, turns=turns))

    async def hear(self, numbers: Iterable[int], count: int | None, *, together: bool, turns: int = 0) -> None:
        """Give replicas some actions; one publication for each of them, or one for all."""
        for replica in (self.replicas[number] for number in numbers):
            last = len(self.actions) if count is None else min(replica.now + count, len(self.actions))
            for now in range(replica.now + 1, last + 1):
                what, *rest = self.actions[now - 1]
                getattr(replica.world, what)(*rest)
                if not together or now == last:
                    replica.world.hydrator.flush(inf)
                    self.note(replica, now)
        await self.turns(turns)

    def note(self, replica: Replica, now: int) -> None:
        before, after = self.line[replica.now], self.line[now]
        for name, served in before.items():
            if name not in after or after[name].life is not served.life:
                replica.gone[name] = max(replica.gone.get(name, 0), served.decision.revision)
        replica.known.update(served.life.number for served in after.values())
        replica.published.append(now)

    async def turns(self, count: int) -> None:
        """Let the servers and the clients go on, but not necessarily to the end."""
        for _ in range(count):
            await asyncio.sleep(0)

    def given(self, moment: int, who: Who, name: str) -> State | None:
        place = (moment, who, name)
        if place not in self.states:
            self.states[place] = who.given(self.line[moment], name)
        return self.states[place]

    # Reads.

    def read(self, which: int, kind: str, name: str, number: int, limit: int, turns: int, wait: bool) -> None:
        """Take what was asked for before, and ask for something else."""
        reader = self.readers[which]
        self.run(self.take(reader))
        self.run(self.ask(reader, kind, name, number, limit))
        self.run(self.take(reader) if wait else self.turns(turns))

    def time_passes(self, number: int) -> None:
        self.run(self.pass_time(number))

    async def pass_time(self, number: int) -> None:
        for reader in self.readers:
            if reader.asked is not None and reader.asked.replica == number:
                reader.asked.late = True
        for timer in list(self.replicas[number].timers):
            timer.cancel()
            timer.call()

    async def ask(self, reader: Reader, kind: str, name: str, number: int, limit: int) -> None:
        replica, who = self.replicas[number], reader.who
        if number not in reader.connections:
            reader.connections[number] = await self.stack.enter_async_context(Client(replica.server.port))
        headers, body, method, query = [], b"", "GET", who.query
        etag, known = reader.has.get(name, ("", None))
        path, key = ROOT + name, "id"
        if kind == "next" and reader.listing is not None:
            name, _, _, token = reader.listing
            path, query = f"{ROOT}{name}/keys", f"limit={limit}&continue={token}"
        elif kind in ("page", "next"):
            kind = "page"
            path, query = f"{path}/keys", f"{query}&limit={limit}"
        elif kind == "key":
            path += f"/keys/{key}"
        elif kind == "flags":
            method, path, query = "POST", path + "/ofrep/v1/evaluate/flags", ""
            body = json.dumps({"context": {"targetingKey": who.target, "region": who.region}}).encode()
            headers = [f"Content-Length: {len(body)}", "Content-Type: application/json"]
        elif known is not None:
            headers = [f"If-None-Match: {etag}"]
            query += "&wait=5m" if kind == "held" else ""
        if kind not in ("whole", "held"):
            known = None
        shown = reader.seen.get(name, (0, 0))[1] if reader.shows else 0
        if shown:
            headers.append(f"X-ConfigRegistry-Revision: {shown}")
        client = reader.connections[number]
        client.send(f"{path}?{query}", *headers, method=method, body=body)
        answer = asyncio.create_task(client.receive())
        reader.asked = Asked(kind, name, number, replica.now, answer, shown, known, key, limit)

    def reached(self, asked: Asked, moment: int) -> bool:
        """Whether a replica that is there may answer; of another life a number says nothing."""
        served = self.line[moment].get(asked.name)
        here = served.decision.revision if served is not None else 0
        return here >= asked.shown or self.replicas[asked.replica].gone.get(asked.name, 0) >= asked.shown

    async def take(self, reader: Reader) -> None:
        """Take an answer. One that is rightly held is waited for until time passes, any other is simply awaited."""
        asked = reader.asked
        if asked is None:
            return
        now = self.replicas[asked.replica].now
        state = self.given(now, reader.who, asked.name)
        unchanged = asked.kind == "held" and asked.known is not None and state == asked.known
        if asked.kind == "next" or unchanged or not self.reached(asked, now):
            await self.turns(8)
            if not asked.answer.done():
                await self.pass_time(asked.replica)
        answer = await asked.answer
        reader.asked = None
        moment = self.judge(reader, asked, answer)
        reader.floor[asked.replica] = max(moment, reader.floor.get(asked.replica, 0))

    def judge(self, reader: Reader, asked: Asked, answer: Received) -> int:
        """Find the first moment that an answer can be of."""
        replica = self.replicas[asked.replica]
        moments = replica.between(max(asked.since, reader.floor.get(asked.replica, 0)), replica.now)
        states = [(moment, self.given(moment, reader.who, asked.name)) for moment in moments]
        told = json.loads(answer.body) if answer.body else {}
        if asked.kind == "next":
            self.judge_next(reader, asked, answer, told)
            return moments[0]
        if answer.status == 503 and told["type"].endswith("BehindRevision"):
            assert asked.late
            return next(moment for moment in moments if not self.reached(asked, moment))
        possible = [(moment, state) for moment, state in states if self.reached(asked, moment)]
        if answer.status in (404, 503):
            lacks = [moment for moment, state in possible if state is None]
            # OFREP has a word of its own for what is not there.
            what = told["type"].rpartition("/")[2] if "type" in told else told["errorCode"]
            assert what in ("RegistryNotFound", "NamespaceNotFound", "GENERAL", "NoVersion"), told
            return next(m for m in lacks if (asked.name in self.line[m]) == (what == "NoVersion"))
        if answer.status == 304:
            assert asked.known is not None
            assert asked.late or asked.kind == "whole"
            return next(moment for moment, state in possible if state == asked.known)
        assert answer.status == 200, answer
        fitting = [
            (moment, state) for moment, state in possible if state is not None and fits(asked, answer, told, state)
        ]
        assert fitting, (answer, [state for _, state in states])
        moment, state = fitting[0]
        assert asked.kind not in ("whole", "held") or state != asked.known, "as if it were new"
        life, seen = reader.seen.get(asked.name, (0, 0))
        if reader.shows and life == state.life and asked.name not in replica.gone:
            assert seen <= state.revision, "back in time"
        reader.seen[asked.name] = (state.life, state.revision)
        if asked.kind in ("whole", "held"):
            reader.has[asked.name] = (answer.headers["etag"], state)
        if asked.kind == "page":
            reader.listing = (asked.name, state, 0, "")
            self.turn_page(reader, asked, told)
        return moment

    def judge_next(self, reader: Reader, asked: Asked, answer: Received, told: Any) -> None:
        """Judge a page behind the first."""
        assert reader.listing is not None
        replica, state = self.replicas[asked.replica], reader.listing[1]
        if answer.status == 200:
            assert said(answer) == (state.version, state.revision)
            assert told["variant"] == state.variant
            self.turn_page(reader, asked, told)
            return
        if answer.status == 503:
            assert asked.late
            assert told["type"].endswith("BehindRevision")
            return
        # Only a listing that this replica cannot go on with is given up: its registry is not there (any more, or yet).
        assert answer.status == 410, answer
        lives = [
            (name, life, self.line[moment][name].life.number if name in self.line[moment] else 0)
            for moment in replica.between(asked.since, replica.now)
            for name, life, _ in state.links
        ]
        assert any(life != there for _, life, there in lives), (told, lives)
        reader.listing = None

    def turn_page(self, reader: Reader, asked: Asked, told: Any) -> None:
        assert reader.listing is not None
        name, state, count, _ = reader.listing
        keys = sorted(state.data)
        page = [{"key": key, "value": state.data[key], "source": state.sources[key]} for key in keys]
        assert told["keys"] == page[count : count + asked.limit]
        count += len(told["keys"])
        assert ("continue" in told) == (count < len(keys))
        reader.listing = (name, state, count, told["continue"]) if "continue" in told else None

    # Streams.

    def connect(self, which: int, number: int, resume: bool, wait: bool) -> None:
        """Leave a stream wherever it is, and go on with the same or the other replica."""
        watcher = self.watchers[which]
        self.run(self.leave(watcher))
        self.run(self.come(watcher, number, resume=resume))
        if wait:
            self.run(self.catch_up(watcher))

    def watch(self, which: int) -> None:
        if self.watchers[which].follower is not None:
            self.run(self.catch_up(self.watchers[which]))

    async def leave(self, watcher: Watcher) -> None:
        if watcher.follower is not None:
            follower, watcher.follower = watcher.follower, None
            await follower.close()
            self.check(watcher, follower.events)

    async def come(self, watcher: Watcher, number: int, *, resume: bool) -> None:
        replica, names = self.replicas[number], watcher.names
        if not resume:
            watcher.folded, watcher.places = Folded(), {}
        path = f"{ROOT}{names[0]}/watch?{watcher.who.query}"
        if len(names) > 1:
            path = f"/v1/watch?{watcher.who.query}" + "".join(f"&registry=shop/{name}" for name in names)
        watcher.replica, watcher.checked, watcher.since = number, 0, replica.now
        watcher.leaps = dict.fromkeys(names, inf)
        watcher.follower = Follower(replica.server.port, path, watcher.folded.cursor)
        await self.turns(1)

    async def catch_up(self, watcher: Watcher) -> None:
        """Wait until a stream has told all that there is to tell."""
        follower, replica = watcher.follower, self.replicas[watcher.replica]
        assert follower is not None
        while not follower.events:
            await follower.more()
        if replica.now == len(self.actions):
            for _ in range(45):  # what this replica has never heard of, although there is nothing more to hear, is gone
                replica.world.service.watches.beat()
        while True:
            self.check(watcher, follower.events)
            if not any(self.lacks(watcher, name) for name in watcher.names):
                return
            await follower.more()

    def lacks(self, watcher: Watcher, name: str) -> bool:
        """Whether there is something to tell, for certain."""
        replica = self.replicas[watcher.replica]
        places = watcher.places[name]
        if self.doubts(watcher, name) and replica.now < len(self.actions):
            return False
        return all(self.next(watcher, name, place) is not None for place in places)

    def doubts(self, watcher: Watcher, name: str) -> bool:
        """Whether the client has seen a registry that its replica has never had."""
        lives = {served.life.number for place in watcher.places[name] for served in self.line[place].values()}
        return not lives <= self.replicas[watcher.replica].known

    def told(self, watcher: Watcher, name: str, moment: int) -> tuple[Any, ...] | None:
        state = self.given(moment, watcher.who, name)
        return state.told if state is not None else None

    def next(self, watcher: Watcher, name: str, place: int) -> int | None:
        """Give the moment of the event that follows."""
        has = self.told(watcher, name, place)
        moments = self.replicas[watcher.replica].between(place + 1, inf)
        return next((moment for moment in moments if self.told(watcher, name, moment) != has), None)

    def check(self, watcher: Watcher, events: list[Event]) -> None:
        """Judge what has come since the last time."""
        replica = self.replicas[watcher.replica]
        for event in events[watcher.checked :]:
            first = not watcher.checked
            watcher.checked += 1
            assert event.name in ("snapshot", "delta", "deleted", "progress"), event
            watcher.folded.fold(event)
            for name in watcher.names if first else ():
                self.begin(watcher, name)
            if "registry" in event.data:
                self.move(watcher, event.data["registry"], event)
            for name in watcher.names:
                if (first or event.data.get("registry") == name) and not self.doubts(watcher, name):
                    watcher.leaps[name] = min(watcher.leaps[name], replica.now)

    def begin(self, watcher: Watcher, name: str) -> None:
        """Without a cursor, a stream begins with nothing just before some moment since it was asked for."""
        if name not in watcher.places:
            # At moment 0 there is nothing at all; what was before the request is leapt over.
            moments = self.replicas[watcher.replica].between(watcher.since, inf)
            watcher.places[name] = {0, *(moment for moment in moments if self.told(watcher, name, moment) is None)}

    def move(self, watcher: Watcher, name: str, event: Event) -> None:
        """One event further, in all ways that are possible."""
        replica = self.replicas[watcher.replica]
        data = watcher.folded.has.get(f"shop/{name}")
        about = watcher.folded.about.get(f"shop/{name}", {})
        possible = set()
        for place in watcher.places[name]:
            following = self.next(watcher, name, place)
            moments = {following} if following is not None else set()
            moments |= {
                moment
                for moment in replica.between(place + 1, min(watcher.leaps[name], replica.now))
                if self.remade(place, moment)
            }
            for moment in moments:
                state = self.given(moment, watcher.who, name)
                if data is None and state is None:
                    possible.add(moment)
                elif data is not None and state is not None:
                    number = about.get("to", about.get("version"))
                    same = (state.version, state.variant, state.revision, state.data) == (
                        *(number, about["variant"], about["revision"]),
                        data,
                    )
                    if same:
                        possible.add(moment)
        assert possible, (event, watcher.places[name], replica.published)
        watcher.places[name] = possible

    def remade(self, first: int, last: int) -> bool:
        """Whether a registry went (or came) in between."""
        lives = [{name: served.life.number for name, served in self.line[m].items()} for m in range(first, last + 1)]
        return any(each != lives[0] for each in lives)

    # The end: nothing is under way any more.

    def teardown(self) -> None:
        if hasattr(self, "replicas"):
            try:
                self.run(self.settle())
            finally:
                self.run(self.close())
                self.loop.close()

    async def settle(self) -> None:
        await self.hear(BOTH, None, together=False)
        for reader in self.readers:
            await self.take(reader)
        for watcher in self.watchers:
            if watcher.follower is None:
                await self.come(watcher, 1, resume=True)
            await self.catch_up(watcher)
            for name in watcher.names:
                state = self.given(len(self.actions), watcher.who, name)
                assert watcher.folded.has.get(f"shop/{name}") == (state.data if state is not None else None)

    async def close(self) -> None:
        for watcher in self.watchers:
            if watcher.follower is not None:
                await watcher.follower.close()
        for reader in self.readers:
            if reader.asked is not None:
                reader.asked.answer.cancel()
        await self.stack.aclose()


def said(answer: Received) -> tuple[int, int]:
    return int(answer.headers["x-configregistry-version"]), int(answer.headers["x-configregistry-revision"])


def fits(asked: Asked, answer: Received, told: Any, state: State) -> bool:
    """Tell whether all of an answer is what a state gives."""
    if said(answer) != (state.version, state.revision):
        return False
    if asked.kind == "flags":
        return {flag["key"]: flag["value"] for flag in told["flags"]} == state.data
    ours = {"version": state.version, "revision": state.revision, "variant": state.variant}
    if asked.kind == "key":
        ours |= {"key": asked.key, "value": state.data[asked.key], "source": state.sources[asked.key]}
    else:
        ours |= {"namespace": "shop", "registry": asked.name}
    if asked.kind == "page":
        keys = sorted(state.data)
        ours["keys"] = [{"key": k, "value": state.data[k], "source": state.sources[k]} for k in keys[: asked.limit]]
    elif asked.kind in ("whole", "held"):
        ours["data"] = state.data
    return {name: told[name] for name in ours} == ours


Sockets.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestSockets = Sockets.TestCase
