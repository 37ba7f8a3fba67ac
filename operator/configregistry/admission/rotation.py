"""Keeps the webhook's certificate: made, shared by a Secret, trusted by API servers, renewed before it ends.

    nothing                       a pair is made and written to the Secret              (1)
    the Secret has a pair         its authority is put into each caBundle               (2)
    it is trusted                 this process serves it                                (3)
    two thirds of its life        the next pair is written beside it                    (1)
                                  its authority is put into each caBundle, too          (2)
    trusted for `OVERLAP`         the next pair takes the place of the first            (4)
                                  every replica serves it when it reads the Secret      (3)

Each round reads everything and does what is next, so it may end anywhere and be begun again by anybody:

- (1) and (4) are writes on the very Secret that was read: of two replicas one gets a Conflict, and reads again;
- (2) only adds, and only takes away what has expired: a replica that has read an older Secret takes no trust away
  from a newer certificate;
- (3) comes after (2): a certificate that nobody trusts is served only where there is no better one.

It must never log what a Secret holds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple, Protocol

import structlog

from configregistry.admission import certificates
from configregistry.admission.certificates import Pair
from configregistry.clock import Clock
from configregistry.kube import webhooks
from configregistry.kube.client import Api
from configregistry.kube.failures import AlreadyExists, ApiError, Conflict, Forbidden
from configregistry.kube.webhooks import SecretData, Webhooks

_log = structlog.get_logger(__name__)

EVERY: Final = 30.0
"""Seconds between two rounds: after so long a replica serves what another one wrote, and a lost caBundle is back."""
AGAIN: Final = 1.0
"""Seconds after a write that another replica was faster with."""
OVERLAP: Final = 300.0
"""Seconds that a new authority is seen to be trusted before its certificate is served: API servers read
configurations by watches, some later than others."""

_CURRENT: Final = ("ca.crt", "tls.crt", "tls.key")
_NEXT: Final = ("next-ca.crt", "next-tls.crt", "next-tls.key")


class Objects(Protocol):
    """The Secret and the configuration, wherever they are."""

    async def read_secret(self) -> SecretData | None:
        """Read it; None: it does not exist."""
        ...

    async def write_secret(self, data: dict[str, bytes], before: SecretData | None) -> SecretData:
        """Write it as `kube.webhooks.write_secret` does."""
        ...

    async def read_webhooks(self) -> Webhooks | None:
        """Read it; None: it does not exist."""
        ...

    async def write_bundle(self, found: Webhooks, bundle: bytes) -> Webhooks:
        """Write it as `kube.webhooks.write_bundle` does."""
        ...


class InCluster:
    """On the API server."""

    def __init__(self, api: Api, namespace: str, secret: str, configuration: str) -> None:
        self._api = api
        self._namespace = namespace
        self._secret = secret
        self._configuration = configuration

    async def read_secret(self) -> SecretData | None:
        """Read the Secret."""
        return await webhooks.read_secret(self._api, self._namespace, self._secret)

    async def write_secret(self, data: dict[str, bytes], before: SecretData | None) -> SecretData:
        """Write the Secret."""
        return await webhooks.write_secret(self._api, self._namespace, self._secret, data, before)

    async def read_webhooks(self) -> Webhooks | None:
        """Read the configuration."""
        return await webhooks.read_webhooks(self._api, self._configuration)

    async def write_bundle(self, found: Webhooks, bundle: bytes) -> Webhooks:
        """Write the configuration."""
        return await webhooks.write_bundle(self._api, self._configuration, found, bundle)


class Kept(NamedTuple):
    """What the Secret holds: the pair that is served, and the one that is to follow it."""

    current: Pair | None
    following: Pair | None = None

    @classmethod
    def of(cls, secret: SecretData | None) -> Kept:
        """Read it; a part that lacks something is none."""
        return cls(_pair(secret, _CURRENT), _pair(secret, _NEXT))

    def data(self) -> dict[str, bytes]:
        """As the Secret holds it."""
        written: dict[str, bytes] = {}
        for pair, keys in ((self.current, _CURRENT), (self.following, _NEXT)):
            if pair is not None:
                written |= dict(zip(keys, pair, strict=True))
        return written


class Rotation:
    """Runs the rounds; `use` is given each pair that is to be served from then on."""

    def __init__(
        self,
        objects: Objects,
        names: Sequence[str],
        use: Callable[[Pair], None],
        clock: Clock,
        *,
        make: Callable[[Sequence[str], datetime], Pair] = certificates.make,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._objects = objects
        self._names = tuple(names)
        self._use = use
        self._clock = clock
        self._make = make
        self._sleep = sleep
        self._spread = spread
        self._served: Pair | None = None
        self._trusted_since: tuple[Pair, float] | None = None
        self._failure = ""
        self._failed = False

    async def run(self) -> None:
        """Run rounds until cancelled; nothing that goes wrong ends them."""
        while True:
            self._failed = False
            try:
                await self.round()
            except (Conflict, AlreadyExists):
                wait = AGAIN  # another replica was faster: see what it did
            except Exception as error:  # noqa: BLE001 - the next round may do better, and what is served stays
                wait = EVERY
                self._told(error)
            else:
                wait = EVERY
                self._failure = self._failure if self._failed else ""
            await self._sleep(wait * (0.75 + self._spread() / 2))

    async def round(self) -> None:
        """Do what is next. Raises `ApiError`; then nothing of it, or all of it, was done."""
        now = self._clock.wall()
        kept = await self._settled(now)
        trusted = await self._trust(kept, now)
        assert kept.current is not None
        if kept.current != self._served and (trusted(kept.current) or self._unserved(now)):
            self._use(kept.current)
            self._served = kept.current
            _log.info("a new certificate is in use for the admission webhook")
        if kept.following is not None and trusted(kept.following):
            await self._promote(kept.following)
        else:
            self._trusted_since = None

    async def _settled(self, now: datetime) -> Kept:
        """The Secret as it should be: with a pair that can be served, and the next one in time."""
        secret = await self._objects.read_secret()
        kept = wanted = Kept.of(secret)
        if self._bad(kept.following, now):
            wanted = wanted._replace(following=None)
        why = self._bad(kept.current, now)
        if why is not None:
            tell = _log.info if kept.current is None else _log.warning
            tell("the webhook's certificate has to be made", why=why)
            instead = wanted.following or self._known_good(now) or self._make(self._names, now)
            wanted = Kept(instead)
        elif wanted.following is None and kept.current is not None and certificates.is_due(kept.current, now):
            _log.info("the webhook's next certificate is made")
            wanted = Kept(kept.current, self._make(self._names, now))
        if wanted != kept or secret is None:
            await self._objects.write_secret(wanted.data(), secret)
        return wanted

    async def _trust(self, kept: Kept, now: datetime) -> Callable[[Pair], bool]:
        """Have API servers trust what is served, here or elsewhere, and what will be; gives what they trust."""
        try:
            found = await self._objects.read_webhooks()
        except Forbidden as error:
            self._told(error)
            found = None
        if found is None:
            # Nobody calls, for it is not installed; or nobody here may know.
            return lambda _pair: False
        pairs = [pair for pair in (kept.current, kept.following, self._known_good(now)) if pair is not None]
        bundles = found.bundles.values()
        joined = certificates.joined(bundles, pairs, now)
        if any(bundle != joined for bundle in bundles):
            try:
                await self._objects.write_bundle(found, joined)
            except Forbidden as error:
                # Somebody else may see to it; what is trusted is what stands there.
                self._told(error)
                return lambda pair: all(certificates.trusts(bundle, pair) for bundle in bundles)
            _log.info("the webhook's authorities were put into its configuration")
        return lambda pair: certificates.trusts(joined, pair)

    async def _promote(self, following: Pair) -> None:
        """Serve the next pair once it has been trusted long enough."""
        now = self._clock.monotonic()
        if self._trusted_since is None or self._trusted_since[0] != following:
            self._trusted_since = (following, now)
        if now - self._trusted_since[1] < OVERLAP:
            return
        secret = await self._objects.read_secret()
        if Kept.of(secret).following != following:
            raise Conflict("the Secret was changed meanwhile")
        await self._objects.write_secret(Kept(following).data(), secret)
        self._trusted_since = None

    def _bad(self, pair: Pair | None, now: datetime) -> str | None:
        return certificates.problem(pair, self._names, now)

    def _known_good(self, now: datetime) -> Pair | None:
        """What is served here, unless it cannot be any more."""
        return None if self._bad(self._served, now) else self._served

    def _unserved(self, now: datetime) -> bool:
        return self._known_good(now) is None

    def _told(self, error: Exception) -> None:
        """Say what goes wrong, once."""
        text, self._failed = str(error), True
        if text != self._failure:
            self._failure = text
            expected = isinstance(error, ApiError)
            _log.warning("the webhook's certificate cannot be seen to", why=text, exc_info=None if expected else error)


def _pair(secret: SecretData | None, keys: tuple[str, str, str]) -> Pair | None:
    parts = [secret.data.get(key, b"") if secret is not None else b"" for key in keys]
    return Pair(*parts) if all(parts) else None
