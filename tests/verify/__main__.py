"""Checks the generated parts of the documents against what they are generated from; `--write` mends them.

A generated part stands between two lines, `<!-- generated: <name> -->` and `<!-- end of generated -->`. A new
one is an entry in `BLOCKS` and these two lines in its file.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from configregistry.model.durations import format_duration
from configregistry.model.spec import RolloutSpec
from configregistry.rollout import diagram
from configregistry.rollout.plan import PRESETS, plan_of
from configregistry.rollout.table import Phase
from tests.verify import metrics
from tests.verify.charts import UnusableError, check_charts

ROOT: Final = Path(__file__).parents[2]
END: Final = "<!-- end of generated -->"


class Block(NamedTuple):
    """One generated part: where it stands, what it is called there, what makes its text."""

    path: str
    name: str
    text: Callable[[], str]

    @property
    def start(self) -> str:
        """The line before it."""
        return f"<!-- generated: {self.name} -->"


class Missing(Exception):  # noqa: N818
    """A file that lacks the lines between which a generated part would stand."""


def transitions() -> str:
    """The rollout machine's diagram."""
    return f"```mermaid\n{diagram.mermaid()}```\n\n{diagram.quiet()}"


def phases() -> str:
    """What each phase means."""
    return "".join(f"- **{phase.value}**: {diagram.MEANING[phase]}\n" for phase in Phase)


def presets() -> str:
    """Each preset's stages and bake."""
    lines = ["| Preset | Weights | Bake |", "| --- | --- | --- |"]
    for name in PRESETS:
        plan = plan_of(RolloutSpec(preset=name))
        *early, last = plan.stages
        pauses = {stage.pause for stage in early}
        each = f" for {format_duration(pauses.pop())} each" if len(early) > 1 and len(pauses) == 1 else ""
        told = [f"{s.weight}" if each else f"{s.weight} for {format_duration(s.pause)}" for s in early]
        way = f"{', '.join(told)}{each}, then {last.weight}" if early else f"{last.weight}"
        lines.append(f"| `{name}` | {way} | {format_duration(plan.bake)} |")
    return "\n".join(lines) + "\n"


BLOCKS: Final = (
    Block("docs/rollout.md", "phases", phases),
    Block("docs/rollout.md", "transitions", transitions),
    Block("docs/rollout.md", "presets", presets),
    Block("docs/metrics.md", "metrics", metrics.metrics),
    Block("docs/metrics.md", "labels", metrics.labels),
)


def renewed(document: str, block: Block) -> str:
    """The document with the block's text as it should be."""
    before, start, rest = document.partition(f"{block.start}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not start or not end:
        raise Missing(f"{block.path}: expected the lines {block.start} and {END}")
    return f"{before}{start}{block.text()}{end}{after}"


def check(root: Path, blocks: Sequence[Block], *, write: bool) -> list[str]:
    """What is not up to date, as differences; nothing of it is left when `write`."""
    told = []
    for block in blocks:
        path = root / block.path
        present = path.read_text(encoding="utf-8") if path.exists() else ""
        wanted = renewed(present, block)
        if wanted == present:
            continue
        if write:
            path.write_text(wanted, encoding="utf-8")
        lines = difflib.unified_diff(
            present.splitlines(keepends=True), wanted.splitlines(keepends=True), block.path, f"{block.path} (generated)"
        )
        told.append("".join(lines))
    return told


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Exit code 1: something is not up to date (or, with --write, could not be made so)."""
    parser = argparse.ArgumentParser(prog="python -m tests.verify", description=__doc__)
    parser.add_argument("--write", action="store_true", help="update what is not up to date")
    options = parser.parse_args(arguments)
    try:
        told = [*check(root, BLOCKS, write=options.write), *check_charts(root, write=options.write)]
    except (Missing, UnusableError) as missing:
        print(missing, file=sys.stderr)
        return 1
    for difference in told:
        print(difference)
    if told and not options.write:
        print("not up to date: run `make verify WRITE=1`", file=sys.stderr)
        return 1
    print(f"{len(BLOCKS)} generated parts and the chart of CRDs: {f'{len(told)} updated' if told else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
