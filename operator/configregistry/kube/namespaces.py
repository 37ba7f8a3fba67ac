"""Whether a namespace is being deleted, asked when it matters.

It must never take a failure to ask for a yes.
"""

from __future__ import annotations

import structlog

from configregistry.kube.client import Api
from configregistry.kube.failures import ApiError, NotFound
from configregistry.kube.objects import decode_meta
from configregistry.kube.paths import METADATA, NAMESPACES

_log = structlog.get_logger(__name__)


async def is_going(api: Api, name: str) -> bool:
    """Whether it is Terminating, or gone; False where nobody can say."""
    try:
        return decode_meta(await api.get(NAMESPACES.path(None, name), accept=METADATA)).meta.terminating
    except NotFound:
        return True
    except (ApiError, ValueError) as error:
        _log.warning("a namespace could not be read", namespace=name, error=str(error))
        return False
