"""Certificate and key from files, and again whenever these change.

New connections get the new pair, those that are open go on with theirs. A pair that is only half written, or no pair
at all, changes nothing but the log.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from configregistry.errors import ConfigRegistryError

PROTOCOLS: Final = ("h2", "http/1.1")

_log = structlog.get_logger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


class NoCertificate(ConfigRegistryError):  # noqa: N818
    """The files hold no certificate with its key."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the certificate with its chain, and its key. Symbolic links are followed, as a Secret's volume has."""

    certificate: Path
    key: Path


class Certificates:
    """The pair that is in use; `context` is what the next connection gets.

    Raises `NoCertificate` if there is none at the start.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._stamp()
        try:
            self.context = self._load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise NoCertificate(f"{files.certificate} and {files.key}: {error}") from error

    def look(self) -> None:
        """Load the pair again if one of the files is another one than before."""
        seen = self._stamp()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.context = self._load()
        except (OSError, ValueError) as error:
            _log.warning(
                "the certificate that is in use stays", certificate=str(self._files.certificate), why=str(error)
            )
        else:
            _log.info("a new certificate is in use", certificate=str(self._files.certificate))

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(list(PROTOCOLS))
        # A key with a passphrase would have OpenSSL ask the terminal.
        context.load_cert_chain(self._files.certificate, self._files.key, password=lambda: b"")
        return context

    def _stamp(self) -> Stamp:
        return tuple(_identity(path) for path in (self._files.certificate, self._files.key))


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size
