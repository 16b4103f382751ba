"""The process of a training run: `martlet train`, beside the server and behind it in rank."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from martlet.errors import InputError, MartletError, ModelError, ParityError, ResourceError
from martlet.serve.tuning import keeper

_ERROR = re.compile(r"^error: ", re.MULTILINE)
_OWN_VARIABLES = "MARTLET_"
"""Each is an option of the command line: those that the server was given are not the run's."""
_CODE_TO_KIND: Mapping[int, type[MartletError]] = {
    kind.exit_code: kind for kind in (InputError, ModelError, ResourceError, ParityError)
}
_KILLED = (128 + signal.SIGKILL, -signal.SIGKILL)


class TrainingProcess:
    """Runs for as long as the object does: `end` stops it, and so does the end of this process.

    Args:
        folder: Where it is to run.
        recipe: The file that tells it what to do.
        log: Gets what it says, behind what an earlier process of the run said.
        num_threads: It computes with.
    """

    def __init__(self, folder: Path, *, recipe: Path, log: Path, num_threads: int) -> None:
        self._log = log
        train = [sys.executable, "-P", "-m", "martlet.cli.main", "train", "--config", str(recipe)]
        with log.open("ab") as file:
            self._said_before = file.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, *train],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is for the server alone
                env=_environment(os.environ, num_threads),
            )

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def end(self, *, grace_s: float = 0.0) -> None:
        """Ends it, and waits for that.

        Args:
            grace_s: Seconds to write a checkpoint first.
        """
        if grace_s > 0 and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace_s)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def failure(self) -> MartletError:
        """Why it failed, as it said itself."""
        code = self._process.wait()
        if code in _KILLED:
            return ResourceError(
                "the training was killed, most likely because memory did not suffice; a smaller "
                "batch_size or martlet.max_length needs less"
            )
        kind = _CODE_TO_KIND.get(code, MartletError)
        unsaid = f"the training ended with code {code}; {self._log.name} in its folder says more"
        return kind(self._last_error() or unsaid)

    def _last_error(self) -> str:
        with self._log.open("rb") as file:
            file.seek(self._said_before)
            said = file.read().decode("utf-8", errors="replace")
        _, *errors = _ERROR.split(said)
        return errors[-1].strip() if errors else ""


def _environment(own: Mapping[str, str], num_threads: int) -> dict[str, str]:
    kept = {name: value for name, value in own.items() if not name.startswith(_OWN_VARIABLES)}
    return {**kept, "OMP_NUM_THREADS": str(num_threads), "PYTHONUNBUFFERED": "1"}
