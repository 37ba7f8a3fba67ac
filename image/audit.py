"""`python -m image.audit`: what is known against the dependencies, and whether anybody could be asked.

pip-audit ends well also when the index that it asked knows no advisories at all, as mirrors do: "nothing found" and
"nobody answered" are then the same. Here they are three ends: 0 clean, 1 vulnerable, 3 could not ask. A pipeline
behind a mirror says --allow-unasked: the third is then told loudly, and ends well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from image.cache import say
from image.places import REQUIREMENTS

CLEAN: Final = 0
VULNERABLE: Final = 1
UNASKED: Final = 3
_WITHIN: Final = 300.0


class Findings(NamedTuple):
    """What was said of the dependencies."""

    vulnerable: tuple[str, ...] = ()
    """One line for each advisory."""
    unasked: tuple[str, ...] = ()
    """Of what nobody could say anything, and why."""
    asked: int = 0

    @property
    def verdict(self) -> int:
        """What is known to be bad counts, even where others could not be asked about."""
        if self.vulnerable:
            return VULNERABLE
        return UNASKED if self.unasked or not self.asked else CLEAN


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, tell, and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m image.audit", description="Ask PyPI for known vulnerabilities.")
    parser.add_argument("--requirements", type=Path, default=REQUIREMENTS, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--allow-unasked", action="store_true", help="end well when nobody could be asked")
    given = parser.parse_args(arguments)
    found = ask(given.requirements)
    for line in found.vulnerable:
        print(f"VULNERABLE  {line}")
    if found.vulnerable:
        print(f"{len(found.vulnerable)} advisories: raise the versions (make lock), or argue in a change why not")
    elif found.verdict == CLEAN:
        print(f"clean: nothing is known against {found.asked} dependencies")
    if found.unasked:
        many = f"{len(found.unasked)} of {len(found.unasked) + found.asked} dependencies"
        say(f"WARNING: NOT AUDITED: nobody could say anything of {many}")
        say(f"the first: {found.unasked[0]}")
        say("ask again where PyPI itself can be reached; mirrors of it have no advisories")
    return CLEAN if found.verdict == UNASKED and given.allow_unasked else found.verdict


def ask(requirements: Path) -> Findings:
    """Run pip-audit on a file of pinned versions."""
    command = [
        sys.executable, "-m", "pip_audit", f"--requirement={requirements}", "--require-hashes", "--disable-pip",
        "--format=json", "--progress-spinner=off",
    ]  # fmt: skip
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_WITHIN)
    except subprocess.TimeoutExpired:
        return Findings(unasked=(f"pip-audit: no answer within {_WITHIN:g} s",))
    try:
        answer = json.loads(ended.stdout)
    except ValueError:
        said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        return Findings(unasked=(f"pip-audit: {said[-1]}",))
    return read(answer)


def read(answer: Mapping[str, Any]) -> Findings:
    """Read pip-audit's report."""
    vulnerable, unasked, asked = [], [], 0
    for each in answer["dependencies"]:
        if "skip_reason" in each:
            unasked.append(f"{each['name']}: {each['skip_reason']}")
            continue
        asked += 1
        for advisory in each["vulns"]:
            mended = ", ".join(advisory["fix_versions"]) or "not mended yet"
            vulnerable.append(f"{each['name']} {each['version']}: {advisory['id']} ({mended})")
    return Findings(tuple(vulnerable), tuple(unasked), asked)


if __name__ == "__main__":
    sys.exit(main())
