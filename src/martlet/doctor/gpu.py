"""GPUs: what the driver sees, and whether this PyTorch can compute on it."""

import shutil
import subprocess

from martlet.doctor.finding import PIP, Finding
from martlet.errors import ResourceError

_TIMEOUT_S = 5
_QUERY = ("--query-gpu=name,driver_version,memory.free", "--format=csv,noheader")
_CUDA_TORCH = f"{PIP} install --force-reinstall --index-url https://pypi.org/simple torch=="
"""PyPI has the builds for CUDA."""


def examine_gpu() -> Finding:
    """Whether the GPUs that the driver sees can be used."""
    import torch

    seen = _driver_view()
    if isinstance(seen, Finding):
        return seen
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        names = "; ".join(seen) or torch.cuda.get_device_name()
        return Finding.ok("gpu", f"{count} usable with CUDA {torch.version.cuda}: {names}")
    if not seen:
        return Finding.ok("gpu", "none; models run on the CPU")
    if torch.version.cuda is None:
        return Finding.warning(
            "gpu",
            f"{'; '.join(seen)}, and PyTorch {torch.__version__} was built for the CPU alone",
            remedy=_CUDA_TORCH + torch.__version__.partition("+")[0],
        )
    return Finding.warning(
        "gpu",
        f"{'; '.join(seen)}, and PyTorch with CUDA {torch.version.cuda} cannot use it: the driver "
        "is too old for it, or CUDA_VISIBLE_DEVICES hides the device",
        remedy="CUDA_VISIBLE_DEVICES=0 python -c 'import torch; torch.cuda.init()'",
    )


def _driver_view() -> list[str] | Finding:
    """Name, driver and free memory of each GPU; none without a driver; a finding if it is ill."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *_QUERY], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _ill(f"nvidia-smi does not answer: {error}")
    if done.returncode != 0:
        said = (done.stdout or done.stderr).strip().partition("\n")[0]
        return _ill(f"the driver of the GPU does not answer: {said}")
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _ill(reason: str) -> Finding:
    return Finding.fault("gpu", ResourceError(reason), remedy="sudo modprobe nvidia")
