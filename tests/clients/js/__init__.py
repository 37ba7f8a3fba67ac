"""JavaScript clients for tests: Node.js and the packages of package-lock.json, in the user's cache.

    async with JavaScript("ofrep.cjs", "web", url) as client:
        await client.call("evaluate", type="boolean", key="flag", default=False)

Nothing is installed on the machine. Node.js is that of PATH if it is new enough, else the one of the
Python package in node.txt; both that and the packages are checked against the hashes given here, and come
from whatever registries pip and npm are configured for. What is in the cache is complete or absent: it
is renamed into place.
"""

from .client import JavaScript
from .install import NoNodeError

__all__ = ["JavaScript", "NoNodeError"]
