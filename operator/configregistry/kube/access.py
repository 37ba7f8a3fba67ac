"""How to reach the API server, and as whom: what kubeconfig, environment or service account say.

Why: the kubernetes package knows contexts, exec plugins, OIDC and mounted tokens; it is used for
that alone, and imported only when somebody connects (it costs half a second and 56 MiB).
Credentials that ran out are had anew by reading everything again: `reload` covers every kind.

It must never log or show a credential.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from configregistry.kube.failures import NoClusterError, Unavailable

_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
_ADVICE = (
    "name a kubeconfig with --kubeconfig or KUBECONFIG (and --context), or run it in a cluster with a service account"
)


class Access(NamedTuple):
    """Everything that a connection needs. `token` gives the Authorization header, if any."""

    host: str
    token: Callable[[], Awaitable[str | None]]
    tls: ssl.SSLContext | None = None
    server_hostname: str | None = None
    proxy: str | None = None
    trust_env: bool = False
    """Whether HTTPS_PROXY and NO_PROXY count; never for a server on this machine, as in kubectl."""


async def no_token() -> str | None:
    """Credentials without a token: a client certificate, or none at all."""
    return None


async def load_access(kubeconfig: str | None, context: str | None = None) -> Access:
    """Read the configuration and make a TLS context of it. Raises `NoClusterError`."""
    # Imported here: it costs half a second; see above.
    from kubernetes.aio.client.rest import RESTClientObject  # noqa: PLC0415

    configuration = await load_configuration(kubeconfig, context)
    try:
        tls = RESTClientObject(configuration).ssl_context
    except Exception as error:
        raise _unusable(_files(kubeconfig, context), error) from error
    return _access(configuration, tls)


async def load_configuration(kubeconfig: str | None, context: str | None = None) -> Any:
    """Read a named file, else KUBECONFIG, else the pod's account, else ~/.kube/config.

    A `context` that is named leaves the pod's account out. Gives a `kubernetes.aio` Configuration.
    Raises `NoClusterError`.
    """
    from kubernetes.aio.client import Configuration  # noqa: PLC0415
    from kubernetes.aio.config import (  # noqa: PLC0415
        ConfigException,
        load_incluster_config,
        load_kube_config,
    )

    configuration = Configuration()
    files = _files(kubeconfig, context)
    try:
        if files is None:
            load = load_incluster_config  # untyped
            load(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await load_kube_config(  # type: ignore[no-untyped-call]
                config_file=files,
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
    except ConfigException as error:
        raise NoClusterError(f"{_place(files)}: {error}; {_ADVICE}") from error
    except Exception as error:
        raise _unusable(files, error) from error
    return configuration


def _unusable(files: str | None, error: Exception) -> NoClusterError:
    # What the library raises for broken files is not one type: YAML errors, TypeError, OSError.
    return NoClusterError(f"{_place(files)} is not usable: {type(error).__name__}: {error}; {_ADVICE}")


def _access(configuration: Any, tls: ssl.SSLContext) -> Access:
    host = str(configuration.host).rstrip("/")

    async def token() -> str | None:
        try:
            value = await configuration.get_api_key_with_prefix("BearerToken", "authorization")
        except Exception as error:  # the account's token file is being exchanged
            raise Unavailable(f"credentials cannot be read: {type(error).__name__}") from error
        return str(value).strip() if value else None

    return Access(
        host,
        token,
        tls if host.startswith("https:") else None,
        configuration.tls_server_name,
        configuration.proxy,
        trust_env=not _is_local(host),
    )


def _files(kubeconfig: str | None, context: str | None) -> str | None:
    """Paths of the kubeconfig, as KUBECONFIG has them; None for the pod's service account."""
    if kubeconfig is not None:
        return _existing(kubeconfig, "--kubeconfig")
    if named := os.environ.get("KUBECONFIG"):
        return _existing(named, "KUBECONFIG")
    if os.environ.get(_IN_CLUSTER) and context is None:
        return None
    default = Path.home() / ".kube" / "config"
    if not default.is_file():
        raise NoClusterError(f"no cluster is configured: {_ADVICE}")
    return str(default)


def _existing(paths: str, source: str) -> str:
    found = [path for path in paths.split(os.pathsep) if path and Path(path).expanduser().is_file()]
    if not found:
        raise NoClusterError(f"{source} names no file that exists ({paths}): {_ADVICE}")
    return os.pathsep.join(found)


def _place(files: str | None) -> str:
    return "the pod's service account" if files is None else f"kubeconfig {files}"


def _is_local(host: str) -> bool:
    name = urlsplit(host).hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
