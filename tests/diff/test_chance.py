"""The test by which votes changed more than chance: fair under chance, sharp against change."""

import numpy as np

from martlet.answers.vote import Answer, majority
from martlet.diff.chance import redraw_test

NUM_QUESTIONS = 40


def drawn(generator: np.random.Generator, share: float) -> list[str | None]:
    """Eight samples, of which that share says A and a tenth says nothing."""
    chances = [0.9 * share, 0.9 * (1 - share), 0.1]
    return [("A", "B", None)[each] for each in generator.choice(3, size=8, p=chances)]


def vote(ballots: list[str | None]) -> str | None:
    return majority([Answer(value=each) for each in ballots]).winner


def p_value(generator: np.random.Generator, first: float, second: float) -> float:
    pairs = [(drawn(generator, first), drawn(generator, second)) for _ in range(NUM_QUESTIONS)]
    flips = sum(vote(a) != vote(b) for a, b in pairs)
    return redraw_test(pairs, num_flips=flips)


def test_two_runs_of_the_same_model_look_like_chance() -> None:
    generator = np.random.default_rng(3)
    values = [p_value(generator, 0.6, 0.6) for _ in range(40)]
    assert np.mean(np.array(values) < 0.05) <= 0.15
    assert 0.35 < np.mean(values) < 0.65


def test_two_models_do_not() -> None:
    assert p_value(np.random.default_rng(4), 0.75, 0.35) < 0.01


def test_votes_without_a_doubt_never_flip_by_chance() -> None:
    pairs = [(["A"] * 8, ["A"] * 8)] * 20
    assert redraw_test(pairs, num_flips=0) == 1
    changed = [*pairs, (["A"] * 8, ["B"] * 8)]
    assert 0.1 < redraw_test(changed, num_flips=1) <= 1
