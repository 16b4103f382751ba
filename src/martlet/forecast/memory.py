"""What a run holds in memory at its worst moment: what a probe held, and what it had not touched.

The system pays for a page of the pool of keys and values when it is first written. So a short probe
of a long run holds less than the run will.
"""

from dataclasses import dataclass

from martlet.backends.base import Backend
from martlet.backends.native import NativeBackend
from martlet.backends.opened import OpenedModel
from martlet.forecast.costs import Load
from martlet.forecast.peak import Peak
from martlet.forecast.probe import Probe
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


def memory_of(
    backend: Backend, opened: OpenedModel, *, work: Work, load: Load | None, probe: Probe
) -> Memory:
    """Adds up what is known of a backend whose probe has just ended.

    Args:
        load: What the native engine will still compute; None for another backend.
    """
    plan = opened.memory
    has_pool = isinstance(backend, NativeBackend) and load is not None
    return Memory(
        available=plan.available_bytes,
        weights=plan.weights_bytes,
        adapters=_adapter_bytes(backend),
        pool=plan.pool_bytes if has_pool else 0,
        peak=_peak_bytes(backend, opened, work=work, load=load, probe=probe),
        requests_at_once=backend.limits.max_num_requests,
        longest_at_once=_longest_at_once(plan, work) if has_pool else None,
    )


def _adapter_bytes(backend: Backend) -> int:
    if not isinstance(backend, NativeBackend):
        return 0
    return sum(each.size_bytes for each in backend.adapters.list())


def _peak_bytes(
    backend: Backend, opened: OpenedModel, *, work: Work, load: Load | None, probe: Probe
) -> int:
    on_device = Peak.read(opened.device).device_bytes
    if on_device is not None:
        return on_device
    num_computed = backend.stats.num_tokens if isinstance(backend, NativeBackend) else 0
    num_to_come = 0.0
    if isinstance(backend, NativeBackend) and backend.engine.config.prefix_sharing and load:
        # A request's last block, half full on average, is used again before a new one.
        num_to_come = max(0.0, load.tokens - work.left.samples * opened.memory.block_size / 2)
    untouched = _pool_bytes(opened.memory, num_to_come) - _pool_bytes(opened.memory, num_computed)
    to_grow = _to_grow(probe, opened.memory, num_computed) if work.open_questions else 0
    return probe.peak.process_bytes + to_grow + max(0, untouched)


def _to_grow(probe: Probe, plan: MemoryPlan, num_computed: int) -> int:
    """What else the process will come to hold: it grew by as much since the probe's half.

    A heap grows ever more slowly, as longer requests meet and holes are left between them.
    """
    half = probe.halfway
    if half is None:
        return 0
    of_pool = _pool_bytes(plan, num_computed) - _pool_bytes(plan, half.num_tokens)
    return max(0, probe.peak.process_bytes - half.peak.process_bytes - of_pool)


def _pool_bytes(plan: MemoryPlan, num_tokens: float) -> int:
    """What is touched of the pool when so many tokens have been computed.

    Full blocks are kept for requests that begin alike, as long as there are others that were never
    used.
    """
    return round(min(plan.num_tokens, num_tokens)) * plan.kv_bytes_per_token


def _longest_at_once(plan: MemoryPlan, work: Work) -> int:
    longest = max(
        (each.num_prompt_tokens + each.max_reply_tokens for each in work.open_questions),
        default=plan.max_context_tokens,
    )
    return int(plan.num_tokens / longest)
