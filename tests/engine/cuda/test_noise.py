"""Draws do not depend on where they are computed."""

import numpy as np
import torch

from martlet.engine.cuda.noise import waiting_times
from martlet.engine.noise import draw_keys
from martlet.engine.noise import waiting_times as plain_waiting_times
from support.attention_steps import DEVICE


def test_the_numbers_are_those_of_the_host() -> None:
    keys = draw_keys([0, 1, 2**63, -5], [0, 7, 100_000, 3])
    ids = np.concatenate([np.arange(-1200, 5000), np.arange(150_000, 152_000)])
    expected = plain_waiting_times(keys[:, None], ids[None])
    got = waiting_times(keys, torch.from_numpy(ids)[None].to(DEVICE))
    np.testing.assert_allclose(got.cpu().numpy(), expected, rtol=1e-12)
