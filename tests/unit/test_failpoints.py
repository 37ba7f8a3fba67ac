"""Failpoints: what a text of the environment means, what it does, and that no await of reconcile is without one."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import configregistry
from configregistry import failpoints
from configregistry.errors import UsageError
from configregistry.failpoints import PLACES, SWITCH, InjectedError, Rule, arm, names, parse, reach
from configregistry.kube import paths

ROOT: Final = Path(configregistry.__file__).parent


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm({})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("act.status.after=kill", Rule("act.status.after", "", "kill", 0, 0)),
        ("act.status.after=kill@3", Rule("act.status.after", "", "kill", 0, 3)),
        ("act.status.after[shop.eu-1]=error@12", Rule("act.status.after", "shop.eu-1", "error", 0, 12)),
        ("queue.taken=delay:1.5", Rule("queue.taken", "", "delay", 1.5, 0)),
        ("queue.taken[a]=delay:2@1", Rule("queue.taken", "a", "delay", 2, 1)),
        (
            "api.replace.configregistries/status.sent=pause",
            Rule("api.replace.configregistries/status.sent", "", "pause", 0, 0),
        ),
    ],
)
def test_what_a_rule_means(text: str, rule: Rule) -> None:
    assert parse(text) == ((rule,), "")


def test_several_rules_and_a_file() -> None:
    rules, record = parse(" queue.taken=kill@2, record=/tmp/x ; decide.after[a]=error\n")
    assert [(each.name, each.subject, each.hit) for each in rules] == [("queue.taken", "", 2), ("decide.after", "a", 0)]
    assert record == "/tmp/x"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("act.status.aftr=kill", "act.status.after"),
        ("api.replace.configregistry/status.sent=kill", "api.replace.configregistries/status.sent"),
        ("act.status.after=kil", "expected one of kill, error, delay, pause"),
        ("act.status.after=kill@0", "expected NAME=ACTION"),
        ("act.status.after=kill@x", "expected NAME=ACTION"),
        ("act.status.after", "expected NAME=ACTION"),
        ("act.status.after[]=kill", "expected NAME=ACTION"),
        ("act.status.after=delay", "expected delay:SECONDS"),
        ("act.status.after=kill:3", "expected delay:SECONDS"),
        ("record=relative", "record=/FILE"),
        ("record=/does/not/exist", "expected a file to write to"),
    ],
)
def test_what_nobody_understands_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)) as refused:
        arm({SWITCH: text})
    assert str(refused.value).startswith(SWITCH)
    reach("queue.taken")  # and nothing is armed


def test_inert_without_the_switch() -> None:
    for environment in ({}, {SWITCH: ""}, {SWITCH: "  "}):
        arm(environment)
        for name in names():
            reach(name)
        reach("no name at all")
        failpoints.request("GET", "/nonsense", "sent")


def test_which_hit() -> None:
    arm({SWITCH: "queue.taken=error@2"})
    reach("queue.taken")
    reach("decide.after")
    with pytest.raises(InjectedError, match=r"queue\.taken"):
        reach("queue.taken")
    reach("queue.taken")


def test_hits_are_counted_for_each_registry() -> None:
    arm({SWITCH: "queue.taken[b]=error@2"})
    for subject in ("a", "a", "b", "a"):
        failpoints.about(subject)
        reach("queue.taken")
    failpoints.about("b")
    with pytest.raises(InjectedError):
        reach("queue.taken")
    failpoints.about("")


def test_each_hit_where_none_is_named() -> None:
    arm({SWITCH: "queue.taken=error"})
    for _ in range(3):
        with pytest.raises(InjectedError):
            reach("queue.taken")


def test_a_delay_is_one() -> None:
    arm({SWITCH: "queue.taken=delay:0.05"})
    began = time.monotonic()
    reach("queue.taken")
    assert time.monotonic() - began >= 0.05


def test_what_is_reached_is_written_down(tmp_path: Path) -> None:
    arm({SWITCH: f"record={tmp_path}/reached"})
    reach("queue.taken")
    failpoints.about("shop")
    failpoints.request("PUT", paths.REGISTRIES.path("ns", "shop", "status"), "before")
    failpoints.about("")
    written = (tmp_path / "reached").read_text()
    assert written == "queue.taken \napi.replace.configregistries/status.before shop\n"


def test_it_is_said_loudly(capfd: pytest.CaptureFixture[str]) -> None:
    arm({SWITCH: "queue.taken=error"})
    told = "".join(capfd.readouterr())
    assert "FAILPOINTS ARE ARMED" in told
    assert "queue.taken=error" in told


def _child(rule: str) -> subprocess.Popen[bytes]:
    code = f"import os; from configregistry.failpoints import *; arm(os.environ); reach('queue.taken'); print({rule!r})"
    environment = {**os.environ, SWITCH: rule, "PYTHONPATH": str(ROOT.parent)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)


def test_a_kill_is_one() -> None:
    with _child("queue.taken=kill") as child:
        told, _ = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert b"queue.taken=kill\n" not in told


def test_a_pause_lasts_until_it_is_ended() -> None:
    with _child("queue.taken=pause") as child:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        child.send_signal(signal.SIGCONT)
        told, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert told.endswith(b"queue.taken=pause\n")


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", paths.REGISTRIES.path("ns", "shop"), "api.get.configregistries.sent"),
        ("GET", paths.REGISTRIES.path(), "api.get.configregistries.sent"),
        ("PUT", paths.REGISTRIES.path("ns", "shop", "status"), "api.replace.configregistries/status.sent"),
        ("POST", paths.REVISIONS.path("ns"), "api.create.controllerrevisions.sent"),
        ("DELETE", paths.CONFIGMAPS.path("ns", "a"), "api.delete.configmaps.sent"),
        ("GET", paths.NAMESPACES.path(None, "ns"), "api.get.namespaces.sent"),
        ("PATCH", paths.EVENTS.path("namespaces", "namespaces"), "api.patch.events.sent"),
        ("GET", paths.ROLLOUT_POLICIES.path(None, "p"), "api.get.rolloutpolicies.sent"),
        ("PUT", paths.LEASES.path("ns", "l"), "api.replace.leases.sent"),
        ("POST", paths.TOKEN_REVIEWS.path(), "api.create.other.sent"),
        ("GET", "/version", "api.get.other.sent"),
    ],
)
def test_the_name_of_a_request(tmp_path: Path, method: str, path: str, name: str) -> None:
    arm({SWITCH: f"record={tmp_path}/reached"})
    failpoints.request(method, path, "sent")
    assert (tmp_path / "reached").read_text().split() == [name]
    assert name in names()


# The static test ---------------------------------------------------------------------------------------------------

PATH: Final = (
    *("reconcile/act.py", "reconcile/asking.py", "reconcile/cluster.py", "reconcile/consent.py", "reconcile/gather.py"),
    *("reconcile/hooks.py", "reconcile/policies.py", "reconcile/projection.py", "reconcile/queue.py"),
    *("reconcile/reconciler.py", "reconcile/sources.py", "reconcile/telling.py", "reconcile/validation.py"),
    *("reconcile/wanted.py", "kube/client.py", "kube/configmaps.py", "kube/events.py", "kube/revisions.py"),
    *("kube/status.py", "health/runner.py"),
)
"""The modules that a rollout's decision, and what is done about it, pass through."""
ENDS: Final = "the end of the process: nothing is decided or written after it"
EXCEPT: Final = {
    ("reconcile/queue.py", "WorkQueue.get"): "until a name comes: the taker says so (queue.taken)",
    ("reconcile/reconciler.py", "Reconciler.work"): "lets others run, after queue.done",
    ("health/runner.py", "Runner._until_due"): "until a check is due: its loop says so (check.due)",
    ("health/runner.py", "Runner._either"): "between check.asked and check.answered",
    ("health/runner.py", "_awaited"): "makes a coroutine of an awaitable, and is awaited itself",
    ("kube/events.py", "Recorder.run"): "until there is something to tell: events.woken",
    ("kube/events.py", "Recorder._deliver"): "a wait before the same is sent again: events.new.before",
    ("kube/events.py", "Recorder.drain"): ENDS,
    ("kube/client.py", "Api.watch"): "what a watch tells is written nowhere: memory only",
    ("kube/client.py", "_lines"): "the same",
    ("kube/client.py", "_failure"): "the text of a refusal: api.*.sent stands before it",
    ("kube/client.py", "connect"): "before anything else",
    ("kube/client.py", "connect.load"): "before anything else",
    ("reconcile/asking.py", "Asker.later.wait"): "a timer that queues a name",
}
"""Where an await needs none, and why. One that is not there any more has to go from here."""


