"""What the benchmarks share."""

from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def prompts(count: int, length: int, *, seed: int = 0) -> list[list[int]]:
    """Random ids for the random model."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[list[int]] = torch.randint(0, 150_000, (count, length), generator=generator).tolist()
    return ids
