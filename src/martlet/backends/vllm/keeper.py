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

_GRACE_S = 15.0
"""Between the request to end and the end."""


def main(command: list[str]) -> int:
    # The group's own signals: the command and its children share this process's group.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, restore_signals=True)
    threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
    code = process.wait()
    _end_group(process)
    return code


def _end_with_parent(process: "subprocess.Popen[bytes]") -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    _end_group(process)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Asks the whole group to end, and after a while makes it; ends this process too."""
    os.killpg(0, signal.SIGTERM)
    end = time.monotonic() + _GRACE_S
    while time.monotonic() < end:
        if process.poll() is not None and not _has_company():
            sys.stdout.flush()
            os._exit(process.returncode & 0xFF)
        time.sleep(0.1)
    os.killpg(0, signal.SIGKILL)


def _has_company() -> bool:
    """Whether other processes of the group live."""
    own, group = os.getpid(), os.getpgrp()
    for name in os.listdir("/proc"):  # noqa: PTH208  # only this needs no import
        if name.isdigit() and int(name) != own:
            try:
                if os.getpgid(int(name)) == group:
                    return True
            except OSError:
                continue
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
