"""What a run holds in memory at its worst moment: what a probe held, and what it had not touched.

The system pays for a page of the pool of keys and values when it is first written. So a short probe
of a long run holds less than the run will.
"""

from dataclasses import dataclass

from martlet.backends.base import Backend
from martlet.backends.load import OpenedModel
from martlet.backends.native import NativeBackend
from martlet.forecast.costs import Load
from martlet.forecast.peak import Peak
from martlet.forecast.work import Work
from martlet.models.memory import MemoryPlan


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes, on the machine or, where the model lies there, on the accelerator."""

    available: int
    """Before the model was loaded."""
    weights: int
    adapters: int
    pool: int
    """Reserved for keys and values; 0 on a backend without a pool."""
    peak: int
    """Of the whole process, the interpreter and its libraries included."""
    requests_at_once: int
    """That the backend computes together at most."""
    longest_at_once: int | None
    """How many of the run's longest requests the pool holds together; None without a pool."""


def memory_of(backend: Backend, opened: OpenedModel, *, work: Work, load: Load | None) -> Memory:
    """Adds up what is known of a backend whose probe has just ended.

    Args:
        load: What the native engine will still compute; None for another backend.
    """
    plan = opened.memory
    peak = Peak.read(opened.device)
    peak_bytes = peak.process_bytes if peak.device_bytes is None else peak.device_bytes
    if not isinstance(backend, NativeBackend) or load is None:
        return Memory(
            available=plan.available_bytes,
            weights=plan.weights_bytes,
            adapters=0,
            pool=0,
            peak=peak_bytes,
            requests_at_once=backend.limits.max_num_requests,
            longest_at_once=None,
        )
    if peak.device_bytes is None:
        peak_bytes += _untouched_bytes(backend, plan, work=work, load=load)
    return Memory(
        available=plan.available_bytes,
        weights=plan.weights_bytes,
        adapters=sum(each.size_bytes for each in backend.adapters.list()),
        pool=plan.pool_bytes,
        peak=peak_bytes,
        requests_at_once=backend.limits.max_num_requests,
        longest_at_once=_longest_at_once(plan, work),
    )


def _untouched_bytes(backend: NativeBackend, plan: MemoryPlan, *, work: Work, load: Load) -> int:
    """Of the pool, what the rest of the run touches and the probe has not."""
    if not backend.engine.config.prefix_sharing:
        return 0  # Blocks are then used again as soon as they are free.
    # A full block is kept for requests that begin alike, as long as one that was never used is
    # left; the last block of a request is mostly half full, and used again.
    half_blocks = work.left.samples * plan.block_size / 2
    touched = min(plan.num_tokens, backend.stats.num_tokens)
    will_be = min(plan.num_tokens, round(max(0.0, load.tokens - half_blocks)))
    return max(0, will_be - touched) * plan.kv_bytes_per_token


def _longest_at_once(plan: MemoryPlan, work: Work) -> int:
    longest = max(
        (each.num_prompt_tokens + each.max_reply_tokens for each in work.open_questions),
        default=plan.max_context_tokens,
    )
    return int(plan.num_tokens / longest)
