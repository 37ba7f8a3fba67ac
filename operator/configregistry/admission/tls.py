"""What the webhook's listener shows of certificates: the pair of the moment, exchanged while it runs.

The pair comes from elsewhere (`rotation`, or files) and from another thread than the listener's. Each is loaded
whole into a context of its own, and then put into use by one reference assignment, so a handshake gets one pair or
the other and never a half of each. Connections that are open go on.

Keys never touch a disk: OpenSSL reads files alone, so it is given one that is in memory only.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from configregistry.admission import certificates
from configregistry.admission.certificates import Pair
from configregistry.errors import UsageError

_log = structlog.get_logger(__name__)

LOOK_EVERY: Final = 5.0
"""Seconds between two looks at the files."""


class Tls:
    """`context` is for the listener. Until a pair is in use each handshake fails, which is for failurePolicy then."""

    def __init__(self, certified: Callable[[float], None] = lambda _until: None) -> None:
        """`certified` is told until when each pair that is put into use is valid, in seconds since 1970."""
        self._certified = certified
        certified(0.0)  # none yet: whoever watches its end hears of that, too
        self.context = _context()
        self.context.sni_callback = self._choose
        self._present: ssl.SSLContext | None = None

    def use(self, pair: Pair) -> None:
        """Serve this pair from the next handshake on. Raises `ValueError` if it is none; then the former stays."""
        made = _context()
        descriptor = os.memfd_create("configregistry-webhook", os.MFD_CLOEXEC)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(pair.key.rstrip() + b"\n" + pair.certificate)
            # A key with a passphrase would have OpenSSL ask the terminal.
            made.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: b"")
        except ssl.SSLError as error:
            raise ValueError(f"certificate and key do not belong together ({error.reason})") from None
        finally:
            os.close(descriptor)
        self._present = made
        self._certified(certificates.valid_until(pair))

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called in each handshake, whether or not the client names a server."""
        if self._present is not None:
            connection.context = self._present


class Files:
    """PEM files, such as a volume of a Secret that cert-manager keeps; looked at again and again."""

    def __init__(self, certificate: Path, key: Path, use: Callable[[Pair], None]) -> None:
        """Raises `UsageError` if there is no pair at the start."""
        self._paths = (certificate, key)
        self._use = use
        try:
            self._seen = self._read()
            use(self._seen)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--webhook-certificate, --webhook-key: {error}: expected PEM files that belong together"
            ) from error

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Look until cancelled; files that are no pair change nothing but the log."""
        while True:
            await sleep(LOOK_EVERY)
            self.look()

    def look(self) -> None:
        """Use the pair again if it is another one than before."""
        try:
            found = self._read()
            if found == self._seen:
                return
            self._seen = found
            self._use(found)
        except (OSError, ValueError) as error:
            _log.warning("the webhook's certificate that is in use stays", why=str(error))
        else:
            _log.info("a new certificate is in use for the admission webhook", certificate=str(self._paths[0]))

    def _read(self) -> Pair:
        certificate, key = self._paths
        return Pair(b"", certificate.read_bytes(), key.read_bytes())


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context
