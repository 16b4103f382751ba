"""Plain `generate` for architectures that the native engine refuses: slower, and right.

Requests are computed in static batches, one batch a `poll`: a batch ends when its longest reply
does. It shares no prompt, keeps no keys between batches, and knows no adapters. A model that does
not look past padding computes one request at a time.
"""

import logging
from dataclasses import replace

from transformers import GenerationConfig, PreTrainedModel

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
from martlet.backends.outputs import to_delta, to_output
from martlet.backends.padding import find_padding_fault
from martlet.backends.render import check_vocabulary, render
from martlet.backends.static_batch import (
    DoneRows,
    DrawnTokens,
    StaticBatch,
    generate,
    num_positions,
)
from martlet.engine.constraint import TokenConstraint
from martlet.engine.params import SamplingParams
from martlet.engine.request import Request
from martlet.errors import ParameterError, PromptTooLongError
from martlet.text.grammar import GrammarCompiler
from martlet.text.stream import StreamDecoder
from martlet.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class TransformersBackend:
    """Draws samples with transformers' own `generate`.

    Args:
        model: A causal language model in evaluation mode; its generation config is replaced, since
            what it recommends is `default_params`, for the caller to apply.
        tokenizer: The model's tokenizer.
        identity: What answers.
        limits: `max_num_requests` is the size of a batch; 1 takes its place if padding changes what
            the model computes, which is tried here and told in a warning.
        default_params: What the model's folder recommends.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        identity: ModelIdentity,
        limits: BackendLimits,
        default_params: DefaultParams,
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.default_params = default_params
        self._model = model
        self._model.generation_config = GenerationConfig()
        self._vocab_size = model.get_input_embeddings().get_parameter("weight").shape[0]
        self._tokenizer = tokenizer
        self._grammars = GrammarCompiler(tokenizer, vocab_size=self._vocab_size)
        # A folder may name end tokens that its model has no logits for.
        self._own_stop_ids = tuple(i for i in tokenizer.stop_ids if 0 <= i < self._vocab_size)
        self._pad_id = next(iter(self._own_stop_ids), 0)  # masked, so any token will do
        self._waiting: dict[str, SampleRequest] = {}
        self._streaming: set[str] = set()
        self._deltas: list[SampleDelta] = []
        self._limit_batches()

    @property
    def tokenizer(self) -> Tokenizer:
        """See `Backend.tokenizer`."""
        return self._tokenizer

    @property
    def num_unfinished(self) -> int:
        """Requests that wait: between two polls none is being computed."""
        return len(self._waiting)

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """See `Backend.render`."""
        return render(prompt, self._tokenizer, vocab_size=self._vocab_size)

    def prepare(self, params: SamplingParams) -> None:
        """See `Backend.prepare`."""
        self._start_constraint(params)

    def submit(self, request: SampleRequest) -> None:
        """Takes a request into the queue.

        Raises:
            PromptTooLongError: If the prompt leaves no room for one token of reply.
            ParameterError: If the request's id is in use, a token id is not in the vocabulary, or
                `prompt_logprobs` is asked for.
        """
        limit, num_prompt_tokens = self.limits.max_context_tokens, len(request.prompt_ids)
        if num_prompt_tokens >= limit:
            raise PromptTooLongError(
                f"the prompt has {num_prompt_tokens} tokens and the context holds {limit}, the "
                "reply included; shorten the prompt"
            )
        if request.params.prompt_logprobs is not None:
            raise ParameterError(
                "prompt_logprobs is not available for this model: it runs on plain transformers"
            )
        if request.request_id in self._waiting:
            raise ParameterError(f"request id {request.request_id!r} is in use")
        if request.adapter is not None:
            raise ParameterError(
                f"adapter {request.adapter!r} cannot be used: this model runs on plain transformers"
            )
        params = request.params
        named_ids = (*request.prompt_ids, *(params.logit_bias or ()), *params.stop_token_ids)
        check_vocabulary(named_ids, vocab_size=self._vocab_size)
        self.prepare(params)
        self._waiting[request.request_id] = request
        if request.streams:
            self._streaming.add(request.request_id)

    def abort(self, request_id: str) -> None:
        """Gives a request up; `poll` will not return it. Unknown ids are ignored."""
        self._waiting.pop(request_id, None)
        self._streaming.discard(request_id)

    def poll(self) -> list[SampleOutput]:
        """Computes one batch, and returns all of its samples.

        If the model fails, every sample that is not done comes back with `finish_reason` "error".
        """
        requests = self._take_batch()
        if not requests:
            return []
        decoders = [self._new_decoder(request) for request in requests]
        try:
            self._generate(StaticBatch(requests, decoders))
        except Exception as error:  # a model's own code, which may raise anything
            logger.error("a batch of %d requests failed", len(requests), exc_info=error)
            for request in requests:
                if request.finish_reason is None:
                    request.finish_reason = "error"
                    request.error = f"{type(error).__name__}: {error}"
        return [self._read(*pair) for pair in zip(requests, decoders, strict=True)]

    def take_deltas(self) -> list[SampleDelta]:
        """See `Backend.take_deltas`; a reply is one piece here, as a batch ends all at once."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def close(self) -> None:
        """Frees the model; the backend is not used afterwards."""
        self._waiting.clear()
        del self._model

    def _read(self, request: Request, decoder: StreamDecoder) -> SampleOutput:
        decoder.flush()
        if request.request_id in self._streaming:
            self._streaming.remove(request.request_id)
            delta = to_delta(request, decoder.text, num_tokens=request.num_output_tokens)
            self._deltas.append(delta)
        return to_output(request, decoder)

    def _limit_batches(self) -> None:
        """Makes batches of one request if the model does not look past padding."""
        if self.limits.max_num_requests == 1:
            return
        fault = find_padding_fault(self._model, pad_id=self._pad_id, vocab_size=self._vocab_size)
        if fault is not None:
            self.limits = replace(self.limits, max_num_requests=1)
            logger.warning(
                "%s does not work with padded prompts (%s); it computes one request at a time, "
                "slower",
                self.identity.model,
                fault,
            )

    def _take_batch(self) -> list[Request]:
        """Takes the first waiting request, and with it those after it that fit beside it.

        A row that is done goes on until the last one is; past the context, some architectures fail
        for the whole batch.
        """
        batch: list[Request] = []
        for request in map(self._start, self._waiting.values()):
            if num_positions([*batch, request]) <= self.limits.max_context_tokens:
                batch.append(request)
            if len(batch) == self.limits.max_num_requests:
                break
        for request in batch:
            del self._waiting[request.request_id]
        return batch

    def _start(self, request: SampleRequest) -> Request:
        params, num_prompt_tokens = request.params, len(request.prompt_ids)
        num_left = self.limits.max_context_tokens - num_prompt_tokens
        own_stops = () if params.ignore_eos else self._own_stop_ids
        return Request(
            request_id=request.request_id,
            prompt_ids=request.prompt_ids,
            params=params,
            seed=request.seed,
            stop_ids=frozenset((*own_stops, *params.stop_token_ids)),
            max_num_tokens=num_prompt_tokens + min(num_left, params.max_tokens or num_left),
            constraint=self._start_constraint(params),
        )

    def _start_constraint(self, params: SamplingParams) -> TokenConstraint | None:
        if params.structured is None:
            return None
        return self._grammars.compile(params.structured).start()

    def _new_decoder(self, request: Request) -> StreamDecoder:
        return StreamDecoder(
            self._tokenizer,
            stop=request.params.stop,
            skip_special_tokens=request.params.skip_special_tokens,
            min_tokens=request.params.min_tokens,
        )

    def _generate(self, batch: StaticBatch) -> None:
        generate(
            self._model,
            batch.padded_prompts(self._pad_id, self._model.device),
            pad_id=self._pad_id,
            max_num_new_tokens=batch.max_num_new_tokens,
            processor=DrawnTokens(batch),
            criteria=[DoneRows(batch)],
        )
