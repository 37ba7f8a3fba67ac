"""A browser for tests: the Chromium without a window of package-lock.json, in the user's cache.

    async with Browser() as page:
        await page.go(url)
        await page.run("tell({seen: document.title})")
        await page.until(lambda: page.told)

Nothing is installed on the machine, and no JavaScript but the test's own takes part: Python unpacks the package and
talks to the browser by its own protocol. The package is checked against the hash given here and comes from
whatever registry npm is configured for.
"""

from .client import Browser
from .install import NoBrowserError, find_browser

__all__ = ["Browser", "NoBrowserError", "find_browser"]
