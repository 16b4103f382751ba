"""Rows taken out of a table by a compiled function."""

import numpy as np
import pytest

from martlet.models.compiled.threads import can_compile, run

pytestmark = pytest.mark.skipif(not can_compile(), reason="nothing is compiled on this machine")


@pytest.mark.parametrize("num_wanted", [0, 1, 50])
def test_rows_in_any_order(num_wanted: int) -> None:
    from martlet.models.compiled.gather import gather_rows

    generator = np.random.default_rng(0)
    table = generator.integers(0, 2**31, (70, 24))
    wanted = generator.permutation(70)[:num_wanted]
    out = np.full((num_wanted + 1, 24), -1)
    places = (wanted.ctypes.data, table.ctypes.data, out.ctypes.data)
    run(gather_rows(), (*places, num_wanted, table.strides[0]))
    assert np.array_equal(out[:-1], table[wanted])
    assert (out[-1] == -1).all()
