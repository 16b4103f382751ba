"""The compiled search for the largest number of each row finds what NumPy finds."""

import pytest
import torch

from martlet.models.compiled.threads import can_compile

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")


def test_the_first_of_equals_and_rows_that_are_not_finite() -> None:
    from martlet.models.compiled.largest import first_largest

    rows = torch.randn(40, 4096, generator=torch.Generator().manual_seed(0))
    rows = rows.bfloat16().float()  # some are equal
    places, largest = first_largest(rows)
    assert places.tolist() == rows.numpy().argmax(axis=1).tolist()
    assert torch.equal(largest, rows.amax(dim=1))
    rows[0, 17] = float("nan")
    rows[1, 18] = -float("nan")
    rows[2, 19:] = float("inf")
    rows[3] = float("-inf")
    places, largest = first_largest(rows)
    assert places[:4].tolist() == [17, 18, 19, 0]
    assert largest[:4].tolist() == [float("inf")] * 3 + [float("-inf")]
