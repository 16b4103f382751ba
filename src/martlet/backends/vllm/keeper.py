"""Runs a command and ends it, with all its children, when whoever started it is gone.

    python keeper.py COMMAND ARGUMENT...

Started in a session of its own, with a pipe as its input: the pipe closes when the parent lets go,
and also when the parent is killed, which no handler of the parent could see. What keeps the command
is a child of what was started, since Ray kills the children of an actor with it, but not theirs.
The command gets a folder of its own for temporary files: vLLM leaves its sockets behind. Imports
nothing of Martlet, since it is run as a file.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

_GRACE_S = 12.0
"""For the command to end by itself, and its children with it."""
_LAST_GRACE_S = 3.0
"""For what it left behind."""


def main(command: list[str]) -> int:
    # A handler, since to ignore the signal would be inherited by the command.
    signal.signal(signal.SIGTERM, lambda *_: None)
    keeper = os.fork()
    code = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1]) if keeper else _keep(command)
    return code if code >= 0 else 128 - code


def _keep(command: list[str]) -> int:
    # A short name: a socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="vllm-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": folder}
        )
        threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
        code = process.wait()
        _end_others()
    return code


def _end_with_parent(process: "subprocess.Popen[bytes]") -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    process.terminate()
    _wait_until_alone(_GRACE_S)
    _end_others()


def _end_others() -> None:
    """Asks all others of the group to end, and after a while makes them."""
    _send(signal.SIGTERM)
    _wait_until_alone(_LAST_GRACE_S)
    while _others():
        _send(signal.SIGKILL)
        time.sleep(0.1)


def _send(signal_number: int) -> None:
    for process_id in _others():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal_number)


def _wait_until_alone(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and _others():
        time.sleep(0.1)


def _others() -> list[int]:
    """The command and what it started, as far as it lives; what nobody waited for does not."""
    own, group, others = (os.getpid(), os.getppid()), os.getpgrp(), []
    for name in os.listdir("/proc"):  # noqa: PTH208  # pathlib takes long to import
        if name.isdigit() and int(name) not in own:
            try:
                # Bytes: a process's name, in brackets, may be no text.
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    state, _, its_group = file.read().rpartition(b")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group and state != b"Z":
                others.append(int(name))
    return others


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
