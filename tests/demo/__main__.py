"""python -m tests.demo: exit status 0 when all was as expected, 1 when not, 130 or 143 when interrupted."""

from __future__ import annotations

import asyncio
import signal
import sys
from types import FrameType
from typing import NoReturn

from tests.cluster import ClusterError
from tests.demo import surroundings
from tests.demo.kubectl import KubectlError
from tests.demo.screen import Screen
from tests.demo.story import Story
from tests.demo.surroundings import Place, SurroundingsError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """One of the signals, and which."""


class Interruption:
    """Makes the first signal end the story, and keeps later ones out of the clean-up."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.by: int | None = None

    def install(self) -> None:
        """For the time before there is a loop."""
        for number in _SIGNALS:
            signal.signal(number, self._raise)

    def install_on(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[bool]) -> None:
        """For the story itself."""
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._cancel, number, task)

    def ignore(self) -> None:
        """For what is cleaned up after the story."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _raise(self, number: int, _frame: FrameType | None) -> NoReturn:
        self.by = number
        self.ignore()
        raise Interrupted

    def _cancel(self, number: int, task: asyncio.Task[bool]) -> None:
        if self.by is None:
            self.by = number
            task.cancel()
        self._screen.say("ending everything that the demo started, this takes some seconds", "yellow")


def main() -> int:
    """Tell the story and give the exit status."""
    screen = Screen()
    interruption = Interruption(screen)
    interruption.install()
    try:
        with surroundings.cluster(screen) as place:
            return _tell(screen, place, interruption)
    except (ClusterError, SurroundingsError, KubectlError) as error:
        screen.say(f"the demo could not go on: {error}", "bold red")
        return 1
    except KeyboardInterrupt:
        screen.say("interrupted")
        return 128 + (interruption.by or signal.SIGINT)


def _tell(screen: Screen, place: Place, interruption: Interruption) -> int:
    story = Story(screen, place)

    async def told() -> bool:
        task = asyncio.current_task()
        assert task is not None
        interruption.install_on(asyncio.get_running_loop(), task)
        return await story.tell()

    try:
        well = asyncio.run(told())
    except asyncio.CancelledError:
        if not story.kept:
            raise KeyboardInterrupt from None
        well = story.well  # Ctrl-C is how a kept demo ends
    finally:
        interruption.ignore()
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
