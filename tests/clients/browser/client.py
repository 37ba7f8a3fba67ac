"""One page of a browser, driven by the DevTools protocol over two pipes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Final, Self

from .install import find_browser

PATIENCE: Final = 60.0
"""Seconds for whatever is waited for: it measures nothing."""
_OPTIONS: Final = (
    "--headless=shell",
    "--no-sandbox",  # its sandbox is not for root, nor for most containers; it sees pages of the tests only
    "--no-zygote",
    "--disable-gpu",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-pipe",
)
_ON_3_AND_4: Final = """
import os, sys
for fd, at in zip(map(int, sys.argv[1:3]), (3, 4)):
    os.dup2(fd, at)
    os.close(fd)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The protocol's pipes have these numbers, which are taken in this process: so they are moved in the child."""
_LARGEST: Final = 1 << 26


class Browser:
    """A browser with one page while it runs; it is ended with the block. Scripts have `tell(value)`."""

    def __init__(self, *options: str) -> None:
        self.told: list[Any] = []
        """What the page told, in order."""
        self._options = options
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._happened = asyncio.Condition()
        self._number = 0
        self._session: str | None = None
        self._process: Process | None = None
        self._loaded = 0
        self._open = ExitStack()

    async def __aenter__(self) -> Self:
        program = await asyncio.to_thread(find_browser)
        home = self._open.enter_context(tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True))
        commands, self._commands = _pipe()
        answers, told = os.pipe()
        told = _above_4(told)
        self._open.callback(os.close, self._commands)
        reader = asyncio.StreamReader(limit=_LARGEST)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(answers, "rb")
        )
        self._open.callback(transport.close)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-IS", "-c", _ON_3_AND_4, str(commands), str(told)),
                *(str(program.path), *_OPTIONS, f"--user-data-dir={home}", *self._options),
                pass_fds=(commands, told),
                env={"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home), **program.environment},
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(commands)
            os.close(told)
        self._reading = asyncio.create_task(self._read(reader))
        try:
            await self._begin()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._reading
        self._open.close()

    async def go(self, url: str) -> None:
        """Load a page."""
        before = self._loaded
        gone = await self._call("Page.navigate", url=url)
        assert "errorText" not in gone, gone
        await self.until(lambda: self._loaded > before)

    async def run(self, script: str) -> Any:
        """Run a script in the page, and give what it gives (as JSON). Raises `AssertionError` for its exceptions."""
        done = await self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until what happens in the page makes something true."""
        try:
            async with asyncio.timeout(PATIENCE), self._happened:
                await self._happened.wait_for(lambda: condition() or self._reading.done())
        except TimeoutError:
            raise AssertionError(f"told until then: {self.told}") from None
        assert condition(), "the browser ended"

    async def _begin(self) -> None:
        target = await self._call("Target.createTarget", url="about:blank")
        attached = await self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self._call("Page.enable")
        await self._call("Runtime.enable")
        await self._call("Runtime.addBinding", name="_tell")
        await self._call(
            "Page.addScriptToEvaluateOnNewDocument", source="const tell = value => _tell(JSON.stringify(value))"
        )

    async def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        asked = {"id": self._number, "method": method, "params": params, **session}
        os.write(self._commands, json.dumps(asked).encode() + b"\0")  # far shorter than a pipe is
        async with asyncio.timeout(PATIENCE):
            told = await answer
        assert "error" not in told, told["error"]
        result: dict[str, Any] = told["result"]
        return result

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                told = json.loads((await reader.readuntil(b"\0"))[:-1])
                if "id" in told:
                    self._answers.pop(told["id"]).set_result(told)
                    continue
                async with self._happened:
                    self._note(told)
                    self._happened.notify_all()
        for answer in self._answers.values():
            answer.cancel() if answer.done() else answer.set_exception(AssertionError("the browser ended"))
        async with self._happened:
            self._happened.notify_all()

    def _note(self, told: dict[str, Any]) -> None:
        if told["method"] == "Runtime.bindingCalled":
            self.told.append(json.loads(told["params"]["payload"]))
        elif told["method"] == "Page.loadEventFired":
            self._loaded += 1


def _pipe() -> tuple[int, int]:
    reads, writes = os.pipe()
    return _above_4(reads), writes


def _above_4(fd: int) -> int:
    """Move a file descriptor out of the way of 3 and 4."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 5)
    os.close(fd)
    return moved
