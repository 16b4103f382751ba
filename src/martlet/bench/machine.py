"""The machine in words, for the head of a report."""

import platform
from pathlib import Path

import torch


def machine() -> str:
    """Threads that PyTorch computes with, and the processor's name."""
    processor = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        lines = cpu_info.read_text(encoding="utf-8").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        processor = next(names, processor)
    num_threads = torch.get_num_threads()
    return f"{num_threads} {'thread' if num_threads == 1 else 'threads'} on {processor}"