class Await(NamedTuple):
    """One await, `async with` or `async for`."""

    module: str
    function: str
    line: int
    text: str


def awaits_without(module: str, source: str, own: frozenset[str]) -> list[Await]:
    """The awaits of a module that have no failpoint beside them.

    Beside: in the same block, the statement before or after it; an `async with` may begin or end with it. What is
    awaited of `own`, the coroutines of these modules, has them inside, and needs none.
    """
    found: list[Await] = []

    def block(body: list[ast.stmt], within: str) -> None:
        body = _flat(body)
        for at, statement in enumerate(body):
            near = [*body[max(0, at - 1) : at], *(_first([each]) for each in body[at + 1 : at + 2])]
            if isinstance(statement, ast.AsyncWith | ast.AsyncFor):
                near += [_first(statement.body), statement.body[-1]]
            for text, line in _waits(statement, own):
                if not any(_is_failpoint(each) for each in near):
                    found.append(Await(module, within, line, text))
            name = statement.name if isinstance(statement, _NAMED) else ""
            inner = ".".join(part for part in (within, name) if part)
            for field in ("body", "orelse", "finalbody"):
                block(getattr(statement, field, []), inner)
            for handler in getattr(statement, "handlers", []):
                block(handler.body, inner)

    block(ast.parse(source).body, "")
    return found


def _flat(body: list[ast.stmt]) -> list[ast.stmt]:
    """A block without its `with`s: what stands in them stands in it."""
    return [part for each in body for part in (_flat(each.body) if isinstance(each, ast.With) else [each])]


