"""Named places in the code at which a test may have the process die, fail or stand still.

    failpoints.reach("act.status.before")       # does nothing, unless the environment says otherwise

    CONFIGREGISTRY_FAILPOINTS="act.status.after=kill@3"               SIGKILL of itself, at the third time
    CONFIGREGISTRY_FAILPOINTS="act.record.before[shop]=delay:1.5"     each time, for the registry `shop` only
    CONFIGREGISTRY_FAILPOINTS="record=/tmp/reached, queue.taken=pause@1"

`kill` is a power cut, `error` an exception that nobody expects, `delay:SECONDS` and `pause` have the whole process
stand still (`pause` is SIGSTOP: until SIGCONT), as a suspended machine does. `record=FILE` writes down what is
reached, in order. `@3` is the third time, counted for each registry; without it, each time.

Why here and not in the tests: which instructions a crash may fall between, only the code knows, and a name outlives
the line that it stands at. Why not asynchronous: a test that is to find what an await can break must not add one.

It must never do anything unless it is armed, and never be armed without saying so loudly.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, NamedTuple

import structlog

from configregistry.errors import ConfigRegistryError, UsageError

SWITCH: Final = "CONFIGREGISTRY_FAILPOINTS"

PLACES: Final = (
    # A name comes to the queue, is taken from it, and has been worked on.
    *("queue.named", "queue.taken", "queue.done"),
    # All that is read before a decision. In _before_ nothing was asked, in _after_ all is answered.
    *("gather.registry.before", "gather.registry.after", "gather.wanted.before", "gather.wanted.after"),
    *("gather.versions.before", "gather.versions.after", "gather.consent.before", "gather.consent.after"),
    *("wanted.policies.before", "wanted.policies.after", "wanted.content.before", "wanted.content.after"),
    *("policies.namespace.before", "policies.policy.before", "consent.dependency.before"),
    *("sources.read.before", "sources.read.after", "sources.compare.before", "sources.compare.after"),
    # The decision, which is pure, and what is done about it.
    *("decide.before", "decide.after"),
    *("act.record.before", "act.record.after", "act.record.told"),
    *("act.claim.before", "act.claim.after"),
    *("act.status.before", "act.status.after", "act.status.told"),
    *("act.tidy.before", "act.project.before", "act.project.after", "act.restore.before", "act.restore.after"),
    *("act.mark.before", "act.mark.after", "act.prune.before", "act.prune.after", "act.tidy.after"),
    *("projection.read.after", "projection.create.after", "projection.change.after", "projection.remove.after"),
    *("projection.owner.after",),
    # Validators and hooks: `asking` is all of them on their way, the others what they said.
    *("asking.place.before", "asking.send.before", "asking.send.after", "asking.again.before"),
    *("validation.answered", "hooks.answered", "telling.answered"),
    # Checks.
    *("check.due", "check.asked", "check.answered", "check.taken"),
    # Events.
    *("events.woken", "events.new.before", "events.new.after", "events.again.before", "events.again.after"),
)
"""All names but those of requests."""
VERBS: Final = {"GET": "get", "POST": "create", "PUT": "replace", "PATCH": "patch", "DELETE": "delete"}
RESOURCES: Final = (
    *("configregistries", "configregistries/status", "rolloutpolicies", "controllerrevisions", "configmaps"),
    *("namespaces", "events", "leases"),
)
OTHER: Final = "other"
"""In the name of a request for any other resource."""
MOMENTS: Final = ("before", "sent", "answered")
"""Of a request: nothing has left; the answer has begun (it was carried out, and nobody here knows); it is known."""


class InjectedError(ConfigRegistryError):
    """What `error` raises: a defect, as far as anybody knows who meets it."""


class Rule(NamedTuple):
    """What happens where."""

    name: str
    subject: str
    """The registry that it is about; empty: any."""
    action: str
    seconds: float
    hit: int
    """At which time, from 1; 0: each."""


class Armed:
    """What the environment asks for, and how often each place was reached."""

    def __init__(self, rules: tuple[Rule, ...], record: str = "") -> None:
        self._rules = rules
        self._record = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if record else None
        self._hits = Counter[tuple[str, str]]()
        self._lock = threading.Lock()  # kopf has a thread of its own

    def reached(self, name: str, subject: str) -> None:
        """Somebody is there. May not return."""
        with self._lock:
            self._hits[name, ""] += 1
            if subject:
                self._hits[name, subject] += 1
            due = [rule for rule in self._rules if rule.name == name and self._due(rule, subject)]
            if self._record is not None:
                os.write(self._record, f"{name} {subject}\n".encode())
            if any(rule.action == "kill" for rule in due):
                os.kill(os.getpid(), signal.SIGKILL)  # here, so that it is the last that was written down
        for rule in due:
            _act(rule)

    def _due(self, rule: Rule, subject: str) -> bool:
        return rule.subject in {"", subject} and rule.hit in {0, self._hits[rule.name, rule.subject]}


_armed: Armed | None = None
_subject: ContextVar[str] = ContextVar("subject", default="")
_log = structlog.get_logger(__name__)

_RULE: Final = re.compile(
    r"(?P<name>[a-z./-]+)(?:\[(?P<subject>[a-z0-9.-]+)\])?="
    r"(?P<action>[a-z]+)(?::(?P<seconds>[0-9]+(?:\.[0-9]+)?))?(?:@(?P<hit>[1-9][0-9]*))?"
)
_ACTIONS: Final = ("kill", "error", "delay", "pause")


def reach(name: str) -> None:
    """Tell that the code is here."""
    if _armed is not None:
        _armed.reached(name, _subject.get())


def request(method: str, path: str, moment: str) -> None:
    """Tell how far a request of the API server is. Its name is made of what it means."""
    if _armed is not None:
        _armed.reached(f"api.{VERBS.get(method, OTHER)}.{_resource(path)}.{moment}", _subject.get())


def about(subject: str) -> None:
    """Tell which registry what follows in this task, and in the tasks that it starts, is about."""
    if _armed is not None:
        _subject.set(subject)


def arm(environment: Mapping[str, str]) -> None:
    """Do what the environment asks for, from now on. Raises `UsageError` for what nobody understands."""
    global _armed  # noqa: PLW0603 - one global is what makes it cost nothing
    text = environment.get(SWITCH, "").strip()
    if not text:
        _armed = None
        return
    rules, record = parse(text)
    try:
        _armed = Armed(rules, record)
    except OSError as error:
        raise UsageError(f"{SWITCH}: record={record}: expected a file to write to: {error.strerror}") from error
    _log.warning("FAILPOINTS ARE ARMED: this process is made to fail, never run it in production", given=text)


def parse(text: str) -> tuple[tuple[Rule, ...], str]:
    """The rules that a text holds, and the file to record to. Raises `UsageError`."""
    rules, record = [], ""
    for part in re.split(r"[,;\s]+", text.strip()):
        if part.startswith("record=/"):
            record = part.removeprefix("record=")
        elif part:
            rules.append(_rule(part))
    return tuple(rules), record


def names() -> frozenset[str]:
    """All names that a rule may have."""
    resources = (*RESOURCES, OTHER)
    requests = (f"api.{verb}.{kind}.{when}" for verb in VERBS.values() for kind in resources for when in MOMENTS)
    return frozenset(PLACES) | frozenset(requests)


def _rule(part: str) -> Rule:
    found = _RULE.fullmatch(part)
    if found is None or part.startswith("record="):
        raise UsageError(f"{SWITCH}: {part!r}: expected NAME=ACTION, NAME[REGISTRY]=ACTION@HIT or record=/FILE")
    name, subject, action, seconds, hit = found.group("name", "subject", "action", "seconds", "hit")
    if name not in names():
        # A list of two hundred helps nobody.
        near = difflib.get_close_matches(name, sorted(names()), cutoff=0.0)
        raise UsageError(f"{SWITCH}: {name!r}: expected the name of a failpoint, such as {', '.join(near)}")
    if action not in _ACTIONS:
        raise UsageError(f"{SWITCH}: {part!r}: {action!r}: expected one of {', '.join(_ACTIONS)}")
    if (action == "delay") != (seconds is not None):
        raise UsageError(f"{SWITCH}: {part!r}: expected delay:SECONDS, and seconds with nothing else")
    return Rule(name, subject or "", action, float(seconds or 0), int(hit or 0))


def _resource(path: str) -> str:
    """The resource that a path names: `/api(s)/[group/]version/[namespaces/N/]resource[/name[/subresource]]`."""
    parts = path.strip("/").split("/")
    parts = parts[3:] if parts[0] == "apis" else parts[2:]
    if parts[:1] == ["namespaces"] and len(parts) > 2:  # noqa: PLR2004
        parts = parts[2:]
    found = "/".join(parts[::2])
    return found if found in RESOURCES else OTHER


def _act(rule: Rule) -> None:
    if rule.action == "pause":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif rule.action == "delay":
        time.sleep(rule.seconds)
    else:
        raise InjectedError(f"failpoint {rule.name}")
