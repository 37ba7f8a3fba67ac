"""The fence in front of a term's writes: what it lets through, and whether all that passed was answered."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from tests.unit.reconcile_world import played

from configregistry.kube import fence as module
from configregistry.kube.failures import NotLeading, Unavailable
from configregistry.kube.fence import UNANSWERED, Fence


class Time:
    """In place of the module's `time`."""

    now = 1000.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def fenced() -> Fence:
    return Fence(lambda: None)


@pytest.mark.parametrize("error", [None, Unavailable("503")])
def test_all_was_answered(time: Time, error: Exception | None) -> None:
    """An error of the API's is an answer, or is known to be none: whoever wrote has heard it."""

    async def life() -> bool:
        fence = fenced()
        try:
            with fence.passage():
                if error is not None:
                    raise error
        except Unavailable:
            pass
        return await fence.shut(1.0)

    assert played(life())


@pytest.mark.parametrize(("ago", "quiet"), [(0.0, False), (UNANSWERED - 0.1, False), (UNANSWERED, True)])
def test_a_write_that_was_cut_off_of_late_may_still_be_carried_out(time: Time, ago: float, *, quiet: bool) -> None:
    async def life() -> bool:
        fence = fenced()
        with pytest.raises(asyncio.CancelledError), fence.passage():
            raise asyncio.CancelledError
        time.now += ago
        return await fence.shut(1.0)

    assert played(life()) is quiet


@pytest.mark.parametrize(("lasts", "waited", "quiet"), [(0.4, 0.4, True), (3.0, 1.0, False)])
def test_what_is_under_way_is_waited_for_but_not_for_ever(lasts: float, waited: float, *, quiet: bool) -> None:
    async def life() -> None:
        fence, loop = fenced(), asyncio.get_running_loop()

        async def write() -> None:
            with fence.passage():
                await asyncio.sleep(lasts)

        writing = asyncio.ensure_future(write())
        await asyncio.sleep(0)
        began = loop.time()
        assert await fence.shut(1.0) is quiet
        assert loop.time() - began == pytest.approx(waited, abs=0.01)
        with pytest.raises(NotLeading, match="this term is over"), fence.passage():
            raise AssertionError("it was let through")
        await writing

    played(life())


async def test_what_may_not_pass_was_never_under_way() -> None:
    def permit() -> None:
        raise NotLeading("not now")

    fence = Fence(permit)
    with pytest.raises(NotLeading, match="not now"), fence.passage():
        raise AssertionError("it was let through")
    assert await fence.shut(0.0)
