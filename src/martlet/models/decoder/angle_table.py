"""The angles of all positions so far, of which a step takes its own."""

from collections.abc import Sequence

import numpy as np
import torch

from martlet.models.decoder.decoder import RotaryEmbedding

_LEAST = 1024
"""Positions whose angles are computed at first; then twice as many whenever they do not suffice."""


class AngleTable:
    """Cosine and sine in fp32 of each position, computed once, and those of a step's rows.

    Computed one by one they take a dozen operations a step, as much for one row as for many.

    Args:
        embedding: Computes them.
        dim: D, the width of a head.
        num_rows: As many as a step may have.
    """

    def __init__(self, embedding: RotaryEmbedding, dim: int, num_rows: int) -> None:
        self._embedding = embedding
        self._known = [np.empty((0, dim), dtype=np.float32)] * 2  # each [positions, D]
        self._rows = [np.empty((num_rows, dim), dtype=np.float32) for _ in range(2)]
        self.addresses = tuple(rows.ctypes.data for rows in self._rows)
        """Of the cosines and of the sines that were looked up last, `[T, D]` each."""

    def look_up(self, positions: Sequence[int]) -> None:
        """Takes the angles of T positions."""
        last = max(positions)
        if last >= len(self._known[0]):
            self._compute(max(_LEAST, 1 << last.bit_length()))
        for known, rows in zip(self._known, self._rows, strict=True):
            np.take(known, positions, axis=0, out=rows[: len(positions)], mode="clip")

    def _compute(self, num_positions: int) -> None:
        angles = self._embedding(torch.arange(num_positions)[None], torch.float32)
        self._known = [angle[0, 0].numpy() for angle in angles]
