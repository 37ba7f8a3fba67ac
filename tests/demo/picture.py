"""The live picture: who has what, and how far the rollout is.

On a terminal a grid of workers that is redrawn; elsewhere a plain line whenever something changes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.demo.follow import View
from tests.demo.screen import Screen

_COLOURS = ("blue", "green", "magenta", "cyan", "yellow")
_CELL = 8
_BAR = 30


class Picture:
    """Shows a view for as long as it is open."""

    def __init__(self, screen: Screen, view: View) -> None:
        self._screen = screen
        self._view = view
        self._live: Live | None = None
        self._open = False
        self._began = 0.0
        self._last: tuple[Any, ...] = ()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it; what stays at the end is the last state."""
        self._began, self._last, self._open = time.monotonic(), (), True
        try:
            if self._screen.live:
                with Live(self._drawn(), console=self._screen.console, refresh_per_second=10) as self._live:
                    yield
                    self._live.update(self._drawn())
            else:
                self._tell()
                yield
                self._tell()
        finally:
            self._live, self._open = None, False

    def changed(self) -> None:
        """Take note that the view may be another one."""
        if self._live is not None:
            self._live.update(self._drawn())
        elif self._open:
            self._tell()

    def _tell(self) -> None:
        view, canary = self._view, self._view.canary
        said = (view.told_workers(), view.told_status(), _passes(canary), view.status.get("revision"))
        # Each passed check alone is no news, but the first of a stage and each failure are.
        news = (*said[:2], *((name, bool(passed), failed, errors) for name, passed, failed, errors in _counted(canary)))
        if news == self._last:
            return
        self._last = news
        parts = [part for part in said[:3] if part]
        self._screen.say(f"  +{time.monotonic() - self._began:5.1f} s  {' | '.join(parts)}")

    def _drawn(self) -> RenderableType:
        return Group(*self._grid(), *self._progress())

    def _grid(self) -> Iterator[RenderableType]:
        across = 10 if self._screen.console.width >= 10 * _CELL else 5
        grid = Table.grid(padding=(0, 1))
        cells = [_cell(worker) for worker in self._view.workers]
        for start in range(0, len(cells), across):
            grid.add_row(*cells[start : start + across])
        yield grid
        legend = Text("  ")
        for version in sorted({worker["version"] for worker in self._view.workers} - {None}):
            legend.append(f" version {version}: {len(self._view.having(version))} ", f"bold {_colour(version)}")
        failing = sum(worker["ok"] is False for worker in self._view.workers)
        legend.append(f" failing: {failing}", "bold red" if failing else "dim")
        yield legend

    def _progress(self) -> Iterator[RenderableType]:
        status, canary = self._view.status, self._view.canary
        line = Text("  ")
        if canary:
            weight = int(canary.get("weight") or 0)
            full = _BAR * weight // 100
            line.append("#" * full, _colour(canary["version"])).append("-" * (_BAR - full), "dim")
            line.append(f" {weight:3} % have version {canary['version']}")
            baking = ", baking" if canary.get("baking") else ""
            line.append(f"  step {canary.get('currentStepIndex')} of {canary.get('steps')}{baking}")
            if self._view.served:
                line.append(f"  for {time.monotonic() - self._view.served[-1].at:.0f} s")
        else:
            line.append(f"stable: version {self._view.stable}, no rollout under way")
        line.append(f"  revision {status.get('revision', '-')}", "dim")
        yield line
        if passes := _passes(canary):
            yield Text(f"  {passes}")
        for kind in ("Ready", "Stalled", "Healthy"):
            condition = self._view.condition(kind)
            if condition and (kind, condition["status"]) != ("Stalled", "False"):
                told = f"  {kind}={condition['status']} {condition['reason']}: {condition['message']}"
                style = "yellow" if (kind == "Stalled") == (condition["status"] == "True") else "dim"
                yield Text(told, style, overflow="ellipsis", no_wrap=True)


def _cell(worker: dict[str, Any]) -> Text:
    short = worker["name"].removeprefix("worker-")
    if worker["version"] is None:
        return Text(f" {short} -  ", "dim")
    if worker["ok"] is False:
        return Text(f" {short} v{worker['version']}!", "bold white on red")
    return Text(f" {short} v{worker['version']} ", f"white on {_colour(worker['version'])}")


def _colour(version: int) -> str:
    return _COLOURS[(version - 1) % len(_COLOURS)]


def _counted(canary: dict[str, Any]) -> list[tuple[str, int, int, int]]:
    checks = canary.get("checks") or []
    return [
        (check["name"], int(check.get("passed") or 0), int(check.get("failed") or 0), int(check.get("errors") or 0))
        for check in checks
    ]


def _passes(canary: dict[str, Any]) -> str:
    told = [
        f"check {name}: passed {passed}, failed {failed}, errors {errors}"
        for name, passed, failed, errors in _counted(canary)
    ]
    return "; ".join(told)
