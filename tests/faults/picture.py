"""What an API server said at one moment, to be said again later: an API server that is behind. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self


class Picture:
    """Whole lists by their paths; single objects are those of the lists."""

    def __init__(self, lists: Mapping[str, dict[str, Any]]) -> None:
        self._lists = dict(lists)

    @classmethod
    def of(cls, answers: Mapping[str, bytes]) -> Self:
        """From the bodies of lists, by their paths."""
        return cls({path: json.loads(body) for path, body in answers.items()})

    def answer(self, path: str) -> bytes | None:
        """The body for a GET; None for what is not in the picture."""
        found = self._lists.get(path)
        if found is not None:
            return json.dumps(found).encode()
        collection, _, name = path.rpartition("/")
        for each in self._lists.get(collection, {}).get("items", ()):
            if each["metadata"]["name"] == name:
                return json.dumps(each).encode()
        return None
