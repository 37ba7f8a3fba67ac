"""Which workers a weight picks: worked out from the specification, not by the product's code.

A second implementation on purpose. If it and the operator disagree, one of them is wrong, and
clients in other languages that go by the specification would get other versions than they think.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

_BUCKETS = 10_000


def content_hash(data: Mapping[str, object]) -> str:
    """Name content: RFC 8785, which for ASCII keys and integers is sorted JSON without spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def picked(seed: str, weight: int, names: Iterable[str]) -> frozenset[str]:
    """Give the names that get the candidate at this weight."""
    return frozenset(name for name in names if _bucket(seed, name) < weight * 100)


def _bucket(seed: str, name: str) -> int:
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _BUCKETS
