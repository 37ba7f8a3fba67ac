"""Lines that a person understands alone: their form, and what holds for each line of the program."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest
import structlog
from tests.cluster.standing import REPOSITORY

from configregistry.telemetry import logs, tracing
from configregistry.telemetry.otlp import Otlp

LEVELS: Final = {"debug", "info", "warning", "error", "exception"}
SECRET: Final = {"url", "body", "headers", "token", "password", "data", "spec", "content", "value", "query"}
"""Keys under which something might stand that is not for a log."""


class Line(NamedTuple):
    """One call of a logger."""

    place: str
    event: str
    keys: frozenset[str]
    open: bool
    """Whether there are keys that are not written out here."""


def lines() -> Iterator[Line]:
    root = REPOSITORY / "operator" / "configregistry"
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func
            if not called or called.attr not in LEVELS or not isinstance(called.value, ast.Name):
                continue
            if not called.value.id.endswith(("log", "logger")):
                continue
            assert isinstance(node, ast.Call)
            keys = frozenset(each.arg for each in node.keywords if each.arg is not None) - {"exc_info"}
            event = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
            opened = any(each.arg is None for each in node.keywords)
            yield Line(f"{path.relative_to(root)}:{node.lineno}", str(event), keys, opened)


ALL: Final = list(lines())


def test_there_are_lines() -> None:
    assert len(ALL) > 50


@pytest.mark.parametrize("line", ALL, ids=lambda line: line.place)
def test_each_line(line: Line) -> None:
    if line.event and line.event != "audit":
        assert not line.event.endswith("."), "a line is no paragraph"
        assert "{" not in line.event, "what differs is in keys, so that lines can be counted"
    assert not line.keys & SECRET, line.keys & SECRET
    if "registry" in line.keys:
        assert "namespace" in line.keys or line.open, "a registry's name alone is ambiguous"
    if "version" in line.keys:
        assert "registry" in line.keys or line.open, "of which registry?"


@pytest.fixture
def root() -> Iterator[None]:
    """What `configure` changes is put back."""
    before, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    logging.getLogger().handlers[:] = before
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().err)
    return found


def test_in_a_cluster_a_line_is_json_with_its_trace(
    root: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure("auto")
    line = {"namespace": "shop", "registry": "checkout", "version": 7}
    structlog.get_logger("configregistry.test").info("version recorded", **line)
    found = told(capsys)
    assert str(found.pop("timestamp")).endswith("Z")
    assert found == {"event": "version recorded", "level": "info", "logger": "configregistry.test", **line}

    logging.getLogger("a.library").warning("says %s", "something")
    assert {key: told_ for key, told_ in told(capsys).items() if key != "timestamp"} == {
        "event": "says something",
        "level": "warning",
        "logger": "a.library",
    }
    monkeypatch.setattr(tracing, "_backend", Otlp("test"))
    with tracing.joined("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        structlog.get_logger("configregistry.test").warning("within")
        assert told(capsys)["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    structlog.get_logger("configregistry.test").warning("without")
    assert "trace_id" not in told(capsys)
    monkeypatch.setattr(tracing, "_backend", None)


def test_a_person_reads_text(root: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "warning")
    structlog.get_logger("configregistry.test").info("not told")
    structlog.get_logger("configregistry.test").warning("hook failed; tried again", registry="checkout")
    text = capsys.readouterr().err
    assert "hook failed; tried again" in text
    assert "registry=checkout" in text
    assert "not told" not in text


def test_a_traceback_shows_no_values(root: None, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("json", "text"):
        logs.configure(form)
        secret, known = "hunter2", dict[int, str]()
        try:
            known[len(secret)] += secret
        except KeyError:
            structlog.get_logger("configregistry.test").exception("a defect")
        assert "hunter2" not in capsys.readouterr().err
        structlog.reset_defaults()
