"""Angles that are looked up have the bits of those that are computed."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from martlet.models.decoder.angle_table import AngleTable
from martlet.models.decoder.decoder import RotaryEmbedding


@pytest.mark.parametrize("dim", [32, 64, 128])
def test_bit_for_bit_and_as_far_as_positions_go(dim: int) -> None:
    embedding = RotaryEmbedding(SimpleNamespace(head_dim=dim, rope_theta=1e6))
    table = AngleTable(embedding, dim, 8)
    for positions in ([0], [5, 1023, 7], [1024], [9000, 3, 3, 8191, 8192]):
        table.look_up(positions)
        expected = embedding(torch.tensor([positions]), torch.float32)
        for address, angles in zip(table.addresses, expected, strict=True):
            rows = (ctypes.c_float * (len(positions) * dim)).from_address(address)
            assert np.array_equal(rows, angles.flatten().numpy())
