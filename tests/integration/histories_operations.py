"""What people and surroundings do to a registry, each as likely as it is worth.

An operation changes the world and tells the model; it waits for nothing that the operator does, unless that belongs to
it. Durations are either shorter than anybody waits or longer than a history lives, so that time decides nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace
from tests.integration.histories_play import History
from tests.integration.histories_registry import BAD, CONFIGMAPS, HANG_UP

from configregistry.kube.history import recover

OPERATIONS: Final = 8
"""Of one history, besides its beginning."""

SHORT, NEVER = "200ms", "1h"
DATA: Final = [{"c": "a"}, {"c": "b", "n": 1}, {"c": "c", "n": [1, {"x": None}]}, {"c": BAD}, {"c": "odd", "odd": True}]
STEPS: Final[list[list[dict[str, Any]] | None]] = [
    None,
    [{"setWeight": 10}, {"pause": {}}],
    [{"setWeight": 5}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}, {"setWeight": 80}],
    [
        {"setWeight": 1},
        {"pause": {}},
        {"setWeight": 2},
        {"pause": {}},
        {"setWeight": 3},
        {"pause": {}},
        {"setWeight": 4},
    ],
    [{"setWeight": 20}, {"pause": {"duration": SHORT}}, {"setWeight": 60}, {"pause": {"duration": NEVER}}],
    [{"pause": {}}, {"setWeight": 30}, {"pause": {"duration": SHORT}}],
    [{"setWeight": 50}, {"setWeight": 100}, {"pause": {}}],
]
_SCHEMAS: Final[list[dict[str, Any] | None]] = [None, {"not": {"required": ["odd"]}}, {"type": "nothing"}]
_MATCH: Final = [None, [{"attribute": "region", "values": ["eu"]}], [{"attribute": "tier", "values": ["a", "b"]}]]
_VERBS: Final = ["promote", "promote-full", "abort", "pause", "resume", "retry", "retry"]
EASE: Final = 0.4
"""How often obstacles (pin, schema, pause) are cleared away: without, most histories would stand still."""
RIGHT: Final = 0.85
"""How many commands are meant to fit."""


def _http(name: str, history: History, **more: Any) -> dict[str, Any]:
    url = f"http://{history.world.checked}/{{{{registry}}}}/{{{{hash}}}}"
    return {"name": name, "interval": "400ms", "http": {"url": url, "timeoutSeconds": 30}, **more}


def _checks(history: History) -> list[list[dict[str, Any]]]:
    alive = _http("alive", history, consecutiveErrorLimit=1)
    patient = _http("alive", history, failureLimit=1, consecutiveErrorLimit=0)
    silent = _http("silent", history, initialDelay=NEVER)
    return [[], [alive], [alive], [patient], [silent], [alive, silent], [alive, _http("other", history)]]


def _set(part: dict[str, Any], name: str, value: Any) -> None:
    if value in (None, []):
        part.pop(name, None)
    else:
        part[name] = copy.deepcopy(value)


def begin(history: History) -> None:
    """What the registry asks for first."""
    steps = history.random.choice(STEPS[1:])
    on_failure = history.random.choice(["Rollback", "Pause"])
    checks = history.random.choice(_checks(history))
    part = {"steps": steps, "onFailure": on_failure, "checks": checks, "progressDeadline": NEVER}
    history.spec = {"data": history.random.choice(DATA[:3]), "revisionHistoryLimit": 100, "rollout": part}
    rollout(history)


# --- edits of the spec; they are applied together, or one by one ---------------------------------------------------


def data(history: History) -> None:
    """Few contents, so that what was stable, rejected or superseded comes again."""
    history.spec["data"] = history.random.choice([each for each in [*DATA, {"c": BAD}] if each != history.spec["data"]])


def rollout(history: History, times: int = 1) -> None:
    """How candidates go out."""
    chance, part = history.random, history.spec["rollout"]
    for _ in range(times):
        name = chance.choice(["steps", "steps", "checks", "checks", "bake", "match", "seed", "onFailure", "paused"])
        choices: dict[str, list[Any]] = {
            "steps": STEPS,
            "checks": _checks(history),
            "bake": [None, SHORT, NEVER],
            "match": _MATCH,
            "seed": [None, "s"],
            "onFailure": [None, "Rollback", "Pause"],
            "paused": [None, None, True],
        }
        _set(part, name, chance.choice(choices[name]))
    only_silent = [each["name"] for each in part.get("checks", ())] == ["silent"]
    _set(part, "progressDeadline", chance.choice(["1s", NEVER]) if only_silent else NEVER)


def pin(history: History) -> None:
    """To a version that there is, or is not; or no more."""
    known = [each.number for state in history.model.states.values() for each in state.versions]
    pinned = history.spec.get("pinnedVersion")
    _set(history.spec, "pinnedVersion", None if pinned else history.random.choice([*sorted(set(known)), 999]))


def schema(history: History) -> None:
    """One that the content may not fit, or that is none."""
    _set(
        history.spec, "schema", history.random.choice([each for each in _SCHEMAS if each != history.spec.get("schema")])
    )


def fallback(history: History) -> None:
    """A registry that there is not, so that reads are of this one alone."""
    _set(history.spec, "fallback", None if "fallback" in history.spec else {"name": "nowhere"})


def data_from(history: History) -> None:
    """From a ConfigMap that there may not be."""
    ref = {"name": history.configmap_name, "optional": history.random.random() < 0.5}
    _set(history.spec, "dataFrom", None if "dataFrom" in history.spec else [{"configMapRef": ref}])


EDITS: Final[Sequence[Callable[[History], None]]] = (
    [data] * 9 + [rollout] * 4 + [pin] * 2 + [schema, fallback, data_from]
)


async def edit(history: History) -> None:
    """Edit the spec."""
    history.random.choice(EDITS)(history)
    if history.random.random() < EASE:
        for name in ("pinnedVersion", "schema", "dataFrom"):
            history.spec.pop(name, None)
        history.spec["rollout"].pop("paused", None)
    history.say(f"edit {history.spec}")
    await history.apply()


def _likely(history: History) -> list[str]:
    """What a person would command where the registry stands."""
    canary = history.status.canary
    if canary is None:
        return ["retry"] * 6 if history.status.rejected else []
    halted = canary.failed or (canary.paused is not None and canary.paused.by == "Command")
    return ["resume"] * 7 if halted else ["promote"] * 7 + ["pause"] * 2


async def command(history: History, times: int = 1) -> None:
    """Right or wrong, one or two at once."""
    chance, status = history.random, history.status
    commands = {}
    for _ in range(times):
        canary = status.canary
        verb = chance.choice([*_VERBS, *_likely(history)])
        number, step = (canary.version, str(canary.current_step_index)) if canary else (status.last_version, "-")
        if verb == "retry" and status.rejected:
            number = chance.choice(status.rejected).version
        token = history.token()
        wrong = chance.choice([f"{number + 1}:{step}:{token}", f"{number}:9:{token}", f"nonsense{token}"])
        commands[verb] = f"{number}:{step}:{token}" if chance.random() < RIGHT else wrong
    history.say(f"command {commands}")
    await history.annotate(commands)


async def commands(history: History) -> None:
    """Two at once."""
    await command(history, 2)


async def burst(history: History) -> None:
    """Several writes, and nobody waits between them."""
    history.say("at once:")
    for _ in range(history.random.choice([2, 3])):
        await history.random.choice([edit, command])(history)


async def outcome(history: History) -> None:
    """The checks of some content change their mind."""
    status = history.status
    content = status.canary.hash if status.canary else history.random.choice(sorted(history.contents))
    code = history.random.choice([200, 500, HANG_UP])
    history.say(f"checks of {content} are answered {code}")
    history.answer(content, code)


async def configmap(history: History) -> None:
    """The ConfigMap comes, changes or goes."""
    wanted = history.random.choice([None, *CONFIGMAPS])
    history.say(f"ConfigMap {wanted}")
    await history.set_configmap(wanted)


async def recreate(history: History) -> None:
    """Delete the registry and make it again."""
    history.say("deleted, and made again")
    await history.catch_up()
    await history.compare_versions()
    await history.recreate()


# --- hands where no hands belong ---------------------------------------------------------------------------------


def _scribbles(history: History) -> list[dict[str, Any] | None]:
    status = history.status
    found: list[dict[str, Any] | None] = [
        None,
        {"rejected": None, "rejectedHashes": None},
        {"revision": status.revision + 5},
    ]
    if status.canary is not None:
        found += [{"canary": {"weight": 77}}, {"canary": None}]
    if status.previous is not None:
        found.append({"stable": {"version": status.previous.version, "hash": status.previous.hash}})
    return found


async def scribble(history: History) -> None:
    """Into the status, while the operator runs: it is put back."""
    async with history.world.power.up():
        await history.ping()
        text = history.random.choice(_scribbles(history))
        history.say(f"scribbled into the status: {text}")
        history.put_back(await history.scribble(text))
        await history.settle()


async def scribble_dead(history: History) -> None:
    """Into the status, while no operator runs: it is the truth; of one that is lost the versions tell."""
    async with history.world.power.down():
        await history.catch_up()
        text = history.random.choice(_scribbles(history))
        history.say(f"scribbled into the status while nobody ran: {text}")
        there = await history.scribble(text)
        if there.stable is None:
            kept = recover(await history.revisions(), history.uid)
            if kept.stable is not None:
                there = replace(kept, revision=max(kept.revision, there.revision), commands=there.commands)
        history.believe(there, lost=text is None)


async def delete_version(history: History) -> None:
    """Any; the operator makes it again if status names it, and it has a copy as long as it lives."""
    numbers = sorted({each.number for state in history.model.states.values() for each in state.versions})
    if not numbers:
        return
    async with history.world.power.up():
        await history.ping()
        number = history.random.choice(numbers)
        history.say(f"version {number} deleted")
        await history.delete_revision(number)
        await history.restored(number)


async def dead(history: History) -> None:
    """Much is done while no operator runs."""
    async with history.world.power.down():
        history.say("while nobody runs:")
        for _ in range(history.random.choice([1, 2, 3])):
            await history.random.choice([edit, command, configmap, outcome, recreate])(history)


Act = Callable[[History], Awaitable[None]]
_ANYWHERE: Final[Sequence[Act]] = (
    *([burst] * 5 + [outcome] * 7 + [configmap] * 3 + [recreate]),
    *([scribble] * 2 + [scribble_dead] + [delete_version] * 2 + [dead] * 2),
)
_ROLLING: Final[Sequence[Act]] = (*_ANYWHERE, *([edit] * 14), *([command] * 24), *([commands] * 5))
_STILL: Final[Sequence[Act]] = (*_ANYWHERE, *([edit] * 34), *([command] * 4), commands)


async def anything(history: History) -> None:
    """One operation; which are worth more depends on where the registry stands."""
    act = history.random.choice(_ROLLING if history.status.canary else _STILL)
    idle = (act is outcome and not history.status.canary) or (act is configmap and "dataFrom" not in history.spec)
    await (edit if idle else act)(history)


async def play(history: History) -> None:
    """All of it."""
    begin(history)
    history.say(f"created {history.spec}")
    await history.create()
    await history.see()
    for _ in range(OPERATIONS):
        await anything(history)
        await history.see()
    await history.compare_versions()
