"""Become another program, once the driver has written down who that is.

Run as a script (`python -I -S launch.py PIPE PARENT PROGRAM ARGUMENT...`), in a
new process. It waits for one byte on the pipe: the driver sends it after the
pid file is on disk, so that no process can ever run unrecorded. With a PARENT
other than 0 the kernel kills the program when the thread that started it ends,
for whatever reason: a test run that is killed with -9 leaves nothing behind.

This must stay a file of its own without imports from this package: it is
started for each component, and isolated from the tests' import path.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Prepare the process and exec the program."""
    pipe, parent, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if parent:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel was told
            sys.exit("the driver ended before the start")
    if os.read(pipe, 1) != b"g":
        sys.exit("the driver ended before the start")
    os.close(pipe)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
