"""The webhook's certificate: made, trusted before it is served, renewed, and whole again after a crash anywhere.

`Store` is a fake of the two objects: it holds them as the API server does, with resourceVersions, and can end a
replica before or after any request, or lose an answer. The real ones: tests/integration/test_admission.py.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from configregistry.admission import certificates
from configregistry.admission.certificates import LIFE, Pair, is_due, joined, make, problem, service_names, trusts
from configregistry.admission.rotation import EVERY, OVERLAP, Kept, Rotation
from configregistry.admission.tls import Files, Tls
from configregistry.errors import UsageError
from configregistry.kube.failures import AlreadyExists, Conflict, Forbidden, Unavailable
from configregistry.kube.webhooks import SecretData, Webhooks

NAMES = (*service_names("system", "webhook"), "127.0.0.1")
START = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_pair_is_good_for_its_names_and_its_time() -> None:
    pair = make(NAMES, START)
    assert problem(pair, NAMES, START) is None
    assert problem(pair, NAMES, START - timedelta(minutes=30)) is None, "a clock that is behind"
    assert problem(pair, NAMES, START + LIFE - timedelta(seconds=1)) is None
    assert "valid from" in str(problem(pair, NAMES, START + LIFE))
    assert "valid from" in str(problem(pair, NAMES, START - DAY))
    assert problem(pair, ("other.svc",), START) == "it is not for other.svc"
    assert not is_due(pair, START + timedelta(days=59.9))
    assert is_due(pair, START + timedelta(days=60))


def test_what_does_not_belong_together_is_no_pair() -> None:
    one, other = make(NAMES, START), make(NAMES, START)
    assert problem(None, NAMES, START) == "there is none"
    assert problem(one._replace(key=other.key), NAMES, START) == "its key is another one's"
    assert problem(one._replace(authority=other.authority), NAMES, START) == "it is not of its authority"
    for part in Pair._fields:
        assert problem(one._replace(**{part: b"nonsense"}), NAMES, START) == "it cannot be read"
    assert "BEGIN" not in repr(one)


def test_a_bundle_grows_and_loses_only_what_has_expired() -> None:
    old, new = make(NAMES, START), make(NAMES, START + 60 * DAY)
    both = joined([joined([], [old], START)], [new], START + 61 * DAY)
    assert trusts(both, old)
    assert trusts(both, new)
    assert joined([both, both], [], START + 61 * DAY) == both
    later = joined([both], [], START + 91 * DAY)
    assert not trusts(later, old)
    assert trusts(later, new)
    assert joined([b"\n", b"nonsense"], [new], START + 61 * DAY) == new.authority


class Crash(BaseException):
    """The process is gone."""


class Clock:
    def __init__(self) -> None:
        self.now = START

    def wall(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return (self.now - START).total_seconds()


class Store:
    """The Secret and the configuration. `faults`: number of a request -> what happens at it."""

    def __init__(self) -> None:
        self.secret: SecretData | None = None
        self.bundles: Mapping[str, bytes] | None = {"one": b"\n", "two": b""}
        self.version = 1
        self.requests = 0
        self.faults: dict[int, str] = {}
        self.forbidden = False
        self.check: Callable[[], None] = lambda: None
        self.pause: Callable[[], Awaitable[None]] | None = None

    async def _request(self, act: Callable[[], Any]) -> Any:
        self.requests += 1
        fault = self.faults.get(self.requests, "")
        if self.pause is not None:
            await self.pause()
        if fault == "crash before":
            raise Crash
        if fault == "unavailable":
            raise Unavailable("no answer")
        found = act()
        self.check()
        if fault == "crash after":
            raise Crash
        if fault == "answer lost":
            raise Unavailable("no answer", outcome_unknown=True)
        return found

    async def read_secret(self) -> SecretData | None:
        found: SecretData | None = await self._request(lambda: self.secret)
        return found

    async def write_secret(self, data: dict[str, bytes], before: SecretData | None) -> SecretData:
        def write() -> SecretData:
            if before is None and self.secret is not None:
                raise AlreadyExists("there is one")
            if before is not None and (self.secret is None or before.resource_version != self.secret.resource_version):
                raise Conflict("changed")
            self.version += 1
            self.secret = SecretData(dict(data), "uid", str(self.version))
            return self.secret

        found: SecretData = await self._request(write)
        return found

    async def read_webhooks(self) -> Webhooks | None:
        if self.bundles is None:
            return None
        version = self.version
        found: Webhooks = await self._request(lambda: Webhooks(dict(self.bundles or {}), "uid", str(version)))
        return found

    async def write_bundle(self, found: Webhooks, bundle: bytes) -> Webhooks:
        def write() -> Webhooks:
            if self.forbidden:
                raise Forbidden("may not")
            if self.bundles is None or found.bundles != self.bundles:
                raise Conflict("changed")
            self.bundles = dict.fromkeys(self.bundles, bundle)
            return found._replace(bundles=self.bundles)

        written: Webhooks = await self._request(write)
        return written

    @property
    def kept(self) -> Kept:
        return Kept.of(self.secret)


class World:
    """Some replicas. After each request it must hold that what is served is trusted, once anything was."""

    def __init__(self, replicas: int = 1) -> None:
        self.clock = Clock()
        self.store = Store()
        self.store.check = self.check
        self.serves: dict[int, Pair | None] = {}
        self.rotations: dict[int, Rotation] = {}
        self.made = 0
        self.taken_by_hand = False
        for number in range(replicas):
            self.begin(number)

    def begin(self, number: int) -> None:
        """A new process, which remembers nothing and serves nothing."""
        self.serves[number] = None
        self.rotations[number] = Rotation(
            self.store, NAMES, lambda pair: self.use(number, pair), self.clock, make=self.make, spread=lambda: 0.5
        )

    def make(self, names: Any, now: datetime) -> Pair:
        self.made += 1
        return make(names, now)

    def use(self, number: int, pair: Pair) -> None:
        assert problem(pair, NAMES, self.clock.now) is None, "only what is good is served"
        self.serves[number] = pair
        self.check()

    def check(self) -> None:
        untrusted = [
            pair
            for pair in self.serves.values()
            if pair is not None
            and problem(pair, NAMES, self.clock.now) is None
            and not all(trusts(bundle, pair) for bundle in (self.store.bundles or {}).values())
        ]
        self.taken_by_hand &= bool(untrusted)
        assert not untrusted or self.taken_by_hand

    def one_round(self, number: int = 0) -> str:
        try:
            asyncio.run(self.rotations[number].round())
        except Crash:
            self.begin(number)
            return "crash"
        except (Conflict, AlreadyExists, Unavailable, Forbidden) as error:
            return type(error).__name__
        return ""

    def rounds(self, span: timedelta, *, every: timedelta = DAY) -> None:
        end = self.clock.now + span
        while self.clock.now < end:
            self.clock.now += every
            for number in self.rotations:
                self.one_round(number)

    def heal(self) -> None:
        """Long enough for whatever there is to do."""
        self.rounds(timedelta(seconds=3 * OVERLAP), every=timedelta(seconds=OVERLAP * 0.6))

    def is_well(self) -> None:
        """All replicas serve one good pair, which is trusted."""
        kept = self.store.kept
        assert kept.current is not None
        assert problem(kept.current, NAMES, self.clock.now) is None
        assert set(self.serves.values()) == {kept.current}
        self.check()


def test_the_first_pair_is_shared_and_trusted_before_it_is_served() -> None:
    world = World(replicas=3)
    for number in range(3):
        assert not world.one_round(number)
    world.is_well()
    assert world.made == 1


def test_a_year_of_certificates_passes_without_a_moment_that_nobody_trusts() -> None:
    world = World(replicas=2)
    world.rounds(timedelta(days=365), every=timedelta(days=2))
    world.is_well()
    assert world.made == 7, "one to begin with, and one each 60 days"
    assert all(bundle.count(b"BEGIN") <= 3 for bundle in (world.store.bundles or {}).values())


def test_the_next_pair_is_trusted_a_while_before_it_is_served() -> None:
    world = World()
    world.one_round()
    first = world.serves[0]
    world.clock.now += timedelta(days=60)
    world.one_round()
    following = world.store.kept.following
    assert following is not None
    assert trusts((world.store.bundles or {})["one"], following)
    waited = 0.0
    while world.serves[0] == first:
        world.clock.now += timedelta(seconds=EVERY)
        waited += EVERY
        world.one_round()
    assert OVERLAP <= waited <= OVERLAP + 2 * EVERY
    assert world.serves[0] == following


def moments() -> list[tuple[str, Callable[[World], None]]]:
    """States of the world from which a round has something to do."""

    def nothing(_world: World) -> None:
        pass

    def due(world: World) -> None:
        world.one_round()
        world.clock.now += timedelta(days=61)

    def prepared(world: World) -> None:
        due(world)
        world.one_round()
        world.clock.now += timedelta(seconds=OVERLAP + 1)

    def expired(world: World) -> None:
        world.one_round()
        world.clock.now += timedelta(days=100)

    def bundle_lost(world: World) -> None:
        world.one_round()
        world.taken_by_hand = True
        world.store.bundles = {"one": b"", "two": b""}

    def secret_lost(world: World) -> None:
        world.one_round()
        world.store.secret = None

    def secret_spoilt(world: World) -> None:
        world.one_round()
        assert world.store.secret is not None
        data = {**world.store.secret.data, "tls.key": make(NAMES, START).key}
        world.store.secret = world.store.secret._replace(data=data)

    return [
        (each.__name__, each) for each in (nothing, due, prepared, expired, bundle_lost, secret_lost, secret_spoilt)
    ]


FAULTS = ("crash before", "crash after", "answer lost", "unavailable")


@pytest.mark.parametrize("state", [name for name, _ in moments()])
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_ends_a_round_anywhere_it_heals(state: str, fault: str) -> None:
    for step in itertools.count(1):
        world = World(replicas=2)
        dict(moments())[state](world)
        before = world.store.requests
        world.store.faults = {before + step: fault}
        world.one_round()
        whole = world.store.requests < before + step
        world.store.faults = {}
        world.heal()
        world.is_well()
        if whole:
            break
    assert step > 2


@pytest.mark.parametrize("state", [name for name, _ in moments()])
def test_two_replicas_at_once_in_any_order_of_their_requests(state: str) -> None:
    for order in itertools.product((0, 1), repeat=4):
        world = World(replicas=2)
        dict(moments())[state](world)
        asyncio.run(_interleaved(world, order))
        world.store.pause = None
        world.heal()
        world.is_well()


async def _interleaved(world: World, order: tuple[int, ...]) -> None:
    """A round of each, whose requests are let through in this order."""
    turns = [asyncio.Semaphore(0) for _ in world.rotations]
    waiting = [asyncio.Event() for _ in world.rotations]
    of: dict[asyncio.Task[None], int] = {}

    async def pause() -> None:
        task = asyncio.current_task()
        assert task is not None
        number = of[task]
        waiting[number].set()
        await turns[number].acquire()

    world.store.pause = pause
    tasks = {number: asyncio.create_task(rotation.round()) for number, rotation in world.rotations.items()}
    of.update({task: number for number, task in tasks.items()})
    for number in (*order, *[0, 1] * 9):
        turns[number].release()
        for _ in range(5):
            await asyncio.sleep(0)
    done = await asyncio.gather(*tasks.values(), return_exceptions=True)
    unexpected = [each for each in done if each is not None and not isinstance(each, Conflict | AlreadyExists)]
    assert not unexpected, unexpected


def test_a_stale_replica_takes_no_trust_away() -> None:
    """It has read the Secret before the next pair was in it, and writes the bundle after it was trusted."""
    world = World(replicas=2)
    for number in (0, 1):
        world.one_round(number)
    world.clock.now += timedelta(days=61)
    stale = world.store.kept
    world.one_round(0)
    following = world.store.kept.following
    assert following is not None
    assert stale.following is None
    assert stale.current is not None
    world.store.bundles = dict.fromkeys(
        world.store.bundles or {}, b"".join((stale.current.authority, following.authority))
    )
    asyncio.run(world.rotations[1]._trust(stale, world.clock.now))
    assert all(trusts(bundle, following) for bundle in world.store.bundles.values())


def test_other_names_are_another_certificate_at_once() -> None:
    world = World()
    world.one_round()
    rotation = Rotation(world.store, ("new.svc",), lambda pair: None, world.clock)
    asyncio.run(rotation.round())
    assert problem(world.store.kept.current, ("new.svc",), world.clock.now) is None


def test_without_a_configuration_it_is_ready_for_one() -> None:
    world = World()
    world.store.bundles = None
    assert not world.one_round()
    assert world.serves[0] is not None
    world.rounds(timedelta(days=200))
    assert problem(world.serves[0], NAMES, world.clock.now) is None
    world.serves[0] = None
    world.store.bundles = {"one": b""}
    world.begin(0)
    world.one_round()
    world.is_well()


def test_who_may_not_write_the_bundle_serves_what_is_trusted() -> None:
    world = World()
    pair = make(NAMES, START)
    world.store.bundles = {"one": pair.authority}
    world.store.forbidden = True
    world.store.secret = SecretData(Kept(pair).data(), "uid", "1")
    world.one_round()
    assert world.serves[0] == pair
    world.rounds(timedelta(days=80))
    assert world.serves[0] == pair, "the next one is not trusted, and this one still is good"


def test_a_pair_that_nobody_trusts_does_not_take_the_place_of_one_that_is_trusted() -> None:
    """Somebody else has changed the Secret, and the bundle may not be written here."""
    world = World()
    world.one_round()
    trusted = world.serves[0]
    world.store.forbidden = True
    world.store.secret = SecretData(Kept(make(NAMES, START)).data(), "uid", "99")
    world.one_round()
    assert world.serves[0] == trusted


def test_a_lost_secret_is_written_again_with_what_is_served() -> None:
    world = World()
    world.one_round()
    world.store.secret = None
    world.heal()
    assert world.made == 1
    world.is_well()


async def test_rounds_go_on_whatever_happens() -> None:
    world = World()
    world.store.faults = dict.fromkeys(range(1, 4), "unavailable")
    waits: list[float] = []

    class End(BaseException):
        pass

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 6:
            raise End

    rotation = Rotation(
        world.store, NAMES, lambda pair: world.use(0, pair), world.clock, sleep=sleep, spread=lambda: 0.5
    )
    with pytest.raises(End):
        await rotation.run()
    world.is_well()
    assert waits == [EVERY] * 6


async def _handshake(tls: Tls, pair: Pair) -> bytes:
    """What a client that trusts only this pair's authority is shown."""
    listener = socket.create_server(("127.0.0.1", 0))

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(answer, sock=listener, ssl=tls.context):
        client = ssl.create_default_context(cadata=pair.authority.decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1], ssl=client)
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        return shown


