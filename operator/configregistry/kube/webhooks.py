"""The two objects of the admission webhook's certificate: the Secret that holds it, and who is told to trust it.

The Secret is shared by all replicas, the configuration is read by API servers. Each write names what was read, so
that of two replicas one gets a `Conflict`. It must never write more than the keys of the Secret and the caBundle.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from configregistry.kube.client import Api
from configregistry.kube.failures import NOT_KUBERNETES, NotFound, Unavailable
from configregistry.kube.paths import Resource

SECRETS: Final = Resource("", "v1", "secrets")
CONFIGURATIONS: Final = Resource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations")
_STRATEGIC: Final = "application/strategic-merge-patch+json"
"""Lists of webhooks are merged by their names, so that nothing else of one has to be repeated."""


class SecretData(NamedTuple):
    """What a Secret holds, and which one it is. Its text must never reach a log."""

    data: Mapping[str, bytes]
    uid: str
    resource_version: str

    def __repr__(self) -> str:
        """Without what it holds."""
        return f"SecretData(keys={sorted(self.data)}, resource_version={self.resource_version!r})"


class Webhooks(NamedTuple):
    """A ValidatingWebhookConfiguration: each webhook's name with its caBundle (PEM, empty: none)."""

    bundles: Mapping[str, bytes]
    uid: str
    resource_version: str


async def read_secret(api: Api, namespace: str, name: str) -> SecretData | None:
    """Read one; None: it does not exist."""
    path = SECRETS.path(namespace, name)
    try:
        raw = await api.get(path)
    except NotFound:
        return None
    return _secret(path, raw)


async def write_secret(
    api: Api, namespace: str, name: str, data: Mapping[str, bytes], before: SecretData | None
) -> SecretData:
    """Make it hold this and nothing else. Raises `AlreadyExists` or `Conflict` if it is not as it was read."""
    told: dict[str, str | None] = {key: base64.b64encode(value).decode() for key, value in data.items()}
    path = SECRETS.path(namespace, name)
    if before is None:
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": "kubernetes.io/tls",
            "data": told,
        }
        return _secret(path, await api.create(SECRETS.path(namespace), msgspec.json.encode(body)))
    body = {
        "metadata": {"uid": before.uid, "resourceVersion": before.resource_version},
        "data": dict.fromkeys(before.data.keys() - told.keys()) | told,
    }
    return _secret(path, await api.patch(path, msgspec.json.encode(body)))


async def read_webhooks(api: Api, name: str) -> Webhooks | None:
    """Read a configuration; None: it does not exist."""
    path = CONFIGURATIONS.path(None, name)
    try:
        raw = await api.get(path)
    except NotFound:
        return None
    return _webhooks(path, raw)


async def write_bundle(api: Api, name: str, found: Webhooks, bundle: bytes) -> Webhooks:
    """Have all webhooks of a configuration trust these certificates. Raises `Conflict` if it has changed."""
    trust = base64.b64encode(bundle).decode()
    body = {
        "metadata": {"uid": found.uid, "resourceVersion": found.resource_version},
        "webhooks": [{"name": each, "clientConfig": {"caBundle": trust}} for each in found.bundles],
    }
    path = CONFIGURATIONS.path(None, name)
    return _webhooks(path, await api.patch(path, msgspec.json.encode(body), kind=_STRATEGIC))


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    uid: str = ""
    resource_version: str = ""


class _Secret(msgspec.Struct, frozen=True):
    metadata: _Meta
    data: dict[str, str] | None = None


class _ClientConfig(msgspec.Struct, frozen=True):
    ca_bundle: str | None = msgspec.field(name="caBundle", default=None)


class _Webhook(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    client_config: _ClientConfig = _ClientConfig()


class _Configuration(msgspec.Struct, frozen=True):
    metadata: _Meta
    webhooks: tuple[_Webhook, ...] | None = None


_SECRET: Final = msgspec.json.Decoder(_Secret)
_CONFIGURATION: Final = msgspec.json.Decoder(_Configuration)


def _secret(path: str, raw: bytes) -> SecretData:
    try:
        wire = _SECRET.decode(raw)
    except msgspec.MsgspecError:
        # Without the decoder's words: they may quote what was decoded.
        raise Unavailable(f"{path}: not a Secret", reason=NOT_KUBERNETES) from None
    data = {key: _bytes(text) for key, text in (wire.data or {}).items()}
    return SecretData(data, wire.metadata.uid, wire.metadata.resource_version)


def _webhooks(path: str, raw: bytes) -> Webhooks:
    try:
        wire = _CONFIGURATION.decode(raw)
    except msgspec.MsgspecError as error:
        raise Unavailable(f"{path}: not a ValidatingWebhookConfiguration: {error}", reason=NOT_KUBERNETES) from error
    bundles = {each.name: _bytes(each.client_config.ca_bundle or "") for each in wire.webhooks or ()}
    return Webhooks(bundles, wire.metadata.uid, wire.metadata.resource_version)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
