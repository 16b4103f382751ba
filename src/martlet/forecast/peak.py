"""The most memory that this process has held so far."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Bytes at the worst moment."""

    process_bytes: int
    """Of the machine's own memory."""
    device_bytes: int | None
    """Of the accelerator's, as PyTorch reserves it; None without one."""

    @classmethod
    def read(cls, device: "torch.device | None" = None) -> "Peak":
        """Reads it off the system and, if one is given, an accelerator's allocator."""
        import torch

        is_cuda = device is not None and device.type == "cuda"
        on_device = torch.cuda.max_memory_reserved(device) if is_cuda else None
        return cls(process_bytes=_process_bytes(), device_bytes=on_device)


def _process_bytes() -> int:
    # Linux hands a child its parent's ru_maxrss; VmHWM is the process's own.
    if _STATUS.exists():
        fields = dict(
            line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line
        )
        return int(fields["VmHWM"].split()[0]) * 1024
    import resource

    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kept if sys.platform == "darwin" else kept * 1024
