"""Runs a command that gives way to everything else, and ends it when whoever started it is gone.

    python keeper.py COMMAND ARGUMENT...

Its input is a pipe that closes with the parent, even with one that is killed, which no handler of
the parent's could see. Imports nothing of Martlet, since it is run as a file.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

_LOW_PRIORITY = 10
_FIRST_TO_GO = 1000


def main(command: list[str]) -> int:
    """Returns the exit code of the command, or 128 and the signal that ended it."""
    # Both get the signal, and the command answers to it: to ignore it would be inherited.
    signal.signal(signal.SIGTERM, lambda *_: None)
    _give_way()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def _give_way() -> None:
    """What is inherited: others compute first, and stay where memory does not suffice for all."""
    os.nice(_LOW_PRIORITY)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123  # Linux
        file.write(str(_FIRST_TO_GO))


def _end_with_parent(process: "subprocess.Popen[bytes]") -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
