"""Real servers for tests, beside the cluster: a Prometheus, and an app that can be told to fail.

    with AppServer() as app, Prometheus() as prometheus:
        app.metrics = {'errors_total{version="2"}': 3}
        prometheus.scrape(app.address)
        prometheus.wait_for("errors_total")

They listen on loopback only and end with the process that started them.
"""

from .app import AppServer
from .prometheus import Prometheus

__all__ = ["AppServer", "Prometheus"]
