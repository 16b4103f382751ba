"""What the server measures of itself, for Prometheus.

Each server has a registry of its own: two in one process, as in tests, do not share counters.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from martlet.backends.base import SampleOutput
from martlet.engine.stats import StepStats

_SHORT_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0)
_LONG_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Meters:
    """Counters, gauges and histograms, all written on the event loop."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "HTTP requests.", "endpoint", "status")
        self._samples = self._counter("samples", "Finished samples.", "finish_reason")
        self._prompt = self._counter("prompt_tokens", "Tokens of the prompts of finished samples.")
        self._drawn = self._counter("generated_tokens", "Tokens drawn in finished samples.")
        self._cached = self._counter("cached_tokens", "Prompt tokens found in the block pool.")
        self._drafted = self._counter("drafted_tokens", "Guesses at replies that were computed.")
        self._accepted = self._counter("accepted_tokens", "Guesses that were drawn then.")
        self._preemptions = self._counter("preemptions", "Requests that had to give up blocks.")
        self._running = self._gauge("samples_running", "Samples that hold blocks.")
        self._waiting = self._gauge("samples_waiting", "Samples that wait for room.")
        self._free_blocks = self._gauge("free_blocks", "Blocks of the pool that are free.")
        self._adapters = self._gauge("adapters_loaded", "Adapters in memory.")
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From a sample's arrival to its first token.", _LONG_S
        )
        self._next_token = self._histogram(
            "inter_token_seconds", "Between two tokens of a sample.", _SHORT_S
        )
        self._sample_seconds = self._histogram(
            "sample_seconds", "From a sample's arrival to its end.", _LONG_S
        )

    def note_request(self, endpoint: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(endpoint, str(status)).inc()

    def note_load(self, num_unfinished: int, num_lanes: int) -> None:
        """Samples came or went; the next step's own figures are more precise."""
        self._running.set(min(num_unfinished, num_lanes))
        self._waiting.set(max(0, num_unfinished - num_lanes))

    def note_step(self, step: StepStats) -> None:
        """The engine made a step."""
        self._running.set(step.num_running)
        self._waiting.set(step.num_waiting)
        self._free_blocks.set(step.num_free_blocks)
        self._preemptions.inc(step.num_preempted)
        self._drafted.inc(step.num_drafted)
        self._accepted.inc(step.num_accepted)

    def note_first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def note_next_tokens(self, seconds: float, count: int) -> None:
        """Tokens of one step, which share its time."""
        for _ in range(count):
            self._next_token.observe(seconds / count)

    def note_sample(self, output: SampleOutput, seconds: float) -> None:
        """A sample finished."""
        self._samples.labels(output.finish_reason).inc()
        self._prompt.inc(output.num_prompt_tokens)
        self._drawn.inc(output.num_tokens)
        self._cached.inc(output.num_cached_tokens)
        self._sample_seconds.observe(seconds)

    def note_adapters(self, num_loaded: int) -> None:
        self._adapters.set(num_loaded)

    def _counter(self, name: str, explanation: str, *labels: str) -> Counter:
        return Counter(f"martlet_{name}", explanation, labels, registry=self.registry)

    def _gauge(self, name: str, explanation: str) -> Gauge:
        return Gauge(f"martlet_{name}", explanation, registry=self.registry)

    def _histogram(self, name: str, explanation: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"martlet_{name}", explanation, registry=self.registry, buckets=buckets)
