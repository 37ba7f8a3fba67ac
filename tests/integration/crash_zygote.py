"""A process that has imported the whole operator and forks one life of it for each line that it reads.

Started as a script, with the operator's package on PYTHONPATH:

    in:   {"arguments": ["run", ...], "environment": {...}, "log": "/tmp/..."}
    out:  {"pid": 123}                                  it has begun
    out:  {"pid": 123, "ended": -9}                     how it ended: an exit code, or minus a signal

Importing takes a second of each start, which 200 kills cannot afford; what is forked is otherwise what
`configregistry run` is: the same command line, a process of its own, nothing shared with the one before. It has no
threads and no event loop before it forks, and the randomness of each life is its own. When its standard input ends,
all ends: no life outlasts the tests.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import select
import signal
import sys
import traceback
from typing import Any, NoReturn

# What `configregistry run` imports late, so that no life has to.
import configregistry.app.program
from configregistry.cli.main import run

_PR_SET_PDEATHSIG = 1
_FAILED = 70


def main() -> None:
    """Fork what is asked for, and tell of each end."""
    assert configregistry.app.program
    gc.collect()
    gc.freeze()
    told, tell = os.pipe()
    os.set_blocking(told, False)
    os.set_blocking(tell, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(tell)
    pending = b""
    while True:
        ready, _, _ = select.select([0, told], [], [])
        if told in ready:
            os.read(told, 4096)
            _reap()
        if 0 in ready:
            read = os.read(0, 65536)
            if not read:
                return  # the lives end with this one: PR_SET_PDEATHSIG
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                _fork(json.loads(line))


def _fork(asked: dict[str, Any]) -> None:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _live(asked, parent)
    _say({"pid": pid})


def _live(asked: dict[str, Any], parent: int) -> NoReturn:
    """Be `configregistry`, and never return."""
    code = _FAILED
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(_FAILED)
        os.setsid()
        log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(number, target)
        os.environ.update(asked["environment"])
        sys.argv = ["configregistry", *asked["arguments"]]
        random.seed()
        code = run(asked["arguments"])
    except BaseException:  # noqa: BLE001 - the log is all that is left of a life
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _say({"pid": pid, "ended": os.waitstatus_to_exitcode(status)})


def _say(told: dict[str, int]) -> None:
    os.write(1, json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    main()
