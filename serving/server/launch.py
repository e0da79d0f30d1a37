"""Becomes the program that its arguments name. Run as a file, by `children.start_child`.

Standard input holds JSON: `environment`, the program's variables, and `dependent`, whether it is to get
SIGTERM when the process that started it ends. The program itself reads nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys


def main() -> None:
    """Replace this process by the program."""
    os.setpgid(0, 0)  # a terminal's Ctrl-C reaches the parent alone, which stops the program in order
    told = json.load(sys.stdin)
    if told["dependent"]:
        parent = os.getppid()
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2); it outlasts the exec
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the process that started this one has ended")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.execve(sys.argv[1], sys.argv[1:], told["environment"])


if __name__ == "__main__":
    main()
