"""A disk of 1 MiB, in a namespace of its own: nothing else sees the mount."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ISOLATED = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


def run_on_small_disk(folder: Path, code: str) -> str:
    """Runs Python code in `folder`, a disk of 1 MiB, and returns what it printed."""
    mount = f"mount -t tmpfs -o size=1m tmpfs {folder} && cd {folder} && "
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            [*_ISOLATED, f"{mount} true"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small disk is not allowed here")
    command = [*_ISOLATED, f'{mount} exec "$0" -c "$1"', sys.executable, code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
