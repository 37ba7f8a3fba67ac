"""What a leader does about an epoch that it finds: a later leader's ends its term, a hand's is put right.

The API server is a fake (reconcile_world); the office is one that never ends by itself.
"""

from __future__ import annotations

import pytest
from tests.unit.reconcile_world import NAME, REGISTRY, SPACE, Checks, FakeApi, Process, played, until

from configregistry.kube.election import CREDIBLE, Unelected
from configregistry.kube.paths import REGISTRIES

EPOCH = 7


@pytest.fixture
def outbid(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of whoever decides: by which epochs it was outbid."""
    found: list[int] = []
    monkeypatch.setattr(Unelected, "epoch", EPOCH)
    monkeypatch.setattr(Unelected, "outbid", lambda _self, epoch: found.append(epoch))
    return found


def standing(api: FakeApi) -> tuple[int, int]:
    """Who signed what is there, and which version is stable."""
    assert api.status.stable is not None
    return api.status.leader_epoch, api.status.stable.version


async def signed(epoch: int) -> FakeApi:
    """A registry that is decided on, then signed with another epoch, then edited."""
    api = FakeApi()
    api.add(REGISTRIES.path(SPACE), {"metadata": {"name": NAME}, "spec": {"data": {"a": 1}}})
    process = Process(api, Checks(), 0.0)
    await until(lambda: api.objects[REGISTRY].get("status", {}).get("leaderEpoch") == EPOCH)
    api.edit(REGISTRY, status={**api.objects[REGISTRY]["status"], "leaderEpoch": epoch}, spec={"data": {"a": 2}})
    await until(lambda: standing(api) == (EPOCH, 2), 60)
    await process.kill()
    return api


@pytest.mark.parametrize("epoch", [EPOCH + 1, CREDIBLE])
def test_a_later_leaders_epoch_is_the_end_of_a_term_and_stays(outbid: list[int], epoch: int) -> None:
    api = played(signed(epoch))
    assert set(outbid) == {epoch}
    assert standing(api) == (epoch, 1)


@pytest.mark.parametrize("epoch", [0, EPOCH - 1, CREDIBLE + 1, 2**31 - 1, 2**40])
def test_an_epoch_that_no_lease_could_outbid_is_a_hands_and_is_put_right(outbid: list[int], epoch: int) -> None:
    """Else one edit would end all terms for good: `leaseTransitions` is an int32."""
    api = played(signed(epoch))
    assert outbid == []
    assert standing(api) == (EPOCH, 2)
