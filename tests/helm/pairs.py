"""Cases in which each option of each axis meets each option of every other axis at least once.

Most faults of a chart need two values to meet, hardly any three; all combinations would be thousands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

Case = dict[str, str]


def pairwise(axes: Mapping[str, Sequence[str]]) -> list[Case]:
    """Cases that cover all pairs; the same ones each time. The first takes the first option of each axis."""
    open_pairs = {
        ((one, a), (other, b)) for one, other in combinations(sorted(axes), 2) for a in axes[one] for b in axes[other]
    }
    found: list[Case] = []
    while open_pairs or not found:
        case = {axis: options[0] for axis, options in axes.items()} if not found else _next(axes, open_pairs)
        open_pairs -= set(combinations(sorted(case.items()), 2))
        found.append(case)
    return found


def _next(axes: Mapping[str, Sequence[str]], open_pairs: set[tuple[tuple[str, str], tuple[str, str]]]) -> Case:
    """Begin with a pair that has not met, and add what meets most of the rest."""
    case = dict(min(open_pairs))
    for axis in sorted(axes, key=lambda axis: (-len(axes[axis]), axis)):
        if axis not in case:
            case[axis] = max(axes[axis], key=lambda option: len(_meets(case, (axis, option)) & open_pairs))
    return case


def _meets(case: Case, added: tuple[str, str]) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    return {(min(each, added), max(each, added)) for each in case.items()}
