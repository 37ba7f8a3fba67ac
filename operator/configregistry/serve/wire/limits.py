"""What one client may take from all others: sizes, times and numbers, in one frozen value."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

HEADROOM: Final = 1024
"""Open files that are left to everything else: connections that are not counted yet, refusals, the API server's
watches, checks, probes."""


@dataclass(frozen=True)
class Limits:
    """Bounds of an `HttpServer`. Sizes are in bytes, times in seconds.

    The defaults are those of nginx and of Go's net/http where these have one, and smaller where this product
    cannot need as much.
    """

    head_bytes: int = 16 * 1024
    """Request line and header fields together; more is answered with 431."""
    head_fields: int = 100
    """Header fields of one request; more is answered with 431."""
    url_bytes: int = 8 * 1024
    """Of the request target; more is answered with 414."""
    body_bytes: int = 64 * 1024
    """Of a request's content; more is answered with 413, before it is read where its length was told."""
    head_seconds: float = 10.0
    """From the first byte of a request (or from the connection) until its head is there; then 408."""
    body_seconds: float = 10.0
    """From a request's head until its content is there; then 408."""
    idle_seconds: float = 75.0
    """How long a connection may rest between requests; it is closed without a word."""
    stall_seconds: float = 30.0
    """How long a client may take nothing of a whole response that waits for it; then it is cut off. Streams are
    the business of whoever feeds them."""
    connections: int = 20_000
    """Together; less where the process may not open so many files. One more is answered with 503."""
    peer_connections: int = 0
    """Of one address; 0 means any number, because behind a proxy or a node's NAT all have the same."""
    burst: int = 16
    """Requests of one connection that are answered before all others have their turn."""
    streams: int = 128
    """Requests under way at once on an HTTP/2 connection; on HTTP/1.1 it is always one."""
    resets: int = 200
    """HTTP/2 requests that a connection may take back before it is taken for an attack (CVE-2023-44487)."""

    def room(self) -> int:
        """Give the number of connections for which this process may open files; at least a few."""
        files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY:
            return self.connections
        return min(self.connections, max(files - HEADROOM, files // 4))
