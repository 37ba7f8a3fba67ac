"""The reflector against a scripted API server (a fake), with time in the test's hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from tests.unit.test_kube_fake_api import (
    PATH,
    FakeApi,
    FakeTime,
    fake_api,
    hang,
    pass_on,
    refuse,
    status_of,
    stream,
    until,
)

from configregistry.kube.backoff import Backoff
from configregistry.kube.client import Api
from configregistry.kube.objects import Key, RegistryObject, decode_registry
from configregistry.kube.reflector import WHOLE, Reflector
from configregistry.kube.timeline import OLDER_LISTS, OLDER_SECONDS, Timeline

RESTORED = "the API server went back in time: was etcd restored from a backup? What it has now is followed"


class Followed:
    """A running reflector with what it told."""

    def __init__(self, fake: FakeApi, api: Api, **options: Any) -> None:
        self.fake = fake
        self.time = FakeTime()
        self.told: list[tuple[str, int | None, int | None]] = []
        self.reflector = Reflector(
            api,
            PATH,
            options.pop("decode", decode_registry),
            name="registries",
            clock=self.time,
            jitter=lambda: 1.0,
            sleep=self.time.sleep,
            **options,
        )
        self.reflector.subscribe(self._tell)

    def _tell(self, key: Key, old: RegistryObject | None, new: RegistryObject | None) -> None:
        self.told.append((key[1], _version(old), _version(new)))

    def has(self, **names: int) -> bool:
        """Whether exactly these are in the store, at these resourceVersions."""
        store = self.reflector.store
        return {key[1]: _version(value) for key, value in store.items()} == names


def _version(found: RegistryObject | None) -> int | None:
    return None if found is None else int(found.meta.resource_version)


@asynccontextmanager
async def followed(*names: str, synced: bool = True, idle: float = 30.0, **options: Any) -> AsyncIterator[Followed]:
    async with fake_api(idle=idle) as (fake, api):
        for name in names:
            fake.put(name)
        it = Followed(fake, api, **options)
        task = asyncio.create_task(it.reflector.run())
        try:
            if synced:
                await asyncio.wait_for(it.reflector.synced.wait(), 30)
                await until(lambda: it.reflector.watching)
            yield it
        finally:
            assert not task.done(), task
            task.cancel()
            await asyncio.wait([task])


async def test_a_list_then_events_in_order() -> None:
    async with followed("a", "b") as it:
        assert it.has(a=101, b=102)
        it.fake.put("b")
        it.fake.put("c")
        it.fake.delete("a")
        await until(lambda: it.has(b=103, c=104))
        assert it.told == [
            ("a", None, 101),
            ("b", None, 102),
            ("b", 102, 103),
            ("c", None, 104),
            ("a", 101, None),
        ]
        assert it.reflector.store["shop", "b"].spec == b'{"v": 103}'


async def test_a_list_is_paged() -> None:
    async with followed(*"abcde", page=2) as it:
        assert it.has(a=101, b=102, c=103, d=104, e=105)
        assert [query["limit"] for query in it.fake.lists] == ["2", "2", "2"]


async def test_a_watch_asks_for_bookmarks_and_goes_on_from_the_last() -> None:
    async with followed("a") as it:
        assert it.fake.watches[0]["allowWatchBookmarks"] == "true"
        assert it.fake.watches[0]["timeoutSeconds"] == "60"
        it.fake.version = 150
        it.fake.bookmark()
        it.fake.end()
        await until(lambda: len(it.fake.watches) == 2)
        assert it.fake.watches[1]["resourceVersion"] == "150"
        assert len(it.fake.lists) == 1


async def test_a_broken_connection_loses_nothing_and_lists_nothing() -> None:
    async with followed("a") as it:
        it.fake.cut()
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=102))
        assert len(it.fake.lists) == 1


async def test_a_deletion_that_no_watch_told_is_seen_by_the_next_list() -> None:
    async with followed("a", "b") as it:
        it.fake.cut()
        it.fake.delete("a")
        it.fake.put("b")
        it.fake.compact()
        await until(lambda: it.has(b=104))
        assert it.told[2:] == [("a", 101, None), ("b", 102, 104)]
        assert it.reflector.errors["Expired"] == 1


async def test_a_410_as_an_event_lists_again() -> None:
    async with followed("a") as it:
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=102))
        it.fake.send(_error(410, "Expired"))
        await until(lambda: len(it.fake.lists) >= 2)
        it.fake.put("c")
        await until(lambda: it.has(a=101, b=102, c=103))


@pytest.mark.parametrize(("code", "reason"), [(500, "InternalError"), (403, "Forbidden"), (0, "")])
async def test_another_error_event_resumes_and_lists_again_only_if_it_stays(code: int, reason: str) -> None:
    async with followed("a") as it:
        it.fake.send(_error(code, reason))
        await until(lambda: len(it.fake.watches) == 2 and it.fake.open)
        assert len(it.fake.lists) == 1
        for _ in range(2):
            it.fake.watch_faults.append(stream(_error(code, reason)))
        it.fake.end()
        await until(lambda: len(it.fake.lists) >= 2)
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=102))


async def test_a_line_that_is_cut_off_is_not_believed() -> None:
    async with followed("a") as it:
        whole = json.dumps({"type": "DELETED", "object": it.fake.objects["a"]}).encode()
        it.fake.watch_faults.append(stream(whole[:-20]))
        it.fake.end()
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=102))
        assert it.reflector.errors["ConnectionBroken"] >= 1
        assert len(it.fake.lists) == 1


async def test_a_line_that_is_no_event_at_all_is_asked_for_again_then_listed() -> None:
    async with followed("a") as it:
        it.fake.watch_faults.extend(stream(b"<html>\n") for _ in range(2))
        it.fake.send(b"garbage\n")
        await until(lambda: len(it.fake.lists) >= 2 and it.reflector.watching)
        assert it.has(a=101)


async def test_lines_arrive_in_any_pieces_and_of_any_length() -> None:
    async with followed("a") as it:
        it.fake.put("b", {"text": "x" * 1_500_000})
        await until(lambda: "b" in {key[1] for key in it.reflector.store})
        line = json.dumps({"type": "DELETED", "object": {"metadata": _meta("a", 103)}}).encode()
        for part in (line[:7], line[7:30], line[30:], b"\n\n"):
            it.fake.send(part)
        await until(lambda: it.has(b=102))


async def test_before_the_first_list_it_waits_longer_and_longer_without_end() -> None:
    async with followed("a", synced=False) as it:
        it.fake.forever = refuse(503, "ServiceUnavailable")
        await until(lambda: len(it.time.slept) >= 40)
        assert it.time.slept[:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 8.0]
        assert set(it.time.slept[8:]) == {8.0}
        assert it.reflector.staleness() is None
        assert not it.reflector.synced.is_set()
        assert it.reflector.errors["ServiceUnavailable"] >= 40
        it.fake.forever = None
        await until(lambda: it.has(a=101))


async def test_an_outage_is_logged_some_times_not_each_time() -> None:
    with capture_logs() as logs:
        async with followed("a", synced=False) as it:
            it.fake.forever = refuse(503, "ServiceUnavailable")
            await until(lambda: len(it.time.slept) >= 40)
    told = [line["failures"] for line in logs if line["log_level"] == "warning"]
    assert told[:6] == [1, 2, 4, 8, 16, 32]


async def test_it_waits_as_long_as_the_server_asks() -> None:
    async with followed("a", synced=False) as it:
        faults = [refuse(429, "TooManyRequests", **{"Retry-After": "7"})]
        it.fake.list_faults.extend([*faults, refuse(503, **{"Retry-After": "9999"})])
        await asyncio.wait_for(it.reflector.synced.wait(), 30)
        assert it.time.slept == [7.0, 30.0]


async def test_the_wait_is_short_again_after_success() -> None:
    async with followed("a") as it:
        it.fake.watch_faults.extend(refuse(500) for _ in range(2))
        it.fake.end()
        await until(lambda: len(it.fake.watches) == 4 and it.fake.open)
        before = len(it.time.slept)
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=102))
        it.fake.cut()
        await until(lambda: len(it.time.slept) > before)
        assert it.time.slept[before] == 0.1


async def test_a_server_that_ends_each_watch_at_once_is_not_asked_in_a_circle() -> None:
    async with followed("a") as it:
        it.fake.watch_faults.extend(stream() for _ in range(6))
        it.fake.end()
        await until(lambda: len(it.time.slept) >= 6)
        assert it.time.slept[:6] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]


async def test_a_server_whose_every_watch_is_too_old_is_not_asked_in_a_circle() -> None:
    async with followed("a") as it:
        it.fake.watch_faults.extend(refuse(410, "Expired") for _ in range(6))
        it.fake.end()
        await until(lambda: len(it.time.slept) >= 7)
        assert it.time.slept[1:7] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4]


async def test_a_silent_watch_is_given_up_and_staleness_counts_from_its_last_word() -> None:
    async with followed("a", idle=0.5) as it:
        it.fake.watch_faults.append(hang)
        heard = it.time.now
        it.fake.open.clear()  # the connection stays open, but no word will come
        it.fake.forever = refuse(503)
        it.time.pass_(50)
        assert it.reflector.staleness() == 0.0
        await until(lambda: not it.reflector.watching)
        assert it.reflector.last_contact == heard
        assert (it.reflector.staleness() or 0) >= 50
        assert it.reflector.errors["Timeout"] >= 1
        assert it.has(a=101)


async def test_a_connection_that_the_server_ends_is_true_until_then() -> None:
    async with followed("a") as it:
        it.fake.forever = refuse(503)
        it.time.pass_(50)
        ended = it.time.now
        it.fake.cut()
        await until(lambda: len(it.time.slept) >= 3)
        assert it.reflector.last_contact == ended
        assert it.reflector.staleness() == it.time.now - ended
        it.fake.forever = None
        await until(lambda: it.reflector.watching)
        assert it.reflector.staleness() == 0.0


async def test_a_server_that_does_not_answer_a_list_is_asked_for_smaller_pages() -> None:
    async with followed("a", synced=False) as it:
        it.fake.list_faults.extend([hang, hang])
        with patch("configregistry.kube.reflector.LIST_SECONDS", 0.1):
            await asyncio.wait_for(it.reflector.synced.wait(), 30)
        assert [query["limit"] for query in it.fake.lists] == ["500", "250", "125"]


async def test_a_list_without_pages_falls_back_to_them_when_it_takes_too_long() -> None:
    async with followed("a", synced=False, page=WHOLE) as it:
        it.fake.list_faults.append(hang)
        with patch("configregistry.kube.reflector.LIST_SECONDS", 0.1):
            await asyncio.wait_for(it.reflector.synced.wait(), 30)
        assert [query.get("limit") for query in it.fake.lists] == [None, "500"]


async def test_a_page_that_is_no_longer_known_starts_the_list_anew() -> None:
    async with followed(*"abc", synced=False, page=2) as it:
        it.fake.list_faults.extend([pass_on, refuse(410, "Expired")])
        await until(lambda: it.has(a=101, b=102, c=103))
        assert "continue" not in it.fake.lists[2]


async def test_a_list_from_an_older_state_is_not_believed_at_once() -> None:
    async with followed("a", "b") as it:
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=103))
        old = {"metadata": {"resourceVersion": "101"}, "items": [it.fake.objects["a"]]}

        async def older(_request: web.Request) -> web.Response:
            return web.json_response(old)

        it.fake.list_faults.extend([older, older])
        it.fake.watch_faults.append(refuse(410, "Expired"))
        it.fake.cut()
        await until(lambda: len(it.fake.lists) >= 4 and it.reflector.watching)
        assert it.reflector.errors["OlderState"] == 2
        assert it.has(a=101, b=103)
        assert it.told[2:] == [("b", 102, 103)]


async def test_a_server_that_stays_in_the_past_is_believed_after_all() -> None:
    async with followed("a", "b") as it:
        it.fake.version, it.fake.objects = 101, {"a": it.fake.objects["a"]}
        it.fake.compacted = 10_000
        it.fake.cut()
        with capture_logs() as logs:
            began = it.time.now
            await until(lambda: it.has(a=101))
        assert it.time.now - began >= OLDER_SECONDS
        assert it.reflector.errors["OlderState"] >= OLDER_LISTS - 1
        assert it.reflector.rewinds == 1
        assert [line["event"] for line in logs if line["log_level"] == "error"] == [RESTORED]


async def test_a_watch_from_the_future_is_never_asked_for() -> None:
    """A restored server would accept it, and tell nothing until its new history has come so far."""
    async with followed("a", "b", "c") as it:
        rewound: list[set[Key]] = []
        it.reflector.subscribe_rewound(lambda: rewound.append(set(it.reflector.store)))
        it.fake.version, it.fake.objects = 101, {"a": it.fake.objects["a"]}
        it.fake.log.clear()
        watches = len(it.fake.watches)
        it.fake.cut()
        await until(lambda: len(it.fake.watches) > watches and it.fake.open)
        assert [int(query["resourceVersion"]) for query in it.fake.watches[watches:]] == [101]
        assert rewound == [{("shop", "a"), ("shop", "b"), ("shop", "c")}]
        it.fake.put("b", uid="another")
        await until(lambda: it.has(a=101, b=102))


async def test_a_server_that_grew_past_what_was_known_was_restored_all_the_same() -> None:
    async with followed("a", "b") as it:
        it.fake.version, it.fake.objects = 101, {"a": it.fake.objects["a"]}
        it.fake.compact()
        it.fake.cut()
        await until(lambda: it.reflector.errors["OlderState"])
        it.fake.put("b", uid="another")
        it.fake.put("a")
        await until(lambda: it.has(b=102, a=103))
        assert it.reflector.rewinds == 1


async def test_a_list_with_an_older_object_is_another_history_though_it_is_not_older_itself() -> None:
    """As after `etcdutl snapshot restore --bump-revision`: objects keep the resourceVersions that they had."""
    async with followed("a", "b") as it:
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=103))
        it.fake.objects["b"] = {**it.fake.objects["b"], "metadata": _meta("b", 102)}
        it.fake.version = 1_000_000
        it.fake.compact()
        it.fake.cut()
        await until(lambda: it.has(a=101, b=102))
        assert it.reflector.rewinds == 1
        assert it.reflector.errors["OlderState"] == 0


async def test_a_watch_that_ends_on_time_needs_no_look() -> None:
    async with followed("a") as it:
        it.time.pass_(60)
        it.fake.end()
        await until(lambda: len(it.fake.watches) == 2 and it.fake.open)
        assert it.fake.looks == []
        it.fake.cut()
        await until(lambda: len(it.fake.watches) == 3)
        assert len(it.fake.looks) == 1


async def test_an_hour_without_the_api_server_is_over_within_seconds() -> None:
    """An hour of waits, at the speed of the test: what is asked, what is said, how long the last wait is."""
    async with followed("a") as it:
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=102))
        with capture_logs() as logs:
            it.fake.forever = refuse(503, "ServiceUnavailable")
            it.fake.cut()
            began, asked = it.time.now, len(it.fake.lists) + len(it.fake.looks)
            await until(lambda: it.time.now - began > 3600)
            asked = len(it.fake.lists) + len(it.fake.looks) - asked
            assert it.has(a=101, b=102)
            assert (it.reflector.staleness() or 0) > 3590
            it.fake.delete("a")
            it.fake.compact()
            it.fake.forever = None
            back = it.time.now
            await until(lambda: it.has(b=102) and it.reflector.watching)
        assert it.time.now - back <= 2 * 8.0
        assert 3600 / 8 <= asked < 3600 / 7
        assert len([line for line in logs if line["log_level"] == "warning"]) <= 10
        assert it.reflector.rewinds == 0


def test_what_is_older_is_believed_when_it_was_said_often_and_long_enough() -> None:
    timeline = Timeline()
    timeline.told("100")
    assert [timeline.believes("90", now) for now in (0.0, 1.0, 9.0, 10.0)] == [False, False, False, True]
    assert timeline.believes("100", 10.5)
    assert [timeline.believes("90", now) for now in (11.0, 30.0, 30.1)] == [False, False, True]
    assert timeline.went_back
    timeline.begin("90")
    assert not timeline.is_older("90")
    assert not timeline.went_back
    timeline.told("80")
    assert timeline.newest == 90


async def test_an_event_or_bookmark_from_the_past_lists_again() -> None:
    async with followed("a", "b") as it:
        it.fake.send(json.dumps({"type": "DELETED", "object": {"metadata": _meta("a", 50)}}).encode() + b"\n")
        await until(lambda: len(it.fake.lists) >= 2 and it.reflector.watching)
        it.fake.bookmark(50)
        await until(lambda: len(it.fake.lists) >= 3 and it.reflector.watching)
        assert it.has(a=101, b=102)
        assert it.told == [("a", None, 101), ("b", None, 102)]


async def test_a_created_again_object_is_told_as_a_deletion_and_a_creation() -> None:
    async with followed("a") as it:
        it.fake.cut()
        it.fake.put("a", uid="another")
        it.fake.compact()
        await until(lambda: it.has(a=102))
        assert it.told[1:] == [("a", 101, None), ("a", None, 102)]


async def test_an_unreadable_object_stops_nothing() -> None:
    def decode(raw: Any) -> RegistryObject:
        found = decode_registry(raw)
        if b"poison" in found.spec:
            raise ValueError("cannot be read")
        return found

    async with followed("a", decode=decode) as it:
        it.fake.put("a", {"poison": 1})
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=103))
        assert it.reflector.unreadable["shop", "a"] == ("102", "ValueError: cannot be read")
        assert it.reflector.errors["Unreadable"] == 1
        it.fake.compact()
        it.fake.put("c", {"poison": 1})
        it.fake.cut()
        it.fake.compact()
        await until(lambda: len(it.fake.lists) >= 2 and it.reflector.watching)
        assert it.has(a=101, b=103)
        it.fake.put("a")
        it.fake.delete("c")
        await until(lambda: it.has(a=105, b=103))
        assert not it.reflector.unreadable


async def test_an_object_nested_too_deep_for_decoders_hides_no_other() -> None:
    async with followed("a", synced=False) as it:
        it.fake.put("deep")
        deep = b"[" * 5000 + b"]" * 5000
        page = json.dumps({"metadata": {"resourceVersion": "102"}, "items": [it.fake.objects["a"]]})

        async def listed(_request: web.Request) -> web.Response:
            metadata = json.dumps(_meta("deep", 102)).encode()
            more = b',{"metadata":' + metadata + b',"spec":%b}'
            return web.Response(body=page.encode()[:-2] + more % deep + b"]}")

        it.fake.list_faults.append(listed)
        await until(lambda: it.has(a=101, deep=102) and it.reflector.watching)
        it.fake.send(
            b'{"type":"MODIFIED","object":{"spec":%b,"metadata":{"name":"deep","namespace":"shop",'
            b'"resourceVersion":"103"}}}\n' % deep
        )
        await until(lambda: it.has(a=101, deep=103))


async def test_a_subscriber_that_fails_stops_neither_the_store_nor_the_others() -> None:
    async with followed("a") as it:

        def fail(*_: object) -> None:
            raise RuntimeError("mine")

        end = it.reflector.subscribe(fail)
        later: list[Key] = []
        it.reflector.subscribe(lambda key, _old, _new: later.append(key))
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=102))
        assert later == [("shop", "b")]
        assert it.reflector.errors["Subscriber"] == 1
        end()
        it.fake.put("c")
        await until(lambda: len(later) == 2)
        assert it.reflector.errors["Subscriber"] == 1


async def test_a_watch_that_is_forbidden_still_follows_by_lists() -> None:
    async with followed("a") as it:
        it.fake.watch_faults.extend(refuse(403, "Forbidden") for _ in range(20))
        it.fake.end()
        await until(lambda: len(it.fake.lists) > 1)
        it.fake.put("b")
        await until(lambda: it.has(a=101, b=102))


async def test_an_error_of_our_own_does_not_end_it() -> None:
    with capture_logs() as logs:
        async with followed("a") as it:
            with patch.object(it.reflector, "_take", side_effect=RuntimeError("a bug")):
                it.fake.put("b")
                await until(lambda: it.reflector.errors["RuntimeError"])
            await until(lambda: it.has(a=101, b=102))
    assert any(line.get("exc_info") for line in logs)


def test_backoff_doubles_up_to_its_most_and_is_never_in_step() -> None:
    steady = Backoff(0.5, 3.0, jitter=lambda: 1.0)
    assert [steady.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    steady.reset()
    assert steady.next() == 0.5
    assert Backoff(1.0, jitter=lambda: 0.0).next() == 0.5
    assert steady.next(at_least=12.0) == 12.0
    for _ in range(5000):
        steady.next()


def _meta(name: str, version: int) -> dict[str, str]:
    return {
        "name": name,
        "namespace": "shop",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
    }


def _error(code: int, reason: str) -> bytes:
    return json.dumps({"type": "ERROR", "object": status_of(code, reason)}).encode() + b"\n"
