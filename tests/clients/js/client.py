"""A JavaScript program of this directory, talked to by lines of JSON.

It reads `{"id", "op", …}`, answers `{"id", "result"}` or `{"id", "error"}`, and may tell of events by
`{"event", …}` at any time.
"""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

from .install import HERE, find_node, packages

PATIENCE: Final = 60.0
"""Seconds for whatever is waited for: it measures nothing."""


class JavaScript:
    """A program while it runs; it is ended with the block."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._program = program
        self._arguments = arguments
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._happened = asyncio.Condition()
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._number = 0

    async def __aenter__(self) -> Self:
        node = await asyncio.to_thread(find_node)
        modules = await asyncio.to_thread(packages, node)
        self._process = await asyncio.create_subprocess_exec(
            node.program,
            str(HERE / self._program),
            *self._arguments,
            stdin=PIPE,
            stdout=PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "PACKAGES": str(modules)},
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._reading is not None
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def call(self, op: str, **arguments: Any) -> Any:
        """Have it do something and give what came out. Raises `AssertionError` for an error of the program."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"id": self._number, "op": op, **arguments}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            told = await answer
        assert "error" not in told, told["error"]
        return told.get("result")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until its events make something true."""
        async with asyncio.timeout(PATIENCE), self._happened:
            await self._happened.wait_for(condition)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "event" in told:
                async with self._happened:
                    self.events.append(told)
                    self._happened.notify_all()
            else:
                self._answers.pop(told["id"]).set_result(told)
        for answer in self._answers.values():
            answer.set_exception(AssertionError(f"{self._program} ended"))
