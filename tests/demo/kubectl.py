"""kubectl, run for real: what the demo prints as a command is what it does."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.kubeconfig import kubectl_command, kubectl_environment

_CHUNK = 65_536


class KubectlError(Exception):
    """kubectl failed; the message is what it said."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl for one cluster."""

    program: Path
    kubeconfig: Path
    directory: Path
    """Where manifests are, so that commands name them briefly."""

    async def run(self, *arguments: str, within: float = 60.0) -> str:
        """Run it to its end and give what it printed."""
        child = await asyncio.create_subprocess_exec(
            *kubectl_command(self.program, self.kubeconfig),
            *arguments,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            cwd=self.directory,
            env=kubectl_environment(),
            # Ctrl-C is for the demo, which still needs kubectl for cleaning up.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(within):
                out, err = await child.communicate()
        except TimeoutError:
            raise KubectlError(f"kubectl {' '.join(arguments)} was not done after {within:g} s") from None
        finally:
            await _end(child)
        if child.returncode:
            raise KubectlError((err or out).decode().strip())
        return out.decode()

    async def json(self, *arguments: str) -> Any:
        """Run it with JSON as its output."""
        return json.loads(await self.run(*arguments, "--output=json"))

    async def watch(self, *arguments: str) -> AsyncIterator[dict[str, Any]]:
        """Give each event of `kubectl get --watch`, until kubectl ends (the API server limits a watch)."""
        child = await asyncio.create_subprocess_exec(
            *kubectl_command(self.program, self.kubeconfig),
            "get",
            *arguments,
            "--watch",
            "--output-watch-events",
            "--output=json",
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
            env=kubectl_environment(),
        )
        assert child.stdout is not None
        utf8, decoder, text = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder(), ""
        try:
            while chunk := await child.stdout.read(_CHUNK):
                text = (text + utf8.decode(chunk)).lstrip()
                while text:
                    try:
                        event, end = decoder.raw_decode(text)
                    except ValueError:  # the rest is under way
                        break
                    text = text[end:].lstrip()
                    yield event
        finally:
            await _end(child)


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
