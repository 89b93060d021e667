"""Runs a command that is killed when its parent ends: `python tether.py PARENT_PID NICE COMMAND…` (Linux).

It is a separate program and not a hook between fork and exec, since the parent has threads. It uses only the standard
library.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, nice, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("tether: the parent is gone")
    if nice:
        os.nice(nice)
    try:
        os.execv(command[0], command)  # noqa: S606 - that is what this program is for
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
