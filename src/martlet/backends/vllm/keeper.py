"""Runs a command and ends it, with all its children, when whoever started it is gone.

    python keeper.py COMMAND ARGUMENT...

Started in a session of its own, with a pipe as its input: the pipe closes when the parent lets go,
and also when the parent is killed, which no handler of the parent could see. Imports nothing of
Martlet, since it is run as a file.
"""

import os
import signal
import subprocess
import sys
import threading
import time

_GRACE_S = 12.0
"""For the command to end by itself, and its children with it."""
_LAST_GRACE_S = 3.0
"""For what it left behind."""


def main(command: list[str]) -> int:
    # A handler, since to ignore the signal would be inherited by the command.
    signal.signal(signal.SIGTERM, lambda *_: None)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
    code = process.wait()
    _end_group()
    return code if code >= 0 else 128 - code


def _end_with_parent(process: "subprocess.Popen[bytes]") -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    process.terminate()
    _wait_until_alone(_GRACE_S)
    _end_group()


def _end_group() -> None:
    """Asks all others of the group to end, and after a while makes them: then this ends too."""
    if _is_alone():
        return
    os.killpg(0, signal.SIGTERM)
    _wait_until_alone(_LAST_GRACE_S)
    if not _is_alone():
        os.killpg(0, signal.SIGKILL)


def _wait_until_alone(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not _is_alone():
        time.sleep(0.1)


def _is_alone() -> bool:
    """Whether no other process of the group lives; one that nobody waited for does not."""
    own, group = os.getpid(), os.getpgrp()
    for name in os.listdir("/proc"):  # noqa: PTH208  # pathlib takes long to import
        if name.isdigit() and int(name) != own:
            try:
                with open(f"/proc/{name}/stat") as file:  # noqa: PTH123
                    state, _, its_group = file.read().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group and state != "Z":
                return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
