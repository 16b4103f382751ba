"""A contestant's process: started, asked, and ended with all that it started."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import martlet.bench.peers as peers
from martlet.bench.contestant import Contestant
from martlet.bench.peers.protocol import Job
from martlet.errors import EngineError

_NUM_TOLD_LINES = 12
_SECONDS_TO_LEAVE = 20.0


class Conversation:
    """A contestant that has loaded its model.

    Args:
        process: Whose input and output are pipes.
        contestant: For messages.
        log: What it writes to stderr.
    """

    def __init__(self, process: subprocess.Popen[str], contestant: Contestant, log: Path) -> None:
        self._process = process
        self._contestant = contestant
        self._log = log
        hello = self._answer()
        self.version = str(hello["version"])
        """Of its engine."""
        self.ready_s = float(hello["ready_s"])
        """From its first line to a loaded model that has answered once, imports included."""

    def measure(self, work: int) -> dict[str, Any]:
        """Lets it compute a work, by its number in the job; the fields of `Timeline.figures`.

        Raises:
            EngineError: If it fails, with the end of what it wrote to stderr.
        """
        assert self._process.stdin is not None
        try:
            print(work, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._failure() from None
        return self._answer()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps it off the cores meanwhile: some engines wait for work by turning in circles."""
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failure(self) -> EngineError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = "\n".join(lines[-_NUM_TOLD_LINES:])
        return EngineError(f"{self._contestant.name} failed; its last words:\n{told}")


@contextmanager
def conversation(contestant: Contestant, job: Job, *, scratch: Path) -> Iterator[Conversation]:
    """Starts a contestant, and ends it when the context does.

    Args:
        contestant: Who.
        job: What it is to load and compute.
        scratch: A folder for what it is given and writes.

    Raises:
        EngineError: If it cannot load the model, with the end of what it wrote to stderr.
    """
    job_file, log = scratch / "job.json", scratch / "stderr.txt"
    job.write(job_file)
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [contestant.python, "-m", contestant.module, job_file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=scratch,
            env=environment(contestant, scratch),
            start_new_session=True,
        )
    try:
        yield Conversation(process, contestant, log)
    finally:
        _end(process)


def environment(contestant: Contestant, scratch: Path) -> dict[str, str]:
    """The process sees what this one does; a foreign one sees the folder `peers` alone of Martlet,
    so that nothing of Martlet's environment reaches its own."""
    if not contestant.is_foreign:
        return {**os.environ}
    package = scratch / "martlet" / "bench"
    shutil.copytree(Path(peers.__file__).parent, package / "peers", dirs_exist_ok=True)
    # Whole packages, though empty: a Martlet that is installed there would be taken otherwise.
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    return {**os.environ, "PYTHONPATH": str(scratch)}


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_SECONDS_TO_LEAVE)
    with suppress(ProcessLookupError):
        # Also what it left behind: its session bears its id.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
