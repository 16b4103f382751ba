"""Every kernel compiles to machine code, on machines without a GPU too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import compile_kernels

MAX_SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
"""Of one program, by compute capability (CUDA C++ Programming Guide, table of technical
specifications)."""


@pytest.mark.slow
def test_every_kernel_compiles_and_fits(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, compile_kernels.__file__],
        env={**kept, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        name, capability, shared_bytes = line.split()
        assert int(shared_bytes) <= MAX_SHARED_BYTES[int(capability)], name
