"""What runs inside an actor: one ordinary backend, fed and emptied over the network."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from time import monotonic

from martlet.backends.base import (
    Backend,
    DefaultParams,
    ModelIdentity,
    SampleOutput,
    SampleRequest,
)
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.engine.params import SamplingParams
from martlet.errors import MartletError

_TURN_S = 0.1
"""The longest that a call computes before it reports: a queue of this length is never empty."""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What an engine tells of itself once it is loaded."""

    identity: ModelIdentity
    default_params: DefaultParams
    max_context_tokens: int
    max_num_requests: int
    versions: dict[str, str]
    """Of the packages that decide what is drawn."""
    remarks: tuple[str, ...]
    """What was warned of while it loaded."""

    def differences(self, other: "EngineFacts") -> list[str]:
        """What keeps two engines from drawing the same samples, for people."""
        own, theirs = self._decisive(), other._decisive()
        return [
            f"{name} is {theirs[name]!r}, not {value!r}"
            for name, value in own.items()
            if theirs[name] != value
        ]

    def _decisive(self) -> dict[str, object]:
        identity = asdict(self.identity)
        # A measured divergence may differ in its last digit between two kinds of machine.
        del identity["adapter_proof"]
        return {
            **identity,
            **{f"version of {name}": number for name, number in self.versions.items()},
            "recommended sampling": dict(self.default_params.values),
            "context": self.max_context_tokens,
        }


class Worker:
    """The only caller of its backend: Ray runs one call after the other."""

    _backend: Backend

    def arrive(self) -> None:
        """Answers as soon as the actor has its place on the node."""

    def load(self, model: str, options: BackendOptions) -> EngineFacts:
        """Loads the model, which may take minutes.

        Raises:
            MartletError: As `load_backend` does.
        """
        with _warnings_kept() as remarks:
            self._backend = load_backend(model, options=options)
        return EngineFacts(
            identity=self._backend.identity,
            default_params=self._backend.default_params,
            max_context_tokens=self._backend.limits.max_context_tokens,
            max_num_requests=self._backend.limits.max_num_requests,
            versions={name: version(name) for name in ("martlet", "torch", "transformers")},
            remarks=tuple(remarks),
        )

    def prepare(self, params: SamplingParams) -> None:
        """See `Backend.prepare`."""
        self._backend.prepare(params)

    def work(
        self, requests: Sequence[SampleRequest], unwanted: Sequence[str]
    ) -> list[SampleOutput]:
        """Takes requests in, gives others up, and computes for a moment.

        Returns as soon as something is finished and there is room for more.

        Raises:
            MartletError: If the backend fails as a whole.
        """
        outputs = [refusal for each in requests if (refusal := self._submit(each)) is not None]
        for request_id in unwanted:
            self._backend.abort(request_id)
        deadline = monotonic() + _TURN_S
        while self._backend.num_unfinished and monotonic() < deadline:
            outputs += self._backend.poll()
            if outputs and self._backend.num_unfinished < self._backend.limits.max_num_requests:
                break
        return outputs

    def close(self) -> None:
        """See `Backend.close`."""
        self._backend.close()

    def _submit(self, request: SampleRequest) -> SampleOutput | None:
        try:
            self._backend.submit(request)
        except MartletError as error:
            return failed(request, str(error))
        return None


def failed(request: SampleRequest, reason: str) -> SampleOutput:
    """The output of a request that came to nothing."""
    return SampleOutput(
        request_id=request.request_id,
        text="",
        token_ids=(),
        finish_reason="error",
        num_prompt_tokens=len(request.prompt_ids),
        error=reason,
    )


@contextmanager
def _warnings_kept() -> Iterator[list[str]]:
    """Keeps what Martlet warns of, which nobody would read in an actor's log."""
    kept: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: kept.append(record.getMessage())  # type: ignore[method-assign]
    own = logging.getLogger("martlet")
    own.addHandler(handler)
    try:
        yield kept
    finally:
        own.removeHandler(handler)
