"""nginx with one static file, as a peer: one process, no access log, keep-alive without a limit."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.product import SERVER_CORE, pin
from tests.cluster.ports import LOOPBACK, pick_ports
from tests.cluster.process import spawn
from tests.servers.debian import find_program

_CONFIG = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; default_type application/json; keepalive_requests 1000000000;
  open_file_cache max=10 inactive=1h; sendfile on; tcp_nopush on;
  client_body_temp_path {directory}/1; proxy_temp_path {directory}/2; fastcgi_temp_path {directory}/3;
  uwsgi_temp_path {directory}/4; scgi_temp_path {directory}/5;
  server {{ listen {address}; root {directory}/www; }}
}}
"""

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Nginx(NamedTuple):
    """An nginx that runs."""

    url: str
    """Of the first file; others are beside it."""
    pid: int


@contextmanager
def nginx(directory: Path, **bodies: bytes) -> Iterator[Nginx]:
    """Serve these bodies, each under its name, on the server's core."""
    program = find_program("nginx", "/usr/sbin/nginx", ["nginx"])
    home = directory / "nginx"
    (home / "www").mkdir(parents=True, exist_ok=True)
    for name, body in bodies.items():
        (home / "www" / name).write_bytes(body)
    first = next(iter(bodies))
    address = f"{LOOPBACK}:{pick_ports(1)[0]}"
    config = home / "nginx.conf"
    config.write_text(_CONFIG.format(directory=home, address=address))
    process = spawn(
        [str(program.path), "-c", str(config), "-e", str(home / "error.log")],
        log=home / "log",
        pid_file=home / "spawned.pid",
        directory=home,
        environment={**os.environ, **program.environment},
        detached=False,
    )
    try:
        pin(process.identity.pid, {SERVER_CORE})
        url = f"http://{address}/{first}"
        for attempt in range(200):
            try:
                with _open(url, timeout=5) as answer:
                    assert answer.read() == bodies[first]
                break
            except OSError:
                if attempt == 199 or not process.alive():
                    raise RuntimeError((home / "error.log").read_text() + (home / "log").read_text()) from None
                time.sleep(0.02)
        yield Nginx(url, process.identity.pid)
    finally:
        process.end(grace=5.0)
