"""The few requests that the driver itself makes to an API server.

Only the standard library, and a connection for each request: it asks servers
that are about to come up or go away, where a kept connection is a trap.
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .ports import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT = 5.0


@dataclass(frozen=True)
class Api:
    """An HTTPS server on a loopback port, asked with a client certificate."""

    port: int
    authority: Path
    certificate: Path
    key: Path

    def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Return status and body of the answer; OSError when there is none."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.certificate, self.key)
        connection = http.client.HTTPSConnection(LOOPBACK, self.port, timeout=_TIMEOUT, context=context)
        try:
            connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body),
                headers={"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            message = f"no HTTP from port {self.port}: {error!r}"
            raise OSError(message) from error
        finally:
            connection.close()

    def says_ok(self, path: str) -> bool:
        """Tell whether it answers this with 200; no answer at all is a no."""
        try:
            return self.request("GET", path)[0] == http.client.OK
        except OSError:
            return False
