"""The Python interface: prompts in, outputs out, under vLLM's names.

A script written for vLLM's offline inference runs with one import changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from tqdm import tqdm

from martlet.backends.base import Prompt, SampleOutput, SampleRequest, TokenLogprob
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.backends.seeds import given_seed, sample_seed
from martlet.engine.params import SamplingParams
from martlet.engine.request import FinishReason
from martlet.errors import EngineError, ParameterError
from martlet.text.messages import Message
from martlet.text.tool_calls.functions import Tool


@dataclass(frozen=True, kw_only=True)
class CompletionOutput:
    """One of the samples drawn for a prompt."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    """The reply, the token that ended it included."""
    finish_reason: FinishReason
    stop_reason: int | str | None
    """The token id or the string that ended the reply."""
    cumulative_logprob: float | None
    """Log-probability of the whole reply; None unless the parameters ask for `logprobs`."""
    logprobs: tuple[Mapping[int, TokenLogprob], ...] | None


@dataclass(frozen=True, kw_only=True)
class RequestOutput:
    """Everything that was drawn for one prompt."""

    request_id: str
    prompt: str
    """As the model saw it; empty if token ids were given."""
    prompt_token_ids: tuple[int, ...]
    prompt_logprobs: tuple[Mapping[int, TokenLogprob] | None, ...] | None
    outputs: tuple[CompletionOutput, ...]
    num_cached_tokens: int
    """Tokens of the prompt that the first sample did not have to compute."""
    finished: bool = True


class LLM:
    """A model, ready to answer.

    Args:
        model: A folder, a Hugging Face id, `ms:` and a ModelScope id, or `demo`.
        tokenizer: Another folder to take the tokenizer from.
        seed: Fixes every draw of this object, in the order of its calls.
        options: See `BackendOptions`; any of its fields is a keyword here.

    Raises:
        NotFoundError: If there is no such model.
        ModelError: If it cannot be loaded as it is.
        ResourceError: If it does not fit in memory.
        ParameterError: If an option is unknown or contradicts the model or the machine.
    """

    def __init__(
        self, model: str, tokenizer: str | None = None, *, seed: int = 0, **options: object
    ) -> None:
        known = [field.name for field in fields(BackendOptions)]
        for name in options:
            if name not in known:
                raise ParameterError(f"unknown option {name!r}; known: {', '.join(known)}")
        built = BackendOptions(tokenizer=tokenizer, **options)  # type: ignore[arg-type]
        self._backend = load_backend(str(model), options=built)
        self._seed = seed
        self._num_requests = 0

    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Continues raw prompts. No chat template is applied: `chat` does that.

        Args:
            prompts: Texts or lists of token ids; one or many.
            sampling_params: One for all or one for each; None takes what the model's folder
                recommends.
            adapter: Which of the `adapters` that the object was made with answers, by name; None
                is the model itself.
            use_tqdm: Whether a terminal shows the progress.

        Returns:
            One output a prompt, in order.

        Raises:
            InputError: If a prompt is empty or too long; nothing was computed then.
            NotFoundError: If there is no such adapter.
            EngineError: If a step failed; the message names the prompts.
        """
        if isinstance(prompts, str):
            return self._run([Prompt(text=prompts)], sampling_params, adapter, use_tqdm)
        if prompts and isinstance(prompts[0], int):
            return self._run([_raw(prompts)], sampling_params, adapter, use_tqdm)
        return self._run([_raw(prompt) for prompt in prompts], sampling_params, adapter, use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Tool] = (),
        chat_template_kwargs: Mapping[str, object] | None = None,
        adapter: str | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answers conversations, through the model's chat template.

        Args:
            messages: One conversation or many.
            tools: Functions that the model may call, as OpenAI declares them; its calls stand in
                the reply's text, in its own format.
            chat_template_kwargs: What else the template looks at, such as `enable_thinking`.
            sampling_params: One for all or one for each; None takes what the model's folder
                recommends.
            adapter: Which of the `adapters` that the object was made with answers, by name; None
                is the model itself.
            use_tqdm: Whether a terminal shows the progress.

        Returns:
            One output a conversation, in order.

        Raises:
            TemplateError: If the model has no chat template, or it refuses the messages, or does
                not look at tools or a variable.
            InputError: If a conversation is too long; nothing was computed then.
            NotFoundError: If there is no such adapter.
            EngineError: If a step failed; the message names the conversations.
        """
        is_one = bool(messages) and isinstance(messages[0], Mapping)
        conversations = [messages] if is_one else messages
        prompts = [
            Prompt(messages=one, tools=tools, template_variables=chat_template_kwargs)  # type: ignore[arg-type]
            for one in conversations
        ]
        return self._run(prompts, sampling_params, adapter, use_tqdm)

    def _run(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        adapter: str | None,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        if params is None:
            params = SamplingParams.from_mapping(self._backend.default_params.values)
        each = _one_each(params, len(prompts))
        rendered = [self._backend.render(prompt) for prompt in prompts]
        requests = [
            list(self._samples(prompt, shown.token_ids, one, adapter))
            for prompt, shown, one in zip(prompts, rendered, each, strict=True)
        ]
        samples = self._draw([sample for row in requests for sample in row], use_tqdm)
        return [
            _to_output(row, prompt.text, [samples[sample.request_id] for sample in row])
            for row, prompt in zip(requests, rendered, strict=True)
        ]

    def _samples(
        self,
        prompt: Prompt,
        prompt_ids: tuple[int, ...],
        params: SamplingParams,
        adapter: str | None,
    ) -> Iterator[SampleRequest]:
        """The requests for one prompt: each sample has a seed of its own."""
        number = self._num_requests
        self._num_requests += 1
        base = f"{self._seed}, {number}"
        for index in range(params.n):
            fixed = None if params.seed is None else given_seed(params.seed, index)
            yield SampleRequest(
                request_id=f"{number}-{index}",
                prompt_ids=prompt_ids,
                params=params,
                seed=sample_seed(base, index) if fixed is None else fixed,
                adapter=adapter,
                prompt=prompt,
            )

    def _draw(self, requests: Sequence[SampleRequest], use_tqdm: bool) -> dict[str, SampleOutput]:
        samples: dict[str, SampleOutput] = {}
        try:
            for request in requests:
                self._backend.submit(request)
            with tqdm(
                total=len(requests), unit="sample", disable=None if use_tqdm else True
            ) as progress:
                while self._backend.num_unfinished:
                    finished = self._backend.poll()
                    samples.update((sample.request_id, sample) for sample in finished)
                    progress.update(len(finished))
        except BaseException:
            # A refused prompt, or the stop button of a notebook: nothing stays in the queue.
            self._give_up(requests)
            raise
        failed = [sample for sample in samples.values() if sample.finish_reason == "error"]
        if failed:
            raise EngineError(
                f"{len(failed)} of {len(samples)} samples failed, the first one "
                f"({failed[0].request_id}) with: {failed[0].error}"
            )
        return samples

    def _give_up(self, requests: Sequence[SampleRequest]) -> None:
        for request in requests:
            self._backend.abort(request.request_id)


def _raw(prompt: object) -> Prompt:
    if isinstance(prompt, str):
        return Prompt(text=prompt)
    if isinstance(prompt, Sequence) and all(isinstance(token_id, int) for token_id in prompt):
        return Prompt(token_ids=prompt)
    raise ParameterError(f"a prompt is a text or a list of token ids, not {prompt!r}")


def _one_each(
    params: SamplingParams | Sequence[SamplingParams], count: int
) -> Sequence[SamplingParams]:
    if isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise ParameterError(f"{len(params)} sampling parameters were given for {count} prompts")
    return params


def _to_output(
    requests: Sequence[SampleRequest], prompt: str, samples: Sequence[SampleOutput]
) -> RequestOutput:
    return RequestOutput(
        request_id=requests[0].request_id.split("-")[0],
        prompt=prompt,
        prompt_token_ids=requests[0].prompt_ids,
        prompt_logprobs=samples[0].prompt_logprobs,
        outputs=tuple(
            CompletionOutput(
                index=index,
                text=sample.text,
                token_ids=sample.token_ids,
                finish_reason=sample.finish_reason,
                stop_reason=sample.stop_reason,
                cumulative_logprob=sample.cumulative_logprob,
                logprobs=sample.logprobs,
            )
            for index, sample in enumerate(samples)
        ),
        num_cached_tokens=samples[0].num_cached_tokens,
    )
