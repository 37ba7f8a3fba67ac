"""From the bytes of a review to an answer; the stores and the collector's list are given as they would be."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
import structlog

from configregistry.admission import across, guard, review
from configregistry.admission.guard import ALLOW_DELETE, OLDEST
from configregistry.admission.request import UnreadableReview, outline, read
from configregistry.admission.review import Answer, Reviewer, to_loop
from configregistry.health import Known
from configregistry.kube.objects import Meta, MetaObject, OwnerReference, RegistryObject, RevisionObject
from configregistry.model.reports import Report
from configregistry.model.spec import RolloutSpec

NAME = ("shop", "checkout")


def an_object(spec: Any, *, status: Any = None, **meta: Any) -> dict[str, Any]:
    found = {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "ConfigRegistry",
        "metadata": {"name": NAME[1], "namespace": NAME[0], "uid": "uid", **meta},
        "spec": spec,
    }
    return found if status is None else {**found, "status": status}


def asked(operation: str, new: Any = None, old: Any = None, **request: Any) -> bytes:
    whole = {
        "uid": "review-1",
        "kind": {"group": "configregistry.dev", "version": "v1alpha1", "kind": "ConfigRegistry"},
        "resource": {"group": "configregistry.dev", "version": "v1alpha1", "resource": "configregistries"},
        "name": NAME[1],
        "namespace": NAME[0],
        "operation": operation,
        "userInfo": {"username": "alice", "groups": ["x"]},
        "object": new,
        "oldObject": old,
        "dryRun": False,
        **request,
    }
    return json.dumps({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": whole}).encode()


def created(spec: Any, **meta: Any) -> bytes:
    return asked("CREATE", an_object(spec, **meta))


class World:
    """What is known of the cluster."""

    def __init__(self) -> None:
        self.registries: dict[tuple[str, str], RegistryObject] = {}
        self.revisions: dict[tuple[str, str], RevisionObject] = {}
        self.configmaps: dict[tuple[str, str], MetaObject] = {}
        self.followers: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self.current = True
        self.known: Known | None = Known((), {}, 0.0)
        self.going = False
        self.policies: review.Policies | None = None
        self.looked = 0

    def has(self, name: str, spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None) -> None:
        meta = Meta(name, "shop", f"uid-{name}")
        self.registries["shop", name] = RegistryObject(
            meta, json.dumps(spec or {}).encode(), json.dumps(status or {}).encode()
        )

    def is_read_by(self, *names: str, age: float = 0.0, silent: tuple[str, ...] = ()) -> None:
        reports = tuple(Report(*NAME, "uid", name, "serve-1", 30.0, 1.0, 60.0) for name in names)
        self.known = Known(reports, dict.fromkeys(silent, "no answer"), age)

    async def consumers(self, namespace: str, name: str, uid: str) -> Known:
        assert (namespace, name, uid) == (*NAME, "uid")
        if self.known is None:
            await asyncio.Event().wait()
        assert self.known is not None
        return self.known

    async def is_going(self, namespace: str) -> bool:
        assert namespace == "shop"
        return self.going

    def is_current(self, namespace: str) -> bool:
        self.looked += 1
        return self.current and namespace == "shop"

    def reviewer(self, hop: Any = None) -> Reviewer:
        async def directly(work: Coroutine[Any, Any, Any]) -> Any:
            return await work

        view = across.View(
            self.is_current,
            self.registries.get,
            self.revisions.get,
            self.configmaps.get,
            lambda key: self.followers.get(key, ()),
        )
        return Reviewer(view, hop or directly, consumers=self.consumers, going=self.is_going, policies=self.policies)

    async def answer(self, raw: bytes) -> Answer:
        return await self.reviewer().review(raw)


@pytest.fixture
def world() -> World:
    return World()


GOOD, BAD = {"data": {"a": 1}}, {"data": {"_a": 1, "b": 2**53}}


async def test_errors_are_one_refusal_with_all_of_them(world: World) -> None:
    answer = await world.answer(created(BAD))
    assert not answer.allowed
    assert answer.code == 422
    assert answer.message.startswith("2 errors:\n- spec.data['_a']")
    assert "spec.data['b']" in answer.message
    assert (await world.answer(created(GOOD))) == Answer(allowed=True)
    assert (await world.answer(created("no object"))).message.startswith("spec: ")


@pytest.mark.parametrize(
    "raw",
    [
        asked("UPDATE", an_object(BAD, labels={"a": "b"}), an_object(BAD)),
        asked("UPDATE", an_object(BAD, deletionTimestamp="2026-01-01T00:00:00Z"), an_object(GOOD)),
        asked("UPDATE", an_object(BAD), an_object(GOOD), subResource="status"),
        asked("CREATE", an_object(BAD), subResource="scale"),
    ],
    ids=["metadata", "going", "status", "other subresource"],
)
async def test_what_is_not_to_be_judged_is_allowed_unread(world: World, raw: bytes) -> None:
    assert await world.answer(raw) == Answer(allowed=True)
    assert not world.looked


async def test_another_type_of_the_same_value_is_a_change_of_spec(world: World) -> None:
    """In Python True is 1; a comparison of decoded specs would let this through unread."""
    answer = await world.answer(asked("UPDATE", an_object({"data": {"_a": True}}), an_object({"data": {"_a": 1}})))
    assert not answer.allowed


async def test_a_spec_that_was_bad_before_is_judged_when_it_changes(world: World) -> None:
    assert not (await world.answer(asked("UPDATE", an_object({"data": {"_a": 2}}), an_object(BAD)))).allowed
    assert (await world.answer(asked("UPDATE", an_object(GOOD), an_object(BAD)))).allowed


async def test_names_that_do_not_exist_are_warned_of_where_absence_means_something(world: World) -> None:
    spec = {
        "data": {"a": 1},
        "dependsOn": [{"name": "db"}, {"name": "there"}],
        "fallback": {"name": "base"},
        "dataFrom": [{"configMapRef": {"name": "m"}}, {"configMapRef": {"name": "n", "optional": True}}],
    }
    world.has("there")
    fields = [warning.split(": ")[0] for warning in (await world.answer(created(spec))).warnings]
    assert fields == ["spec.dependsOn[0].name", "spec.fallback.name", "spec.dataFrom[0].configMapRef.name"]
    world.current = False
    assert not (await world.answer(created(spec))).warnings


async def test_cycles_are_warned_of(world: World) -> None:
    world.has("db", {"dependsOn": [{"name": "checkout"}]})
    (told,) = (await world.answer(created({**GOOD, "dependsOn": [{"name": "db"}]}))).warnings
    assert "spec.dependsOn: expected no cycle: checkout -> db -> checkout" in told
    world.has("base", status={"fallback": {"name": "checkout"}})
    (told,) = (await world.answer(created({**GOOD, "fallback": {"name": "base"}}))).warnings
    assert "spec.fallback.name: expected no cycle: checkout -> base -> checkout" in told


async def test_a_pin_to_nothing_and_an_edit_behind_a_pin_are_warned_of(world: World) -> None:
    owner = (OwnerReference("configregistry.dev/v1alpha1", "ConfigRegistry", NAME[1], "uid", True),)
    for number in (1, 2):
        meta = Meta(f"checkout-{number}", "shop", owner_references=owner)
        world.revisions["shop", f"checkout-{number}"] = RevisionObject(meta, number, f"hash-{number}")
    other = Meta("checkout-4", "shop", owner_references=(owner[0].__class__(*NAME, NAME[1], "another", True),))
    world.revisions["shop", "checkout-4"] = RevisionObject(other, 4, "hash-4")
    status = {"stable": {"version": 1, "hash": "hash-1"}, "rejectedHashes": ["hash-2", "hash-1"]}

    async def warned(number: int, data: Any = 1) -> tuple[str, ...]:
        new = an_object({"data": {"a": data}, "pinnedVersion": number}, status=status)
        return (await world.answer(asked("UPDATE", new, an_object(GOOD, status=status)))).warnings

    assert [["there is no such version" in each for each in await warned(number)] for number in (3, 4)] == [[True]] * 2
    (told,) = await warned(2)
    assert "this version was rejected" in told
    assert not await warned(1), "it is served"
    (told,) = await warned(1, data=2)
    assert "stays served" in told


async def test_a_projection_onto_somebody_elses_is_warned_of(world: World) -> None:
    world.has("checkout")
    world.configmaps["shop", "other"] = MetaObject(Meta("other", "shop"))
    owner = OwnerReference("configregistry.dev/v1alpha1", "ConfigRegistry", NAME[1], "uid-checkout", True)
    world.configmaps["shop", "own"] = MetaObject(Meta("own", "shop", owner_references=(owner,)))
    (told,) = (await world.answer(created({**GOOD, "project": {"configMap": "other"}}))).warnings
    assert "does not belong to this registry" in told
    for name in ("own", "absent"):
        assert not (await world.answer(created({**GOOD, "project": {"configMap": name}}))).warnings


async def test_policies_warn_and_are_what_the_advice_goes_by(world: World) -> None:
    class Strict:
        async def look(self, namespace: str, rollout: RolloutSpec) -> tuple[RolloutSpec | None, tuple[str, ...]]:
            assert namespace == "shop"
            return rollout.__class__(), (f"spec.rollout.bake: {rollout.bake}: policy strict wants 10m",)

    spec = {**GOOD, "rollout": {"bake": "1m"}}
    assert len((await world.answer(created(spec))).warnings) == 1
    world.policies = Strict()
    assert (await world.answer(created(spec))).warnings == ("spec.rollout.bake: 1m: policy strict wants 10m",)


def deleted(**meta: Any) -> bytes:
    return asked("DELETE", None, an_object(BAD, **meta))


async def test_a_registry_that_is_read_is_not_deleted(world: World) -> None:
    world.is_read_by(*(f"pod-{number}" for number in range(5)))
    answer = await world.answer(deleted())
    assert not answer.allowed
    assert answer.code == 403
    assert answer.message.startswith("5 consumers read it ('pod-0', 'pod-1', 'pod-2' and 2 more): end them first")
    assert f"{ALLOW_DELETE}=true" in answer.message
    world.is_read_by("pod-0", silent=("serve-2",))
    assert not (await world.answer(deleted())).allowed, "a replica that is silent adds consumers, it takes none away"


@pytest.mark.parametrize("case", ["annotated", "namespace", "old list", "nobody", "being deleted twice"])
async def test_and_is_deleted_where_that_is_right(world: World, case: str) -> None:
    world.is_read_by("pod-0", age=OLDEST + 0.1 if case == "old list" else OLDEST)
    meta: dict[str, Any] = {}
    if case == "annotated":
        meta = {"annotations": {ALLOW_DELETE: "true"}}
    if case == "being deleted twice":
        meta = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    if case == "nobody":
        world.is_read_by()
    world.going = case == "namespace"
    answer = await world.answer(deleted(**meta))
    assert answer.allowed
    assert bool(answer.warnings) == (case == "old list")


async def test_an_annotation_that_does_not_say_true_is_none(world: World) -> None:
    world.is_read_by("pod-0")
    assert not (await world.answer(deleted(annotations={ALLOW_DELETE: "yes"}))).allowed


async def test_what_nobody_knows_refuses_nothing_and_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "FIRST_LIST", 0.01)
    world.known = None
    answer = await world.answer(deleted())
    assert answer.allowed
    assert "not known yet" in answer.warnings[0]
    world.is_read_by(silent=("serve-2",))
    answer = await world.answer(deleted())
    assert answer.allowed
    assert "serve-2 did not answer" in answer.warnings[0]


async def test_who_will_miss_it_is_told(world: World) -> None:
    world.followers[NAME] = [("shop", "basket")]
    (told,) = (await world.answer(deleted())).warnings
    assert "shop/basket names this registry" in told


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"request": {}}', b"\xff", b"[" * 100_000, asked("CREATE", [])])
async def test_a_defect_or_nonsense_refuses_nothing_and_says_so(world: World, raw: bytes) -> None:
    answer = await world.answer(raw)
    assert answer.allowed
    assert "failed to judge" in answer.warnings[0]
    with pytest.raises(UnreadableReview):
        read(raw)


async def test_a_defect_among_other_objects_leaves_the_rules(world: World) -> None:
    async def broken(work: Coroutine[Any, Any, Any]) -> Any:
        work.close()
        raise ZeroDivisionError

    reviewer = world.reviewer(broken)
    assert not (await reviewer.review(created(BAD))).allowed
    assert (await reviewer.review(created({**GOOD, "dependsOn": [{"name": "x"}]}))) == Answer(allowed=True)
    assert (await reviewer.review(deleted())).allowed


async def test_a_loop_that_hangs_leaves_the_rules(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "WITHIN", 0.05)

    async def hanging(work: Coroutine[Any, Any, Any]) -> Any:
        work.close()
        await asyncio.Event().wait()

    assert not (await world.reviewer(hanging).review(created(BAD))).allowed
    assert (await world.reviewer(hanging).review(deleted())).allowed


async def test_stores_are_read_in_their_own_loop_only(world: World) -> None:
    """Asked from another thread, as kopf asks, the view is looked at in this one; and the rules are not."""
    here, threads = threading.get_ident(), []

    def noting(namespace: str) -> bool:
        threads.append(threading.get_ident())
        return namespace == "shop"

    world.is_current = noting  # type: ignore[method-assign]
    reviewer = world.reviewer(to_loop(asyncio.get_running_loop()))
    answers: list[Answer] = []

    def elsewhere() -> None:
        answers.append(asyncio.run(reviewer.review(created({**GOOD, "fallback": {"name": "x"}}))))

    await asyncio.to_thread(elsewhere)
    assert threads == [here]
    assert answers[0].warnings[0].startswith("spec.fallback.name")


async def test_a_loop_that_has_ended_leaves_the_rules(world: World) -> None:
    ended = asyncio.new_event_loop()
    ended.close()
    reviewer = world.reviewer(to_loop(ended))
    assert not (await reviewer.review(created(BAD))).allowed
    assert (await reviewer.review(created(GOOD))).allowed


def test_the_outline_holds_nothing_of_the_objects() -> None:
    raw = asked("UPDATE", an_object({"data": {"secret": "hunter2"}}, labels={"l": "hunter2"}), an_object(GOOD))
    shown = outline(raw)
    assert "hunter2" not in json.dumps(shown)
    assert shown["request"]["uid"] == "review-1"
    assert shown["request"]["object"]["metadata"] == {"name": NAME[1], "namespace": NAME[0]}
    assert outline(deleted())["request"]["object"] is None


async def test_a_refusal_is_logged_with_its_field_and_without_values(world: World) -> None:
    spec = {"data": {"a": "hunter2"}, "schema": {"properties": {"a": {"type": "integer"}}}}
    with structlog.testing.capture_logs() as lines:
        answer = await world.answer(created(spec))
    assert "hunter2" in answer.message, "who wrote it may see it"
    (line,) = lines
    assert (line["event"], line["user"], line["why"]) == ("refused", "alice", ["spec.data['a']"])
    assert "hunter2" not in str(lines)
