"""What validators are asked, when, and what their answers come to, in virtual time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.posting_world import (
    HANGS,
    KEY,
    META,
    NEW,
    NO,
    OTHER,
    STABLE,
    YES,
    Told,
    World,
    ended,
    queued,
    says,
    spec,
    steady,
)

from configregistry.errors import FieldError
from configregistry.health import Answer, UnansweredError
from configregistry.model.content import Content
from configregistry.model.hook_messages import read_validation
from configregistry.model.spec import Spec
from configregistry.model.status import Status
from configregistry.reconcile.asking import Ask, Asker, Post
from configregistry.reconcile.validation import LAST_AGAIN, PENDING, REMEMBERED, Validation, examine
from configregistry.rollout.observation import Problem

URL = "http://limits.shop.svc/validate"
OTHER_URL = "http://other.shop.svc/validate"
LIMITS: dict[str, Any] = {"name": "limits", "url": URL}
SECOND: dict[str, Any] = {"name": "second", "url": OTHER_URL}
ONE = spec(validators=[LIMITS])
TWO = spec(validators=[LIMITS, SECOND])
SCHEMAS = Path(__file__).parents[2] / "docs" / "spec"


def content(content_hash: str = NEW) -> Content:
    return Content(content_hash, b'{"a":1,"b":{"c":null}}', 2)


class Validating(World):
    """A controller that has validators."""

    def __init__(self) -> None:
        super().__init__()
        self.validation = Validation(self, self.time, self.queue, sleep=self.time.sleep, jitter=lambda: 1.0)

    def verdict(
        self, of: Spec = ONE, content_hash: str = NEW, status: Status | None = None, key: tuple[str, str] = KEY
    ) -> Problem | None:
        return self.validation.verdict(key, META, of, content(content_hash), status or steady())


@pytest.fixture
async def world() -> AsyncIterator[Validating]:
    made = Validating()
    yield made
    await made.validation.close()
    assert ended()


UNSURE: dict[str, tuple[Told, str]] = {
    "500": (says(status=500), "got status 500, expected 2xx"),
    "a yes with 500": (says({"allowed": True}, 500), "got status 500"),
    "404": (says({"allowed": True}, 404), "got status 404"),
    "304": (says({"allowed": True}, 304), "got status 304"),
    "a redirect": (Answer(302, b"", "a redirect of a POST is followed only with 307 or 308"), "only with 307 or 308"),
    "nothing": (says(), "could not be read"),
    "blanks": (says(b"  \n"), "could not be read"),
    "text": (says(b"ok"), "could not be read"),
    "half": (says(b'{"allowed": tr'), "could not be read"),
    "bytes": (says(b"\xff\xfe"), "could not be read"),
    "deep": (says(b'{"allowed":true,"x":' + b"[" * 100_000), "could not be read"),
    "null": (says(b"null"), "could not be read"),
    "a list": (says([True]), "could not be read"),
    "without allowed": (says({"ok": True}), "allowed"),
    "allowed as text": (says({"allowed": "true"}), "allowed"),
    "allowed as number": (says({"allowed": 1}), "allowed"),
    "allowed as null": (says({"allowed": None}), "allowed"),
    "message as number": (says({"allowed": True, "message": 5}), "message"),
    "no answer": (UnansweredError("no connection"), "no connection"),
    "silence": (HANGS, "no whole answer in 5 s"),
    "a defect": (RuntimeError("secret"), "asking raised RuntimeError"),
}


@pytest.mark.parametrize("case", UNSURE)
async def test_whatever_is_no_answer_is_never_a_pass(world: Validating, case: str) -> None:
    told, expected = UNSURE[case]
    world.answers[URL] = [told]
    assert world.verdict() is PENDING
    await world.time.advance(5)
    problem = world.verdict()
    assert problem is not None
    assert problem.reason == "ValidatorUnavailable"
    assert problem.message.startswith("spec.validators[0] (limits): ")
    assert expected in problem.message
    assert "secret" not in problem.message
    assert world.changed
    await world.time.advance(600)
    assert world.verdict() == problem


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60) | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(repr))
def test_no_bytes_but_a_readable_yes_are_a_yes(body: bytes | str) -> None:
    raw = body if isinstance(body, bytes) else body.encode("utf-8", "replace")
    try:
        said = read_validation(raw)
    except ValueError:
        return
    assert said.allowed is json.loads(raw)["allowed"]


async def test_a_yes_is_a_yes_and_is_remembered(world: Validating) -> None:
    world.answers[URL] = [YES]
    assert world.verdict() is PENDING
    assert world.changed == []
    await world.time.advance()
    assert world.changed == [(KEY, 0.0)]
    for _ in range(5):
        assert world.verdict() is None
        await world.time.advance(100)
    assert world.times(URL) == [0.0]


async def test_a_no_is_invalid_with_its_message_on_one_line(world: Validating) -> None:
    world.answers[URL] = [NO]
    world.verdict()
    await world.time.advance()
    for _ in range(3):
        assert world.verdict() == Problem("InvalidSpec", "spec.validators[0] (limits): no and no")
        await world.time.advance(1000)
    assert world.times(URL) == [0.0]


async def test_a_no_without_words_says_so_and_a_long_one_is_cut(world: Validating) -> None:
    world.answers = {URL: [says({"allowed": False, "message": None, "more": 1})], OTHER_URL: [YES]}
    world.verdict(TWO)
    await world.time.advance()
    assert world.verdict(TWO) == Problem("InvalidSpec", "spec.validators[0] (limits): refused, and did not say why")
    world.answers[URL] = [says({"allowed": False, "message": "x" * 10_000})]
    world.verdict(TWO, OTHER)
    await world.time.advance()
    assert len((world.verdict(TWO, OTHER) or PENDING).message) < 600


async def test_it_is_asked_again_ever_more_rarely_until_it_answers(world: Validating) -> None:
    world.answers[URL] = [*[says(status=503)] * 9, YES]
    world.verdict()
    await world.time.advance(1000)
    assert world.times(URL) == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert world.verdict() is None
    # The same failure again is no news.
    assert [at for _, at in world.changed] == [0, 243]
    assert len({each.body for each in world.asked}) == 1
    assert max(b - a for a, b in zip(world.times(URL), world.times(URL)[1:], strict=False)) == LAST_AGAIN


async def test_both_are_asked_at_once_and_both_must_agree(world: Validating) -> None:
    world.answers = {URL: [3.0, YES], OTHER_URL: [4.0, YES]}
    world.verdict(TWO)
    await world.time.advance()
    assert world.at_once == 2
    await world.time.advance(3)
    assert world.verdict(TWO) is PENDING
    await world.time.advance(1)
    assert world.verdict(TWO) is None


async def test_one_no_is_enough_and_the_other_is_left_alone(world: Validating) -> None:
    world.answers = {URL: [says(status=500)], OTHER_URL: [2.0, NO]}
    world.verdict(TWO)
    await world.time.advance(2)
    assert world.verdict(TWO) == Problem("InvalidSpec", "spec.validators[1] (second): no and no")
    asked = len(world.asked)
    await world.time.advance(600)
    assert len(world.asked) == asked
    assert ended()


async def test_one_yes_is_not_enough(world: Validating) -> None:
    world.answers = {URL: [YES], OTHER_URL: [says(status=500)]}
    world.verdict(TWO)
    await world.time.advance(1)
    problem = world.verdict(TWO)
    assert problem is not None
    assert problem.message == "spec.validators[1] (second): got status 500, expected 2xx"


NOT_ASKED: dict[str, tuple[Spec, Status]] = {
    "no validators": (spec(), steady()),
    "stable": (ONE, Status(stable=steady().stable)),
    "candidate": (ONE, queued(STABLE)),
    "rejected": (ONE, Status(rejected_hashes=(STABLE,))),
    "pinned": (spec(validators=[LIMITS], pinnedVersion=3), Status()),
}


@pytest.mark.parametrize("case", NOT_ASKED)
async def test_what_the_status_vouches_for_is_not_asked_about(world: Validating, case: str) -> None:
    of, status = NOT_ASKED[case]
    assert not world.validation.wants(KEY, META, of, STABLE, status)
    # Not even its bytes are needed.
    assert world.validation.verdict(KEY, META, of, Content(STABLE, b"", 1), status) is None
    await world.time.advance(10)
    assert world.asked == []


async def test_the_first_version_is_asked_about(world: Validating) -> None:
    assert world.verdict(status=Status()) is PENDING
    await world.time.advance()
    assert "stable" not in world.asked[0].json


async def test_other_content_is_another_question_and_the_former_is_not_asked_any_more(world: Validating) -> None:
    world.answers[URL] = [says(status=500), YES]
    world.verdict()
    await world.time.advance()
    assert world.verdict(content_hash=OTHER) is PENDING
    await world.time.advance(100)
    assert [each.json["version"]["hash"] for each in world.asked] == [NEW, OTHER]
    assert world.verdict(content_hash=OTHER) is None
    # What was never answered is asked anew, what was is not.
    assert world.verdict() is PENDING
    await world.time.advance()
    assert world.verdict() is None
    assert world.verdict(content_hash=OTHER) is None
    assert len(world.asked) == 3


async def test_edited_validators_are_asked_again(world: Validating) -> None:
    world.answers[URL] = [NO, YES]
    edited = spec(validators=[{**LIMITS, "timeoutSeconds": 6}])
    refused = Problem("InvalidSpec", "spec.validators[0] (limits): no and no")
    world.verdict()
    await world.time.advance()
    assert world.verdict() == refused
    assert world.verdict(edited) is PENDING
    await world.time.advance()
    assert world.verdict(edited) is None
    assert world.verdict() == refused
    assert world.asked[0].json["id"] != world.asked[1].json["id"]


async def test_what_is_remembered_is_bounded_and_what_was_needed_last_is_kept(world: Validating) -> None:
    world.answers[URL] = [YES]

    async def answered(content_hash: str) -> None:
        world.verdict(content_hash=content_hash)
        await world.time.advance()
        assert world.verdict(content_hash=content_hash) is None

    hashes = [f"{number:016x}" for number in range(REMEMBERED)]
    for each in hashes:
        await answered(each)
    await answered(hashes[0])
    assert len(world.asked) == REMEMBERED
    await answered(OTHER)
    wanted = [each for each in hashes if world.validation.wants(KEY, META, ONE, each, steady())]
    assert wanted == [hashes[1]]


async def test_forgotten_is_not_asked_and_a_namesake_is_another_registry(world: Validating) -> None:
    world.answers[URL] = [says(status=500), YES]
    world.verdict()
    await world.time.advance()
    world.validation.forget(KEY)
    world.validation.forget(KEY)
    await world.time.advance(100)
    assert len(world.asked) == 1
    assert ended()
    assert world.verdict() is PENDING
    await world.time.advance()
    assert world.verdict() is None
    namesake = Status(uid="uid-2")
    other = META.__class__("checkout", "shop", "uid-2")
    assert world.validation.verdict(KEY, other, ONE, content(), namesake) is PENDING


async def test_200_that_hang_delay_nobody_else(world: Validating) -> None:
    hangs = spec(validators=[{"name": "hangs", "url": "http://hangs/", "timeoutSeconds": 30}])
    world.answers = {"http://hangs/": [HANGS], URL: [YES]}
    for number in range(200):
        world.verdict(hangs, key=("shop", f"r{number}"))
    await world.time.advance(1)
    world.verdict()
    await world.time.advance()
    assert world.times(URL) == [1.0]
    assert world.verdict() is None
    await world.time.advance(300)
    world.verdict(content_hash=OTHER)
    await world.time.advance()
    assert world.times(URL) == [1.0, 301.0]


async def test_who_failed_before_does_not_take_the_places_of_who_is_new() -> None:
    world = World()
    asker = Asker(world, world.time, first=1, most=1, sleep=world.time.sleep, jitter=lambda: 1.0, at_once=4)
    world.answers["http://hangs/"] = [HANGS]

    def ask(url: str, name: str) -> Ask[bytes]:
        return asker.ask(lambda: Post(url, b"", name, 10.0), bytes, lambda _: True, name)

    for number in range(20):
        ask("http://hangs/", f"h{number}")
    await world.time.advance()
    assert world.at_once == 4
    await world.time.advance(51)  # all have failed once; now they wait in line for one place
    assert world.at_once == 1
    good = ask("http://good/", "good")
    await world.time.advance()
    assert good.answer == b""
    assert world.most_at_once <= 5
    await asker.close()
    assert ended()
    assert ask("http://good/", "late").task is None


async def test_after_close_nothing_is_asked(world: Validating) -> None:
    world.answers[URL] = [HANGS]
    world.verdict()
    await world.time.advance(1)
    await world.validation.close()
    assert ended()
    assert world.verdict(content_hash=OTHER) is PENDING
    await world.time.advance(10)
    assert len(world.asked) == 1


async def test_what_is_sent_is_what_the_schema_says_and_no_more(world: Validating) -> None:
    of = spec(
        validators=[{"name": "limits", "url": "http://h/{{namespace}}/{{registry}}?h={{hash}}&s={{stableVersion}}"}]
    )
    world.verdict(of)
    await world.time.advance()
    (asked,) = world.asked
    assert asked.url == f"http://h/shop/checkout?h={NEW}&s=7"
    assert asked.headers["X-ConfigRegistry-Delivery"] == asked.json["id"]
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.json == {
        "apiVersion": "configregistry.dev/v1alpha1",
        "kind": "ValidationRequest",
        "id": asked.json["id"],
        "validator": "limits",
        "registry": {"namespace": "shop", "name": "checkout", "uid": "uid-1"},
        "version": {"hash": NEW},
        "stable": {"hash": STABLE, "number": 7},
        "data": {"a": 1, "b": {"c": None}},
    }
    conforms("validation-request", asked.json)
    conforms("validation-answer", {"allowed": False, "message": "no"})


def conforms(name: str, message: Any) -> None:
    """What the schema says, and nothing that it does not tell of."""
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema_rs.validate(schema, message)
    assert set(message) <= set(schema["properties"])


EXAMINED = {
    "http://h/{{version}}": "spec.validators[1].url: 'version': expected one of namespace, registry, hash, stable",
    "http://h/{{ version }}": "spec.validators[1].url: 'version'",
    "http://h/{{nothing}}": "spec.validators[1].url: 'nothing'",
    "http://h/{{hash": "spec.validators[1].url",
    "http://:80/": "spec.validators[1].url",
    "ftp://h/": "spec.validators[1].url: 'ftp'",
}


@pytest.mark.parametrize("url", EXAMINED)
def test_what_could_never_be_asked_is_refused(url: str) -> None:
    with pytest.raises(FieldError) as refused:
        examine(spec(validators=[LIMITS, {"name": "bad", "url": url}]))
    assert str(refused.value).startswith(EXAMINED[url])
    assert refused.value.field == "spec.validators[1].url"


def test_what_can_be_asked_is_not_refused() -> None:
    examine(spec())
    examine(
        spec(validators=[{**LIMITS, "url": "https://u:p@h:8443/{{namespace}}/{{registry}}/{{hash}}?{{stableVersion}}"}])
    )
