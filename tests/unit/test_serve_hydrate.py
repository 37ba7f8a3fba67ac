"""What hydration publishes, counts, says and asks; each rule by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.serve_fakes import FakeClock, World, body, digest, named, revision, status_of

from configregistry.model.content import members
from configregistry.serve import wanted
from configregistry.serve.follow import Loop
from configregistry.serve.hydrate import Hydrator

KEY = ("shop", "checkout")
UID = "uid-checkout"
PATH = "/v1/namespaces/shop/registries/checkout"
A, B, C = {"v": "a"}, {"v": "b"}, {"v": "c"}


def sample(world: World, name: str, **labels: str) -> Any:
    return world.metrics.registry.get_sample_value(name, labels)


def errors(world: World, reason: Any) -> Any:
    return sample(world, "hot_reload_switch_errors_total", component="serve", reason=reason) or 0


def problem(response: Any) -> Any:
    return response.status, body(response)["type"].rsplit("/")[-1]


@pytest.fixture
def rolling() -> World:
    """Version 1 is stable, 2 the candidate for everybody, at revision 2."""
    world = World()
    world.serve("checkout", A, revision_number=2, canary={"version": 2, "weight": 100}, canary_data=B)
    return world


def test_nothing_is_known_before_it_begins() -> None:
    world = World(begun=False)
    world.record(KEY, 1, revision(UID, A))
    world.put(KEY, UID, status_of(1, 1, A))
    world.flush()
    for path in (PATH, f"{PATH}/keys/v", "/v1/namespaces/shop/registries"):
        assert problem(world.get(path)) == (503, "NotSynced")
    assert not world.hydrator.ready
    assert world.hydrator.waits() == "the first lists"
    world.hydrator.begin()
    assert not world.hydrator.ready
    assert world.hydrator.waits() == "1 registries to be published, such as shop/checkout"
    world.flush()
    assert world.hydrator.ready
    assert world.hydrator.waits() is None
    assert world.get(PATH).status == 200


def test_ready_with_nothing_to_wait_for() -> None:
    assert World().hydrator.ready


def test_ready_waits_for_content_until_it_is_known_to_be_absent() -> None:
    world = World(begun=False)
    world.put(KEY, UID, status_of(1, 1, A))
    world.serve("other", B)
    world.hydrator.begin()
    world.flush()
    assert not world.hydrator.ready
    assert problem(world.get(PATH)) == (503, "VersionMissing")
    assert world.asked == [(KEY, UID, 1)]
    world.hydrator.answered(KEY, UID, 1, None)
    assert world.hydrator.ready
    assert problem(world.get(PATH)) == (503, "VersionMissing")
    assert world.get("/v1/namespaces/shop/registries/other").status == 200
    assert errors(world, "version-missing") == 1
    world.hydrator.answered(KEY, UID, 1, None)
    assert errors(world, "version-missing") == 1, "counted once, though asked again"
    world.record(KEY, 1, revision(UID, A))
    world.flush()
    assert world.get(PATH).status == 200


def test_ready_does_not_wait_for_what_came_later() -> None:
    world = World()
    world.put(KEY, UID, status_of(1, 1, A))
    world.flush()
    assert world.hydrator.ready


@pytest.mark.parametrize("how", ["delete", "unreadable", "no status"])
def test_ready_does_not_wait_for_what_there_is_nothing_to_publish_of(how: Any) -> None:
    world = World(begun=False)
    world.put(KEY, UID, {"unreadable": b"{", "no status": None}.get(how, status_of(1, 1, A)))
    world.hydrator.begin()
    if how == "delete":
        world.drop(KEY)
    world.flush()
    assert world.hydrator.ready


def test_a_slice_of_time_at_a_time() -> None:
    world = World(begun=False)
    for number in range(50):
        name = ("shop", f"r{number}")
        world.record(name, 1, revision(f"uid-{number}", A))
        world.put(name, f"uid-{number}", status_of(1, 1, A))
    world.hydrator.begin()
    assert world.hydrator.flush(0)
    assert len(world.hydrator.snapshot().namespace("shop")) == 1
    assert not world.hydrator.ready
    world.flush()
    assert len(world.hydrator.snapshot().namespace("shop")) == 50
    assert world.hydrator.ready


def test_503_says_when_to_come_back() -> None:
    world = World()
    world.put(KEY, UID, None)
    world.flush()
    response = world.get(PATH)
    assert problem(response) == (503, "NoVersion")
    assert dict(response.headers)["retry-after"] == "2"


def test_a_rollback_needs_no_content_that_is_not_here(rolling: World) -> None:
    assert body(rolling.get(PATH))["data"] == B
    # Back to 1 and forward to 3 at once: 3's content has not come yet.
    rolling.put(KEY, UID, status_of(5, 1, A, {"version": 3, "weight": 100}, C))
    rolling.flush()
    answer = body(rolling.get(PATH))
    assert (answer["data"], answer["revision"], answer["variant"]) == (A, 2, "stable")
    rolling.record(KEY, 3, revision(UID, C))
    rolling.flush()
    answer = body(rolling.get(PATH))
    assert (answer["data"], answer["revision"], answer["variant"]) == (C, 5, "canary")


def test_a_candidate_that_has_become_stable_is_not_dropped_meanwhile(rolling: World) -> None:
    rolling.put(KEY, UID, status_of(5, 2, B, {"version": 3, "weight": 5}, C))
    rolling.flush()
    answer = body(rolling.get(PATH))
    assert (answer["data"], answer["revision"]) == (B, 2)


def test_completion_publishes_without_its_revision_object(rolling: World) -> None:
    rolling.forget(KEY, 2)
    rolling.put(KEY, UID, status_of(3, 2, B))
    rolling.flush()
    assert body(rolling.get(PATH))["revision"] == 3


@pytest.mark.parametrize("status", [status_of(1, 1, A), None, {"revision": 0}])
def test_a_revision_never_goes_back(rolling: World, status: Any) -> None:
    rolling.put(KEY, UID, status)
    rolling.flush()
    assert body(rolling.get(PATH))["revision"] == 2
    assert errors(rolling, "revision-back") == 1
    rolling.record(KEY, 7, revision(UID, C))  # another event, the same status
    rolling.flush()
    assert errors(rolling, "revision-back") == 1
    assert sample(rolling, "hot_reload_status", stage="success", component="serve") == 4


def test_nor_does_it_go_back_behind_one_that_waits(rolling: World) -> None:
    rolling.put(KEY, UID, status_of(9, 3, C))
    rolling.flush()
    rolling.put(KEY, UID, status_of(8, 1, A, {"version": 2, "weight": 100}, B))
    rolling.flush()
    assert body(rolling.get(PATH))["variant"] == "stable"
    rolling.record(KEY, 3, revision(UID, C))
    rolling.flush()
    assert body(rolling.get(PATH))["revision"] == 9


@pytest.mark.parametrize("raw", [b"{", b'{"stable":{"version":"x"}}', b"[]"])
def test_an_unreadable_status_is_not_followed(rolling: World, raw: Any) -> None:
    before = rolling.get(PATH)
    rolling.put(KEY, UID, raw)
    rolling.flush()
    assert rolling.get(PATH) == before
    assert errors(rolling, "unreadable") == 1
    assert sample(rolling, "hot_reload_status", stage="failed", component="serve") == -1


def test_a_status_without_stable_is_not_followed(rolling: World) -> None:
    rolling.put(KEY, UID, {"revision": 9})
    rolling.flush()
    assert body(rolling.get(PATH))["revision"] == 2
    assert errors(rolling, "no-stable") == 1


def test_a_status_that_is_odd_elsewhere_is_followed(rolling: World) -> None:
    rolling.put(KEY, UID, {**status_of(3, 1, A), "conditions": "what?", "checks": 7})
    rolling.flush()
    assert body(rolling.get(PATH))["revision"] == 3


def test_a_status_of_another_uid_has_decided_nothing() -> None:
    world = World()
    world.record(KEY, 1, revision(UID, A))
    world.put(KEY, UID, {"uid": "uid-before", **status_of(4, 1, A)})
    world.flush()
    assert problem(world.get(PATH)) == (503, "NoVersion")


def test_a_namesake_starts_anew(rolling: World) -> None:
    rolling.put(KEY, "uid-2", status_of(1, 1, A))
    rolling.flush()
    assert problem(rolling.get(PATH)) == (503, "VersionMissing"), "never the predecessor's content"
    rolling.record(KEY, 1, revision("uid-2", A))
    rolling.flush()
    assert body(rolling.get(PATH))["revision"] == 1
    assert rolling.get(PATH, "version=2").status == 404


def test_a_deleted_registry_disappears_with_its_series(rolling: World) -> None:
    labels = {"namespace": "shop", "registry": "checkout"}
    assert sample(rolling, "configregistry_revision", **labels) == 2
    rolling.drop(KEY)
    rolling.flush()
    assert problem(rolling.get(PATH)) == (404, "NamespaceNotFound")
    assert sample(rolling, "configregistry_revision", **labels) is None
    assert sample(rolling, "configregistry_snapshot_versions") == 0


@pytest.mark.parametrize(
    "wrong",
    [
        revision(UID, B),
        revision("uid-of-another", A),
        revision(UID, B, label=digest(A)),
        revision(UID, A, raw=b"{"),
        revision(UID, A, raw=b'{"data":"KLUv/SQ=","encoding":"zstd"}'),
    ],
    ids=["other content", "other owner", "forged", "broken", "cut"],
)
@pytest.mark.parametrize("way", ["watch", "get"])
def test_content_that_is_not_what_is_named_is_never_given(wrong: Any, way: Any) -> None:
    world = World()
    world.put(KEY, UID, status_of(1, 1, A))
    if way == "watch":
        world.record(KEY, 1, wrong)
    world.flush()
    world.hydrator.answered(KEY, UID, 1, named(wrong, *KEY, 1))
    world.flush()
    assert problem(world.get(PATH)) == (503, "VersionMissing")
    assert errors(world, "version-damaged") == 1
    world.hydrator.answered(KEY, UID, 1, named(revision(UID, A), *KEY, 1))
    world.flush()
    assert body(world.get(PATH))["data"] == A, "a GET may be ahead of the watch"


def test_a_revision_object_whose_number_is_not_its_names_is_no_version() -> None:
    world = World()
    world.put(KEY, UID, status_of(1, 1, A))
    made = msgspec.structs.replace(named(revision(UID, A), *KEY, 1), number=0)
    world.revisions["shop", "checkout-1"] = made
    world.hydrator.revision_changed(("shop", "checkout-1"))
    world.flush()
    assert problem(world.get(PATH)) == (503, "VersionMissing")


def test_what_a_namesake_waited_for_is_forgotten() -> None:
    world = World()
    world.put(KEY, UID, status_of(9, 1, A))
    world.flush()
    world.put(KEY, "uid-2", status_of(1, 1, B))
    world.flush()
    world.hydrator.answered(KEY, UID, 1, None)  # to the question about the namesake
    assert errors(world, "version-missing") == 0
    assert world.asked == [(KEY, UID, 1), (KEY, "uid-2", 1)]
    world.record(KEY, 1, revision("uid-2", B))
    world.flush()
    assert body(world.get(PATH))["revision"] == 1


def test_each_missing_version_is_asked_for_and_counted_once() -> None:
    world = World()
    world.put(KEY, UID, status_of(1, 1, A))
    world.flush()
    world.hydrator.answered(KEY, UID, 1, None)
    for number in (2, 3):
        world.put(KEY, UID, status_of(number, 1, A))
        world.flush()
        world.hydrator.answered(KEY, UID, 1, None)
    assert world.asked == [(KEY, UID, 1)]
    assert errors(world, "version-missing") == 1


def test_late_answers_of_what_nobody_wants_change_nothing(rolling: World) -> None:
    before = rolling.hydrator.snapshot()
    rolling.hydrator.answered(KEY, UID, 1, None)
    rolling.hydrator.answered(KEY, "uid-before", 1, revision(UID, C))
    rolling.hydrator.answered(("no", "such"), UID, 1, None)
    rolling.flush()
    assert rolling.hydrator.snapshot() is before


def test_a_number_that_comes_again_with_other_content_replaces_it(rolling: World) -> None:
    rolling.record(KEY, 1, revision(UID, C))
    rolling.put(KEY, UID, status_of(3, 1, C))
    rolling.flush()
    assert body(rolling.get(PATH))["data"] == C


def test_an_edit_by_hand_that_kept_the_revision_is_followed(rolling: World) -> None:
    rolling.put(KEY, UID, status_of(2, 1, A, {"version": 2, "weight": 0}, B))
    rolling.flush()
    assert body(rolling.get(PATH))["variant"] == "stable"


def test_an_unchanged_status_publishes_nothing(rolling: World) -> None:
    before = rolling.hydrator.snapshot()
    status = status_of(2, 1, A, {"version": 2, "weight": 100, "elapsed": "10s"}, B)
    rolling.put(KEY, UID, status)
    rolling.flush()
    assert rolling.hydrator.snapshot() is before


def test_many_events_of_one_registry_are_one_turn(rolling: World) -> None:
    generation = rolling.hydrator.snapshot().generation
    for number in range(3, 40):
        rolling.put(KEY, UID, status_of(number, 1, A, {"version": 2, "weight": number}, B))
    rolling.flush()
    assert rolling.hydrator.snapshot().generation == generation + 1


def test_a_fallback_and_who_needs_it_appear_together() -> None:
    world = World()
    world.record(KEY, 1, revision(UID, A))
    world.record(("shop", "defaults"), 1, revision("uid-d", {"w": 1}))
    world.put(KEY, UID, status_of(1, 1, A, fallback="defaults"))
    world.put(("shop", "defaults"), "uid-d", status_of(1, 1, {"w": 1}))
    world.flush()
    assert world.hydrator.snapshot().generation == 1


def test_one_that_breaks_holds_up_nobody(rolling: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    real = wanted.read_status

    def breaking(raw: Any, uid: Any) -> Any:
        if uid == "uid-bad":
            raise ZeroDivisionError
        return real(raw, uid)

    monkeypatch.setattr("configregistry.serve.hydrate.read_status", breaking)
    rolling.serve("bad", A)
    rolling.serve("good", B)
    assert rolling.get("/v1/namespaces/shop/registries/good").status == 200
    assert rolling.get("/v1/namespaces/shop/registries/bad").status == 404
    assert errors(rolling, "error") >= 1


def test_history_goes_with_its_revision_objects(rolling: World) -> None:
    rolling.record(KEY, 3, revision(UID, C, 2))
    rolling.put(KEY, UID, status_of(3, 3, C))
    rolling.flush()
    registry = rolling.published(*KEY)
    assert list(registry.versions) == [1, 2, 3]
    assert registry.versions[3].parent == 2
    for number in (1, 2, 3):
        rolling.forget(KEY, number)
    rolling.flush()
    assert list(rolling.published(*KEY).versions) == [3]
    assert body(rolling.get(PATH))["data"] == C


def test_content_is_decoded_only_for_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def opening(raw: bytes) -> dict[str, bytes]:
        opened.append(raw)
        return members(raw)

    monkeypatch.setattr("configregistry.serve.contents.members", opening)
    world = World(begun=False)
    for number in range(1, 30):
        world.record(KEY, number, revision(UID, {"v": number}))
    world.put(KEY, UID, status_of(1, 28, {"v": 28}, {"version": 29, "weight": 1}, {"v": 29}))
    world.hydrator.begin()
    world.flush()
    assert len(opened) == 2
    for _ in range(3):
        assert world.get(PATH, "version=5").status == 200
    assert len(opened) == 3


def test_what_is_measured(rolling: World) -> None:
    labels = {"namespace": "shop", "registry": "checkout"}
    place = {"env": "", "cluster": "", **labels}
    assert sample(rolling, "registry_version_active", **place, variant="stable") == 1
    assert sample(rolling, "registry_version_active", **place, variant="canary") == 2
    assert sample(rolling, "configregistry_canary_weight", **labels) == 100
    assert sample(rolling, "configregistry_snapshot_versions") == 2
    assert sample(rolling, "registry_load_duration_seconds_count", **place) == 1
    rolling.put(KEY, UID, status_of(4, 3, C))
    rolling.clock.now += 0.2
    rolling.flush()
    rolling.clock.now += 0.2
    rolling.record(KEY, 3, revision(UID, C))
    rolling.flush()
    assert sample(rolling, "registry_load_duration_seconds_count", **place) == 2
    assert sample(rolling, "registry_load_duration_seconds_bucket", le="0.3", **place) == 1
    assert sample(rolling, "registry_load_duration_seconds_bucket", le="0.5", **place) == 2
    assert sample(rolling, "registry_version_active", **place, variant="canary") is None


# In an event loop.


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def driven(world: World, fetch: Any) -> Any:
    loop = Loop(fetch, first=0.001, last=0.01)
    world.hydrator = Hydrator(
        world.registries,
        world.revisions,
        metrics=world.metrics,
        clock=FakeClock(),
        ask=loop.ask,
        wake=loop.wake,
    )
    loop.drive(world.hydrator)
    return loop


async def test_events_are_worked_off_by_the_loop() -> None:
    async def fetch(namespace: Any, name: Any) -> None:
        raise AssertionError

    world = World(begun=False)
    loop = driven(world, fetch)
    world.hydrator.begin()
    world.record(KEY, 1, revision(UID, A))
    world.put(KEY, UID, status_of(1, 1, A))
    await until(lambda: world.hydrator.snapshot().registry(*KEY) is not None)
    generation = world.hydrator.snapshot().generation
    world.put(KEY, UID, status_of(2, 1, A, fallback="x"))
    await loop.close()
    world.put(KEY, UID, status_of(3, 1, A, fallback="y"))
    await asyncio.sleep(0)
    assert world.hydrator.snapshot().generation == generation


async def test_what_was_listed_before_the_beginning_is_worked_off_then() -> None:
    async def fetch(namespace: Any, name: Any) -> None:
        raise AssertionError

    world = World(begun=False)
    loop = driven(world, fetch)
    world.record(KEY, 1, revision(UID, A))
    world.put(KEY, UID, status_of(1, 1, A))
    await asyncio.sleep(0.01)  # the loop was woken by these, and had nothing to flush yet
    world.hydrator.begin()
    await until(lambda: world.hydrator.ready)
    await loop.close()


async def test_missing_content_is_asked_for_until_it_is_there() -> Any:
    asked = []

    async def fetch(namespace: Any, name: Any) -> Any:
        asked.append((namespace, name))
        if len(asked) < 3:
            raise ConnectionError("the API server is away")
        return None if len(asked) < 5 else named(revision(UID, A), *KEY, 1)

    world = World(begun=False)
    world.registries.clear()
    loop = driven(world, fetch)
    world.put(KEY, UID, status_of(1, 1, A))
    world.hydrator.begin()
    await until(lambda: len(asked) >= 2)
    assert errors(world, "version-missing") == 0, "an error is no answer"
    await until(lambda: world.hydrator.lacking(*KEY) is None and world.hydrator.snapshot().generation)
    assert set(asked) == {("shop", "checkout-1")}
    assert len(asked) == 5
    assert errors(world, "version-missing") == 1
    assert world.hydrator.ready
    await until(lambda: not loop._asking)
    await loop.close()


async def test_nobody_asks_when_the_watch_is_only_late() -> None:
    async def fetch(namespace: Any, name: Any) -> None:
        raise AssertionError

    world = World(begun=False)
    loop = driven(world, fetch)
    loop._first = 0.05
    world.hydrator.begin()
    world.put(KEY, UID, status_of(1, 1, A))
    await until(lambda: world.hydrator.lacking(*KEY) == 1)
    world.record(KEY, 1, revision(UID, A))
    await until(lambda: world.hydrator.lacking(*KEY) is None)
    await until(lambda: not loop._asking)
    await loop.close()


async def test_close_ends_the_questions() -> None:
    async def fetch(namespace: Any, name: Any) -> None:
        await asyncio.Event().wait()

    world = World(begun=False)
    loop = driven(world, fetch)
    world.hydrator.begin()
    world.put(KEY, UID, status_of(1, 1, A))
    await until(lambda: loop._asking)
    await loop.close()
    assert not loop._asking


def test_a_step_that_changes_nothing_else_for_readers_is_told(rolling: World) -> None:
    named_as = {"namespace": "shop", "registry": "checkout"}
    status = msgspec.json.decode(rolling.registries[KEY].status)
    for step in (2, 4):
        status["canary"]["currentStepIndex"] = step
        rolling.put(KEY, UID, status)
        rolling.flush()
        assert sample(rolling, "configregistry_rollout_step", **named_as) == step
    del status["canary"]
    rolling.put(KEY, UID, status | {"revision": 3})
    rolling.flush()
    assert sample(rolling, "configregistry_rollout_step", **named_as) is None