async def test_the_listener_shows_the_latest_pair_and_never_half_of_one() -> None:
    now = datetime.now(UTC)
    one, other = make(("127.0.0.1",), now), make(("127.0.0.1",), now)
    tls = Tls()
    with pytest.raises(OSError):  # noqa: PT011 - no certificate, no handshake
        await _handshake(tls, one)
    tls.use(one)
    assert await _handshake(tls, one) == ssl.PEM_cert_to_DER_cert(one.certificate.decode())
    for bad in (one._replace(key=other.key), other._replace(key=b""), other._replace(certificate=b"x")):
        with pytest.raises(ValueError, match="do not belong together"):
            tls.use(bad)
        await _handshake(tls, one)
    tls.use(other)
    await _handshake(tls, other)
    with pytest.raises(ssl.SSLCertVerificationError):
        await _handshake(tls, one)


def test_files_are_looked_at_again_and_half_of_a_pair_changes_nothing(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    one, other = make(NAMES, now), make(NAMES, now)
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    with pytest.raises(UsageError, match="--webhook-certificate"):
        Files(*files, lambda pair: None)
    for file, content in zip(files, one[1:], strict=True):
        file.write_bytes(content)
    used: list[Pair] = []
    tls = Tls()

    def use(pair: Pair) -> None:
        tls.use(pair)
        used.append(pair)

    looker = Files(*files, use)
    looker.look()
    assert len(used) == 1
    files[0].write_bytes(other.certificate)
    looker.look()
    assert len(used) == 1
    files[1].write_bytes(other.key)
    looker.look()
    assert [each.key for each in used] == [one.key, other.key]
    files[0].unlink()
    looker.look()
    assert len(used) == 2


def test_nothing_of_a_key_is_in_what_is_logged() -> None:
    pair = certificates.make(NAMES, START)
    secret = SecretData(Kept(pair).data(), "uid", "1")
    assert "PRIVATE" not in repr(secret) + repr(pair) + repr(Kept(pair, pair))
