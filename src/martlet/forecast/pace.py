"""How long a run's remaining samples take, by what a probe saw."""

from collections.abc import Sequence
from heapq import heapify, heapreplace

from martlet.engine.config import EngineConfig
from martlet.forecast.costs import Load, StepCosts
from martlet.forecast.probe import Probe
from martlet.forecast.work import Work


def seconds_by_steps(load: Load, probe: Probe) -> float | None:
    """What the native engine needs: each part of a load at the cost that it had in the probe.

    Returns:
        None if the probe saw no step.
    """
    return StepCosts.fit(probe.loads, probe.load_seconds).seconds(load) if probe.loads else None


def load_of(work: Work, config: EngineConfig, *, share_computed: float) -> Load:
    """All that the engine computes for the samples that are left.

    Args:
        share_computed: Of the tokens of prompts; the others are found in the pool.
    """
    replies = list(work.replies())
    if not replies:
        return Load(steps=0.0)
    scale = work.left.samples / len(replies)
    tokens = sum(prompt * share_computed + reply - 1 for prompt, reply in replies) * scale
    num_at_once = _num_at_once(replies, config)
    return Load(
        steps=max(
            _num_steps([reply for _, reply in replies], num_at_once, scale=scale),
            tokens / config.max_num_batched_tokens,
        ),
        tokens=tokens,
        drawn=sum(reply for _, reply in replies) * scale,
        # A reply's token attends to the prompt and, on average, to half of the reply.
        attended=sum((prompt + reply / 2) * reply for prompt, reply in replies) * scale,
    )


def seconds_by_ends(work: Work, probe: Probe) -> float | None:
    """What any other backend needs: as long for a sample as the probe's took from the first on.

    Returns:
        None if no sample ended in the probe.
    """
    if not probe.ends:
        return None
    (first_s, num_first), (last_s, num_last) = probe.ends[0], probe.ends[-1]
    if num_last == num_first:
        return work.left.samples / num_last * last_s
    return first_s + work.left.samples / (num_last - num_first) * (last_s - first_s)


def _num_at_once(replies: Sequence[tuple[float, float]], config: EngineConfig) -> int:
    """Requests that run together: as many as are allowed, or as the pool holds on average."""
    mean_held = sum(prompt + reply / 2 for prompt, reply in replies) / len(replies)
    num_held = int(config.num_blocks * config.block_size / mean_held)
    return max(1, min(config.max_num_requests, num_held))


def _num_steps(lengths: Sequence[float], num_at_once: int, *, scale: float) -> float:
    """Steps until the last reply has ended, each place taken again as soon as it is free.

    Args:
        lengths: Of replies, in their order: tokens, which are steps.
        scale: How many replies each of them stands for.
    """
    places = [0.0] * min(num_at_once, len(lengths))
    heapify(places)
    for length in lengths:
        heapreplace(places, places[0] + length)
    return max(places) + sum(lengths) * (scale - 1) / num_at_once
