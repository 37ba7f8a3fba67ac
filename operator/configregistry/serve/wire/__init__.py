"""HTTP over sockets: `Request`s in, `Reply`s out, and everything that a client may do wrong or never finish.

    server = await serve_http(handle, host, 8080)           # + limits=Limits(…), tls=TlsFiles(…), observer=metrics
    await server.stop()                                     # drains

| module | tells |
| --- | --- |
| limits | what one client may take from all others |
| server | the listener: start, stop, drain |
| shared | what all connections of a server share; time; who is there |
| http1, chunked | HTTP/1.1: the connection; the body of a stream |
| lasting | whole answers under the very bytes of their requests |
| parse, encode | bytes -> requests (llhttp); responses -> bytes; pure |
| http2, replies, exchange | HTTP/2 (python-hyper's h2): the connection; replies on their way; one request |
| tls, certificates | encryption between socket and connection; certificate and key from files that may change |

It must never look into what it carries, wait within the event loop, or buffer for a client without bound.
"""

from configregistry.serve.wire.certificates import TlsFiles
from configregistry.serve.wire.limits import Limits
from configregistry.serve.wire.server import HttpServer, HttpServerFailed, serve_http
from configregistry.serve.wire.shared import Observer

__all__ = ["HttpServer", "HttpServerFailed", "Limits", "Observer", "TlsFiles", "serve_http"]
