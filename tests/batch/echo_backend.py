"""A backend without a model: deterministic text, drawn token by token over several steps.

It keeps the whole contract of `martlet.backends.base`: it computes `max_num_requests` at once, a
reply's length differs from sample to sample (so they finish out of order), and a token depends on
the prompt, the seed and the position alone.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256

from martlet.backends.base import (
    BackendLimits,
    DefaultParams,
    ModelIdentity,
    Prompt,
    RenderedPrompt,
    SampleDelta,
    SampleOutput,
    SampleRequest,
)
from martlet.engine.params import SamplingParams
from martlet.errors import InputError, ParameterError, PromptTooLongError

_MAX_REPLY_TOKENS = 7


@dataclass
class _Active:
    request: SampleRequest
    token_ids: list[int]


class EchoBackend:
    """Draws `token 17 token 203 …`; a prompt that holds `fail_on` fails."""

    def __init__(
        self,
        *,
        max_num_requests: int = 4,
        max_context_tokens: int = 4096,
        step_s: float = 0.0,
        fail_on: str | None = None,
        refused_parameters: Collection[str] = (),
        default_params: Mapping[str, object] | None = None,
        model_hash: str = "echo",
        on_submit: Callable[[SampleRequest], None] = lambda _request: None,
    ) -> None:
        self.identity = ModelIdentity(
            model="echo",
            model_hash=model_hash,
            template_hash="plain",
            tokenizer_hash="code points",
            backend="echo",
            dtype="none",
        )
        self.limits = BackendLimits(
            max_context_tokens=max_context_tokens, max_num_requests=max_num_requests
        )
        self.default_params = DefaultParams(values=default_params or {})
        self.submitted: list[SampleRequest] = []
        self.aborted: list[str] = []
        self.fail_on = fail_on
        self.max_num_unfinished = 0
        self._step_s = step_s
        self._refused = refused_parameters
        self._on_submit = on_submit
        self._active: dict[str, _Active] = {}

    def render(self, prompt: Prompt) -> RenderedPrompt:
        if prompt.token_ids is not None:
            return RenderedPrompt(text="", token_ids=tuple(prompt.token_ids))
        text = prompt.text
        if prompt.messages is not None:
            text = "".join(f"<{turn['role']}>{turn['content']}" for turn in prompt.messages)
        if not text:
            raise InputError("the prompt is empty")
        return RenderedPrompt(text=text, token_ids=tuple(map(ord, text)))

    def prepare(self, params: SamplingParams) -> None:
        """Any form is made by this backend, which draws no tokens."""

    def submit(self, request: SampleRequest) -> None:
        if request.request_id in self._active:
            raise RuntimeError(f"request {request.request_id} is there already")
        if len(request.prompt_ids) >= self.limits.max_context_tokens:
            raise PromptTooLongError("the prompt leaves no room for a reply")
        for name in self._refused:
            if getattr(request.params, name):
                raise ParameterError(f"the echo backend has no {name}")
        self._on_submit(request)
        self.submitted.append(request)
        self._active[request.request_id] = _Active(request=request, token_ids=[])
        self.max_num_unfinished = max(self.max_num_unfinished, len(self._active))

    def abort(self, request_id: str) -> None:
        if self._active.pop(request_id, None) is not None:
            self.aborted.append(request_id)

    def poll(self) -> list[SampleOutput]:
        time.sleep(self._step_s)
        computed = list(self._active.values())[: self.limits.max_num_requests]
        outputs = [self._advance(active) for active in computed]
        finished = [output for output in outputs if output is not None]
        for output in finished:
            del self._active[output.request_id]
        return finished

    def take_deltas(self) -> list[SampleDelta]:
        return []

    @property
    def num_unfinished(self) -> int:
        return len(self._active)

    def close(self) -> None:
        self._active.clear()

    def _advance(self, active: _Active) -> SampleOutput | None:
        request = active.request
        if self.fail_on is not None and self.fail_on in "".join(map(chr, request.prompt_ids)):
            return self._output(active, "error", error="the echo broke")
        active.token_ids.append(_draw(request, len(active.token_ids)))
        if len(active.token_ids) == request.params.max_tokens:
            return self._output(active, "length")
        if len(active.token_ids) == _reply_length(request):
            return self._output(active, "stop")
        return None

    def _output(self, active: _Active, reason: str, error: str | None = None) -> SampleOutput:
        return SampleOutput(
            request_id=active.request.request_id,
            text=" ".join(f"token {token_id}" for token_id in active.token_ids),
            token_ids=tuple(active.token_ids),
            finish_reason=reason,
            cumulative_logprob=-1.0 * len(active.token_ids),
            num_prompt_tokens=len(active.request.prompt_ids),
            # Differs from run to run, as a real prefix cache does: no result may show it.
            num_cached_tokens=len(self.submitted),
            error=error,
        )


def _draw(request: SampleRequest, position: int) -> int:
    name = f"{request.prompt_ids}{request.seed}{request.params.temperature}{position}"
    return int.from_bytes(sha256(name.encode()).digest()[:2], "big") % 1000


def _reply_length(request: SampleRequest) -> int:
    return 1 + request.seed % _MAX_REPLY_TOKENS
