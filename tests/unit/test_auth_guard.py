"""Who is let in, over time: no sockets, no API server; the reviewer is a fake that knows tokens from dicts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.serve_fakes import request
from tests.servers.virtual import VirtualTime
from tests.unit.test_auth_bearer import jwt

from configregistry.kube.failures import Forbidden, Throttled, Unavailable
from configregistry.kube.reviews import Identity
from configregistry.serve.auth import KubernetesGuard, Times, asking, guard, known
from configregistry.serve.responses import Problem
from configregistry.serve.routes import Need
from configregistry.telemetry.metrics import Metrics

OURS = Need("get", "data", "shop", "checkout")
THEIRS = Need("get", "data", "shop", "neighbour")
ALL = Need("list", "data", "shop", "")
TIMES = Times()


@dataclass
class FakeReviews:
    """A fake: what an API server would say, and how long it takes for it."""

    time: VirtualTime
    users: dict[str, str] = field(default_factory=dict)
    rights: set[tuple[str, Need]] = field(default_factory=set)
    away: Exception | None = None
    latency: float = 0.0
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    under_way: Counter[Any] = field(default_factory=Counter)
    together: int = 0

    async def token(self, token: str, audiences: tuple[str, ...]) -> Identity | None:
        await self._take("token", token, audiences)
        user = self.users.get(token)
        return None if user is None else Identity(user, f"uid-{user}", ("system:authenticated",))

    async def access(self, who: Identity, verb: str, subresource: str, namespace: str, name: str) -> bool:
        need = Need(verb, subresource, namespace, name)
        await self._take("access", who, need)
        return (who.user, need) in self.rights

    async def _take(self, *question: Any) -> None:
        self.asked.append(question)
        self.under_way[question] += 1
        assert self.under_way[question] == 1, f"asked twice at once: {question}"
        self.together = max(self.together, self.under_way.total())
        try:
            if self.latency:
                await self.time.sleep(self.latency)
            if self.away is not None:
                raise self.away.with_traceback(None)
        finally:
            self.under_way[question] -= 1

    def count(self, kind: str) -> int:
        return sum(question[0] == kind for question in self.asked)


@dataclass
class Case:
    """A guard in a time that the test moves."""

    time: VirtualTime = field(default_factory=VirtualTime)
    metrics: Metrics = field(default_factory=Metrics)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reviews = FakeReviews(self.time)
        self.guard = KubernetesGuard(self.reviews, self.time, self.metrics, sleep=self.time.sleep, **self.settings)

    def knows(self, token: str, user: str, *needs: Need) -> None:
        self.reviews.users[token] = user
        self.reviews.rights |= {(user, need) for need in needs}

    def asks(self, token: str | None, *needs: Need) -> str | Awaitable[str]:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return self.guard.check(request("/any", headers=headers), needs or (OURS,))

    async def outcome(self, token: str | None, *needs: Need, within: float = 10.0) -> str | int:
        """The user, or the status of the problem."""
        try:
            user = self.asks(token, *needs)
            if isinstance(user, str):
                return user
            task = asyncio.ensure_future(user)
            await self.time.advance(0)
            if not task.done():
                await self.time.advance(within)
            return await task
        except Problem as problem:
            return problem.status

    def waits(self, token: str, *needs: Need) -> Awaitable[str]:
        user = self.asks(token, *needs)
        assert not isinstance(user, str), "it is known already"
        return user

    def at_once(self, token: str, *needs: Need) -> str:
        user = self.asks(token, *needs)
        assert isinstance(user, str), "it has to wait"
        return user


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    made = Case()
    made.knows("t", "anna", OURS)
    yield made
    await made.guard.close()


async def test_who_is_known_and_allowed_is_let_in_at_once(case: Case) -> None:
    assert await case.outcome("t") == "anna"
    assert case.reviews.asked[0] == ("token", "t", ())
    for _ in range(100):
        assert case.at_once("t") == "anna"
    assert len(case.reviews.asked) == 2
    sample = case.metrics.registry.get_sample_value
    assert sample("configregistry_reviews_total", {"review": "token", "result": "allowed"}) == 1
    assert sample("configregistry_reviews_total", {"review": "access", "result": "allowed"}) == 1


async def test_what_is_public_needs_nobody(case: Case) -> None:
    assert case.guard.check(request("/openapi.json"), ()) == ""
    assert case.guard.check(request("/openapi.json", headers={"authorization": "what?"}), ()) == ""
    assert not case.reviews.asked


async def test_without_a_token_nobody_is_asked(case: Case) -> None:
    assert await case.outcome(None) == 401
    assert not case.reviews.asked


async def test_an_unknown_token_and_a_missing_right(case: Case) -> None:
    with pytest.raises(Problem) as unknown:
        await case.waits("nobody's")
    assert unknown.value.status == 401
    assert unknown.value.headers == [("www-authenticate", 'Bearer error="invalid_token"')]
    assert "nobody" not in unknown.value.detail
    with pytest.raises(Problem) as refused:
        await case.waits("t", THEIRS)
    assert (refused.value.status, refused.value.name) == (403, "Forbidden")
    assert refused.value.detail == "anna may not get configregistries/data of shop/neighbour"
    with pytest.raises(Problem, match="anna may not list configregistries/data of namespace shop"):
        await case.waits("t", ALL)
    with pytest.raises(Problem, match="anna may not update configregistries/consumers-exchange of any namespace"):
        await case.waits("t", Need("update", "consumers-exchange", "", ""))
    assert await case.outcome("t", OURS, THEIRS) == 403
    assert await case.outcome("t") == "anna"


async def test_a_refusal_counts_briefly(case: Case) -> None:
    for _ in range(10):
        assert await case.outcome("new") == 401
        assert await case.outcome("t", THEIRS) == 403
    assert len(case.reviews.asked) == 3
    case.knows("new", "nora", OURS)
    case.knows("t", "anna", THEIRS)
    await case.time.advance(TIMES.refused)
    assert await case.outcome("new") == "nora"
    assert await case.outcome("t", THEIRS) == "anna"


async def test_a_thousand_at_once_make_one_review(case: Case) -> None:
    case.reviews.latency = 0.05
    tasks = [asyncio.ensure_future(user) for _ in range(1000) if not isinstance(user := case.asks("t"), str)]
    assert len(tasks) == 1000
    await case.time.advance(0.01)  # all of them wait by now; the client of every second one goes away
    for task in tasks[::2]:
        task.cancel()
    await case.time.advance(1)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert Counter(map(str, found)) == {"anna": 500, "": 500}
    assert len(case.reviews.asked) == 2


async def test_who_asks_often_never_waits_and_is_asked_for_in_time(case: Case) -> None:
    await case.outcome("t")
    case.reviews.latency = 2.0
    for _ in range(600):
        await case.time.advance(0.1)
        assert case.at_once("t") == "anna"
    # Once each time that an answer is `ahead` old: of the token and of the right.
    assert case.reviews.count("token") <= 1 + 60 / TIMES.ahead
    assert case.reviews.count("access") <= 1 + 60 / TIMES.ahead


async def test_what_is_taken_is_gone_within_the_bound(case: Case) -> None:
    await case.outcome("t")
    case.reviews.rights.clear()
    since = case.time.now
    while await case.outcome("t") == "anna":
        await case.time.advance(0.1)
    assert case.time.now - since <= TIMES.fresh
    case.knows("t", "anna", OURS)
    await case.time.advance(TIMES.refused)
    assert await case.outcome("t") == "anna"
    await case.time.advance(TIMES.fresh)  # nobody asks meanwhile
    case.reviews.users.clear()
    assert await case.outcome("t") == 401


@pytest.mark.parametrize(
    "error",
    [Unavailable("gone"), Throttled("later"), Forbidden("this replica may not ask"), ZeroDivisionError("a defect")],
)
async def test_nobody_who_was_known_is_turned_away_by_an_outage(case: Case, error: Exception) -> None:
    await case.outcome("t")
    case.reviews.away = error
    await case.time.advance(TIMES.fresh)
    with capture_logs() as logs:
        assert await case.outcome("t") == "anna"
        before = len(case.reviews.asked)
        for _ in range(3000):
            await case.time.advance(1)
            assert case.at_once("t") == "anna"
    assert len(case.reviews.asked) - before <= 3000 / asking.RETRY_SECONDS + 1
    assert 1 <= len(logs) <= 1 + 3010 / asking.TELL_SECONDS
    assert await case.outcome("stranger") == 503
    assert await case.outcome("t", THEIRS) == 503
    case.reviews.away = None
    case.reviews.rights.clear()
    await case.time.advance(asking.RETRY_SECONDS)
    await case.outcome("t")
    await case.time.advance(TIMES.pause)
    assert await case.outcome("t") == 403
    assert await case.outcome("stranger") == 401


async def test_a_right_ends_with_its_own_age_not_with_that_of_the_token(case: Case) -> None:
    case.knows("t", "anna", THEIRS)
    await case.outcome("t", OURS, THEIRS)
    case.reviews.rights.remove(("anna", OURS))
    await case.time.advance(TIMES.ahead)
    assert case.at_once("t", THEIRS) == "anna"  # the token is asked for again
    await case.time.advance(0)
    assert case.at_once("t", OURS) == "anna"
    await case.time.advance(TIMES.pause)
    assert await case.outcome("t", OURS) == 403


async def test_a_stranger_whom_the_api_server_fails_over_says_nothing_of_others(case: Case) -> None:
    await case.outcome("t")
    case.reviews.away = Unavailable("an error over this token")
    assert await case.outcome("odd") == 503
    case.reviews.away = None
    case.reviews.users.clear()
    await case.time.advance(TIMES.fresh)
    assert await case.outcome("t") == 401


async def test_a_problem_of_an_outage_says_when_to_come_again(case: Case) -> None:
    case.reviews.away = Unavailable("gone")
    with pytest.raises(Problem) as raised:
        await case.waits("t")
    assert (raised.value.status, raised.value.name) == (503, "AuthenticationUnavailable")
    assert "retry-after" in dict(raised.value.headers)


async def test_grace_ends(case: Case) -> None:
    await case.outcome("t")
    case.reviews.away = Unavailable("gone")
    await case.time.advance(TIMES.grace - 1)
    assert await case.outcome("t") == "anna"
    await case.time.advance(1)
    assert await case.outcome("t") == 503


async def test_a_silent_api_server_is_not_waited_for(case: Case) -> None:
    await case.outcome("t")
    await case.time.advance(TIMES.fresh)
    case.reviews.latency, case.reviews.away = 4.5, Unavailable("no answer in time")
    waiting = asyncio.ensure_future(case.waits("t"))
    await case.time.advance(TIMES.patience - 0.01)
    assert not waiting.done()
    await case.time.advance(TIMES.patience + 0.02)  # once for who it is, once for what they may
    assert waiting.result() == "anna"
    for _ in range(200):
        assert case.at_once("t") == "anna"
        await case.time.advance(0.1)


async def test_the_end_that_a_token_has_of_itself_bounds_grace(case: Case) -> None:
    token = jwt(exp=case.time.wall().timestamp() + 60, aud=["https://kubernetes.default.svc"])
    case.knows(token, "ben", OURS)
    assert await case.outcome(token) == "ben"
    await case.time.advance(50)
    case.reviews.away = Unavailable("gone")
    assert await case.outcome(token) == "ben"
    await case.time.advance(10)
    assert await case.outcome(token) == 503
    assert case.reviews.asked[0] == ("token", token, ())


async def test_the_end_of_a_token_is_for_the_api_server_to_say(case: Case) -> None:
    token = jwt(exp=case.time.wall().timestamp() - 5)
    case.knows(token, "ben", OURS)
    assert await case.outcome(token) == "ben"  # its leeway
    case.reviews.users.clear()
    await case.time.advance(TIMES.refused)
    assert await case.outcome(token) == 401


async def test_audiences(case: Case) -> None:
    for audience in ("configregistry", "https://kubernetes.default.svc", "vault"):
        case.knows(jwt(aud=[audience]), "ben", OURS)
        assert await case.outcome(jwt(aud=[audience])) == "ben"
    asked = [question[2] for question in case.reviews.asked if question[0] == "token"]
    assert asked == [("configregistry",), (), ()]

    strict = Case(settings={"api_audience": False})
    strict.knows("t", "anna", OURS)
    assert await strict.outcome("t") == 401
    assert not strict.reviews.asked
    strict.knows(jwt(aud="configregistry"), "anna", OURS)
    assert await strict.outcome(jwt(aud="configregistry")) == "anna"


async def test_strangers_neither_push_out_nor_hold_up_who_is_known(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MAX_REFUSED", 50)
    await case.outcome("t")
    case.reviews.latency = 1.0
    strangers = [asyncio.ensure_future(case.waits(f"invented-{number}")) for number in range(200)]
    await case.time.advance(TIMES.ahead)
    case.reviews.together = 0
    assert case.at_once("t") == "anna"  # asked for again, behind it
    await case.time.advance(1.5)
    assert case.reviews.asked[-1][0] in {"token", "access"}
    assert ("token", "t", ()) in case.reviews.asked[2:]
    assert case.reviews.together <= asking.STRANGERS + 2
    await case.time.advance(60)
    await asyncio.gather(*strangers, return_exceptions=True)
    assert len(case.guard._tokens) <= 51
    case.reviews.away = Unavailable("gone")
    assert await case.outcome("t") == "anna"


async def test_a_flood_of_strangers_is_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_WAITING", 20)
    case.reviews.latency = 1.0
    flood = [asyncio.ensure_future(case.waits(f"invented-{number}")) for number in range(100)]
    await case.time.advance(10)
    codes = Counter(error.status for error in await asyncio.gather(*flood, return_exceptions=True))  # type: ignore[union-attr]
    assert codes == {401: 20, 503: 80}


async def test_what_is_remembered_is_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_PASSES", 30)
    case.guard._tokens._size = case.guard._rights._size = 20
    for number in range(100):
        case.knows(f"t{number}", f"user-{number}", OURS)
        assert await case.outcome(f"t{number}") == f"user-{number}"
        assert sum(map(len, case.guard._passes.values())) <= 30
    assert len(case.guard._tokens) == len(case.guard._rights) == 20
    assert case.at_once("t99") == "user-99"
    # Tokens themselves are not kept: only what they hash to.
    await case.time.advance(TIMES.fresh)
    await case.outcome("t")
    assert list(case.guard._passes) == ["Bearer t"]


async def test_a_stream_that_asks_again_is_told(case: Case) -> None:
    of_stream = request("/watch", headers={"authorization": "Bearer t"})
    assert await case.outcome("t") == "anna"
    case.reviews.users.clear()
    await case.time.advance(60)
    answer = case.guard.check(of_stream, (OURS,))
    assert not isinstance(answer, str)
    with pytest.raises(Problem) as raised:
        await answer
    assert raised.value.status == 401


# Any order of events, beside the simplest model of what may be answered.

STEP = st.one_of(
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.3, 1.0, 3.0, 7.0, 10.0, 40.0])),
    st.tuples(st.just("ask"), st.sampled_from(["t", "u"])),
    st.tuples(st.just("ask"), st.sampled_from(["t", "u"])),
    st.tuples(st.just("right"), st.booleans()),
    st.tuples(st.just("token"), st.booleans()),
    st.tuples(st.just("api"), st.sampled_from(["well", "away", "silent"])),
)


@settings(max_examples=300)
@given(st.lists(STEP, max_size=40))
def test_any_order_of_events(steps: list[tuple[str, Any]]) -> None:
    asyncio.run(_any_order(steps))


async def _any_order(steps: list[tuple[str, Any]]) -> None:
    times = Times(grace=60.0)
    case = Case(settings={"times": times})
    case.knows("t", "anna", OURS)
    case.knows("u", "ulf", OURS)
    allowed, taken, given = True, -1000.0, 0.0
    """Of t: whether it may, when it last might not, when it last might. What is u's is never touched."""
    well: float | None = 0.0
    """Since when there are answers."""
    vouched = -1000.0
    """When u was let in, last, while there were answers."""
    for what, how in steps:
        now = case.time.now
        if what == "pass":
            await case.time.advance(how)
        elif what == "right":
            (case.reviews.rights.add if how else case.reviews.rights.discard)(("anna", OURS))
        elif what == "token":
            case.reviews.users.update(t="anna") if how else case.reviews.users.pop("t", None)
        elif what == "api":
            case.reviews.away = None if how == "well" else Unavailable(how)
            case.reviews.latency = 4.5 if how == "silent" else 0.0
            well = None if how != "well" else now if well is None else well
        else:
            outcome = await case.outcome(how)
            if outcome == "anna":
                # Longer than `fresh` only where there were no answers, or none has been asked for since.
                assert now - given <= (times.grace if well is None or now - well < times.fresh else times.fresh)
            elif outcome == "ulf":
                vouched = now if well is not None and now - well > times.fresh else vouched
            elif outcome == 503:
                assert well is None
                assert how == "t" or now - vouched >= times.grace - times.fresh
            else:
                assert how == "t"
                assert now - taken <= times.refused
        allowed = "t" in case.reviews.users and ("anna", OURS) in case.reviews.rights
        given, taken = (case.time.now, taken) if allowed else (given, case.time.now)
    await case.guard.close()
