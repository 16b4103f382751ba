"""The machine: its processor and what PyTorch makes of it, memory, disk, the port to serve on."""

import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from shutil import disk_usage

from martlet.doctor.finding import PIP, Finding
from martlet.errors import ResourceError
from martlet.models.available_memory import read_available_memory
from martlet.models.memory import GIB, RESERVE_BYTES

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Either makes a processor multiply bf16 by itself."""
_ISAS_WITHOUT_BF16 = frozenset(
    {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
)
"""Of oneDNN's environment variable `ONEDNN_MAX_CPU_ISA`."""
_CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
_FULL_BYTES = 64 << 20
"""With less, the journal and the result of even a small run do not fit."""
_LOW_BYTES = 2 * GIB


@dataclass(frozen=True, kw_only=True)
class TorchCpu:
    """What this PyTorch uses of a processor."""

    capability: str
    """The widest vectors of its own loops: `AVX512`, `AVX2`, `DEFAULT`, …"""
    has_bf16_products: bool
    """Whether it was built with oneDNN, and that takes bf16 here."""
    limits: tuple[str, ...]
    """Environment variables that hold it below what it was built for."""

    @classmethod
    def here(cls) -> "TorchCpu":
        """Of the PyTorch that is installed."""
        import torch

        from martlet.models.linear.packed import can_pack

        return cls(
            capability=torch.backends.cpu.get_cpu_capability(),
            has_bf16_products=can_pack(),
            limits=tuple(name for name in _LIMITS if _is_limiting(name)),
        )


def examine_cpu(flags: frozenset[str], build: TorchCpu) -> Finding:
    """Whether PyTorch uses what the processor has for bf16.

    Args:
        flags: As `/proc/cpuinfo` names them; empty where there is none.
        build: The PyTorch that computes.
    """
    own = sorted(flags & _BF16_FLAGS)
    if not own:
        how = "emulated" if build.has_bf16_products else "slow, so fp32 is taken"
        return Finding.ok("cpu", f"{build.capability}; no AVX-512 bf16 or AMX: bf16 is {how}")
    if build.limits:
        return Finding.warning(
            "cpu",
            f"the CPU has {', '.join(own)}, and {' and '.join(build.limits)} in the environment "
            "forbids PyTorch to use it",
            remedy=f"unset {' '.join(build.limits)}",
        )
    if not build.capability.startswith("AVX512") or not build.has_bf16_products:
        return Finding.warning(
            "cpu",
            f"the CPU has {', '.join(own)}, and this PyTorch was built without AVX-512 bf16 "
            f"({build.capability}): models run several times slower than they could",
            remedy=_reinstall_torch(),
        )
    return Finding.ok("cpu", f"{build.capability} with {', '.join(own)}")


def cpu_flags() -> frozenset[str]:
    """The processor's features, as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    return frozenset(next(named, ()))


def examine_memory() -> Finding:
    """Memory that is free before any model."""
    memory = read_available_memory()
    free = f"{memory.available_bytes / GIB:.1f} GiB are free ({memory.source})"
    if memory.available_bytes < 2 * RESERVE_BYTES:
        return Finding.warning(
            "memory", f"{free}: too little for most models", remedy="ps aux --sort=-rss | head"
        )
    return Finding.ok("memory", free)


def examine_disks() -> Iterator[Finding]:
    """The disks of this folder, of downloads, and of temporary files, each once."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {
        "results": Path.cwd(),
        "downloads": Path(HF_HUB_CACHE),
        "temporary files": Path(tempfile.gettempdir()),
    }
    seen = set()
    for use, place in places.items():
        folder = _existing(place)
        device = folder.stat().st_dev
        if device not in seen:
            seen.add(device)
            yield examine_disk(folder, use=use)


def examine_disk(folder: Path, *, use: str) -> Finding:
    """Whether a disk has room.

    Args:
        folder: It exists.
        use: What is written there.
    """
    free_bytes = disk_usage(folder).free
    free = f"{_size(free_bytes)} are free for {use} in {folder}"
    largest_first = f"du -xh --max-depth=2 {quote(str(folder))} | sort -rh | head -n 20"
    if free_bytes < _FULL_BYTES:
        error = ResourceError(f"the disk is full: {free}")
        return Finding.fault("disk", error, remedy=largest_first)
    if free_bytes < _LOW_BYTES:
        return Finding.warning("disk", f"only {free}", remedy=largest_first)
    return Finding.ok("disk", free)


def examine_port(port: int, *, model: str | None) -> Finding:
    """Whether `martlet serve` could listen on a port of the loopback interface."""
    if _is_free(port):
        return Finding.ok("port", f"{port} is free")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
    return Finding.warning(
        "port",
        f"{port} is in use by another program",
        remedy=f"martlet serve {quote(model or 'MODEL')} --port {free}",
    )


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As a server does: a port that was just given up counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _reinstall_torch() -> str:
    """The same version as its makers build it, with or without CUDA as now."""
    import torch

    index = "https://pypi.org/simple" if torch.version.cuda else _CPU_TORCH_INDEX
    wanted = f"torch=={torch.__version__.partition('+')[0]}"
    return f"{PIP} install --force-reinstall --no-deps --index-url {index} {wanted}"


def _size(num_bytes: int) -> str:
    if num_bytes < GIB:
        return f"{num_bytes / 2**20:.0f} MiB"
    return f"{num_bytes / GIB:.1f} GiB"


def _is_limiting(name: str) -> bool:
    value = os.environ.get(name, "").upper()
    if name == "ONEDNN_MAX_CPU_ISA":
        return value in _ISAS_WITHOUT_BF16
    return bool(value) and not value.startswith("AVX512")


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.is_dir())
