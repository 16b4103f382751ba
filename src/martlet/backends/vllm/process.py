"""A `vllm serve` process: started, waited for, and stopped with all that it started."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
from tqdm import tqdm

from martlet.backends.vllm import keeper
from martlet.errors import EngineError, MartletError

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 1800.0
"""Large models take long to load, and compile longer."""
_STOP_TIMEOUT_S = 30.0
_LOOK_EVERY_S = 0.5
_LOG_END_BYTES = 65_536
_NUM_LAST_WORDS = 12
_ERROR = re.compile(r"^(?!.*\b(?:INFO|WARNING)\b).*\b[A-Z]\w+(?:Error|Exception): ")
"""A warning may speak of an error that it expects."""
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""What a process has ended with that could not say why; the second is the keeper's word for it."""
_NOT_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""They name our environment, not vLLM's."""


class VllmProcess:
    """Runs for as long as the object does: `close` stops it, and so does the end of this process.

    Args:
        command: Its command line.
        port: Where it will answer.
        log: A new file that keeps all it prints.
    """

    def __init__(self, command: Sequence[str], *, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("xb") as file:
            file.write(f"{' '.join(command)}\n".encode())
            file.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(os.environ),
            )

    @property
    def process_id(self) -> int:
        """Of the keeper, which is also the id of the process group."""
        return self._process.pid

    def why_gone(self) -> MartletError | None:
        """Why the process has ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        ended = f"vLLM has ended with code {code}"
        if code in _KILLED:
            return EngineError(
                f"{ended}, as when it is killed or out of memory; its log: {self.log}"
            )
        words = self.last_words()
        return EngineError(f"{ended}; the last errors or lines of its log, {self.log}:\n{words}")

    def wait_until_ready(self, *, on_wait: Callable[[float, str], None]) -> None:
        """Waits until it answers.

        Args:
            on_wait: Called every half second with the seconds so far and the log's last line.

        Raises:
            EngineError: If it ends, or does not answer in half an hour.
        """
        started = time.monotonic()
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            while not _is_healthy(client, self.url):
                seconds = time.monotonic() - started
                if (gone := self.why_gone()) is not None:
                    raise gone
                if seconds > _START_TIMEOUT_S:
                    raise EngineError(
                        f"vLLM does not answer after {seconds:.0f} s; see its log, {self.log}"
                    )
                on_wait(seconds, "".join(self._log_end()[-1:]))
                time.sleep(_LOOK_EVERY_S)

    def last_words(self) -> str:
        """The last errors that the log names, behind which many lines may follow; else its end."""
        lines = self._log_end()
        errors = list(dict.fromkeys(line for line in lines if _ERROR.search(line)))
        return "\n".join((errors or lines)[-_NUM_LAST_WORDS:])

    def _log_end(self) -> list[str]:
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOG_END_BYTES))
            return file.read().decode("utf-8", errors="replace").rstrip().splitlines()

    def close(self) -> None:
        """Stops the process and everything that it started; the log stays."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            logger.warning("vLLM (process %d) did not stop; it is killed", self._process.pid)
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def free_port() -> int:
    """A port of the loopback interface that nobody has right now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def new_log_path() -> Path:
    """A new name for a log, in `$XDG_STATE_HOME/martlet`."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return state / "martlet" / f"vllm-{stamp}-{os.getpid()}-{time.monotonic_ns() % 10**6}.log"


def started_shown(process: VllmProcess) -> None:
    """Waits until a process answers, showing the time and what it is at on stderr.

    Raises:
        EngineError: As `VllmProcess.wait_until_ready`.
    """
    print(f"starting vLLM; its log is {process.log}", file=sys.stderr)
    layout = "vLLM is starting, {elapsed}: {postfix}"
    with tqdm(bar_format=layout, disable=None, leave=False, mininterval=0) as bar:
        process.wait_until_ready(
            on_wait=lambda _seconds, line: bar.set_postfix_str(line[-80:], refresh=True)
        )


def _is_healthy(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in own.items() if name not in _NOT_PASSED_ON}
