"""How great an epoch a real API server takes: beyond that nobody could begin a term again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.cluster import KubeCluster

from configregistry.kube.access import load_access
from configregistry.kube.client import Api
from configregistry.kube.election import CREDIBLE, LASTS
from configregistry.kube.failures import Invalid
from configregistry.kube.lease import Leases, Place

NOW = datetime(2030, 1, 1, tzinfo=UTC)


async def test_every_credible_epoch_can_be_exceeded_and_none_that_is_no_int32_can_be_stored(
    cluster: KubeCluster, namespace: str
) -> None:
    async with Api(await load_access(str(cluster.kubeconfig))) as api:
        leases = Leases(api, Place(namespace, "epochs"))
        with pytest.raises(Invalid):
            await leases.take(None, "one", 2**31, LASTS, NOW)
        assert await leases.read() is None
        taken = await leases.take(None, "one", CREDIBLE + 1, LASTS, NOW)
        assert (taken.holder, taken.epoch) == ("one", CREDIBLE + 1)
        taken = await leases.take(taken, "two", 2**31 - 1, LASTS, NOW)
        with pytest.raises(Invalid):
            await leases.take(taken, "three", 2**31, LASTS, NOW)
        found = await leases.read()
        assert found is not None
        assert (found.holder, found.epoch) == ("two", 2**31 - 1)