def _first(body: list[ast.stmt]) -> ast.stmt:
    """The statement that a block begins with, whatever it is wrapped in."""
    while isinstance(body[0], ast.With | ast.AsyncWith | ast.Try):
        body = body[0].body
    return body[0]


_NAMED: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _waits(statement: ast.stmt, own: frozenset[str]) -> Iterator[tuple[str, int]]:
    """The awaits of a statement itself, not of the statements in it."""
    if isinstance(statement, ast.AsyncFor):
        yield ast.unparse(statement.iter), statement.lineno
    if isinstance(statement, ast.AsyncWith):
        for item in statement.items:
            if not _is_own(item.context_expr, own) and "asyncio.timeout" not in ast.unparse(item.context_expr):
                yield ast.unparse(item.context_expr), statement.lineno
    parts = [each for each in ast.iter_child_nodes(statement) if not isinstance(each, ast.stmt | ast.ExceptHandler)]
    for part in parts:
        for node in ast.walk(part):
            if isinstance(node, ast.Await) and not _is_own(node.value, own):
                yield ast.unparse(node.value), node.lineno


def _is_own(awaited: ast.expr, own: frozenset[str]) -> bool:
    """Whether it calls one of these modules' coroutines: `x(...)`, `self.x(...)`, `api.x(...)`."""
    if not isinstance(awaited, ast.Call):
        return False
    called = awaited.func
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) in own


def _is_failpoint(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) in {"failpoints.reach", "failpoints.request"}


def _coroutines(source: str) -> set[str]:
    """The coroutines of a module and of its classes: not those within functions, nor a protocol's, which are none."""
    module = ast.parse(source)
    bodies = [module.body, *(each.body for each in module.body if isinstance(each, ast.ClassDef))]
    found = (node for body in bodies for node in body if isinstance(node, ast.AsyncFunctionDef))
    return {node.name for node in found if ast.unparse(node.body[-1]) != "..."}


def _sources() -> dict[str, str]:
    return {module: (ROOT / module).read_text() for module in PATH}


def test_no_await_of_the_path_is_without_a_failpoint() -> None:
    sources = _sources()
    own = frozenset(name for source in sources.values() for name in _coroutines(source))
    bare = [each for module, source in sources.items() for each in awaits_without(module, source, own)]
    bare = [each for each in bare if not each.function.endswith("close")]
    excused = {(each.module, each.function) for each in bare} & EXCEPT.keys()
    left = [each for each in bare if (each.module, each.function) not in EXCEPT]
    told = "\n".join(f"  {each.module}:{each.line} {each.function}: await {each.text}" for each in left)
    assert not left, (
        f"the process may die here, and no test can have it:\n{told}\n"
        "Write failpoints.reach(...) before or after it, and its name into failpoints.PLACES; or say in EXCEPT why not."
    )
    assert not EXCEPT.keys() - excused, "not needed any more"


@pytest.mark.parametrize(
    ("body", "bare"),
    [
        ("await other()", ["other()"]),
        ("failpoints.reach('a')\n    await other()", []),
        ("await other()\n    failpoints.reach('a')", []),
        ("failpoints.reach('a')\n    x = 1\n    await other()", ["other()"]),
        ("await mine()", []),
        ("await self.mine()", []),
        ("await mine", ["mine"]),
        ("if await other():\n        failpoints.reach('a')", ["other()"]),
        (
            "try:\n        failpoints.reach('a')\n        return await other()\n    except E:\n        await last()",
            ["last()"],
        ),
        ("async with place:\n        failpoints.reach('a')", []),
        ("async with place:\n        with x:\n            failpoints.request('a')\n        x = 1", []),
        ("async with place:\n        x = 1", ["place"]),
        ("failpoints.reach('a')\n    with x:\n        await other()", []),
        ("failpoints.reach('a')\n    with x:\n        y = 1\n        await other()", ["other()"]),
        ("async with asyncio.timeout(1):\n        x = 1", []),
        ("async for x in other():\n        y = 1", ["other()"]),
        ("x = [await other(y) for y in z]", ["other(y)"]),
        ("def f():\n        failpoints.reach('a')\n    await other()", ["other()"]),
    ],
)
def test_the_static_test(body: str, bare: list[str]) -> None:
    found = awaits_without("m", f"async def mine():\n    {body}\n", frozenset({"mine"}))
    assert [each.text for each in found] == bare


def test_each_name_stands_once_in_the_code_and_in_the_table() -> None:
    used: Counter[str] = Counter()
    for path in ROOT.rglob("*/*.py"):
        used.update(re.findall(r"failpoints\.reach\(\"([^\"]+)\"\)", path.read_text()))
    assert set(used) == set(PLACES)
    assert not [name for name, times in used.items() if times != 1]
    assert len(set(PLACES)) == len(PLACES)


def test_all_that_is_called_names_a_place() -> None:
    """A name that is put together could not be looked for."""
    for path in ROOT.rglob("*.py"):
        source = path.read_text()
        if path.name == "failpoints.py" or "failpoints." not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.reach":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"
