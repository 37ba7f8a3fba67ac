"""The three ends of an audit, read from what pip-audit says. Its answers here are shortened copies of real ones."""

from __future__ import annotations

from typing import Any

import pytest
from image import audit
from image.audit import CLEAN, UNASKED, VULNERABLE, Findings, read

GOOD: dict[str, Any] = {"name": "h2", "version": "4.4.1", "vulns": []}
BAD: dict[str, Any] = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": [], "description": "Sandbox escape"}],
}
UNKNOWN: dict[str, Any] = {"name": "yarl", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("dependencies", "verdict"),
    [
        ([GOOD], CLEAN),
        ([GOOD, BAD], VULNERABLE),
        ([GOOD, UNKNOWN], UNASKED),
        ([UNKNOWN], UNASKED),
        ([BAD, UNKNOWN], VULNERABLE),
        ([], UNASKED),
    ],
)
def test_silence_is_not_clean(dependencies: list[dict[str, Any]], verdict: int) -> None:
    """Only when something was said of each, and nothing bad, it is clean."""
    assert read({"dependencies": dependencies}).verdict == verdict


def test_an_advisory_is_told_with_its_cure() -> None:
    """A person sees what to do."""
    assert read({"dependencies": [BAD]}).vulnerable == ("jinja2 2.4.1: PYSEC-2019-217 (2.10.1)",)


@pytest.mark.parametrize(
    ("found", "allowed", "code"),
    [
        (Findings(asked=1), False, 0),
        (Findings(unasked=("x",)), False, 3),
        (Findings(unasked=("x",)), True, 0),
        (Findings(vulnerable=("x",), unasked=("y",), asked=1), True, 1),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: Findings, allowed: bool, code: int
) -> None:
    """The switch forgives silence and nothing else, and silence is always told."""
    monkeypatch.setattr(audit, "ask", lambda _requirements: found)
    assert audit.main(["--allow-unasked"] if allowed else []) == code
    assert ("NOT AUDITED" in capsys.readouterr().err) == bool(found.unasked)
