"""Plain `generate` for architectures that the native engine refuses: slower, and right.

Requests are computed in static batches, one batch a `poll`: a batch ends when its longest reply
does. It shares no prompt, keeps no keys between batches, and knows no adapters.
"""

import logging
from collections.abc import Callable
from itertools import islice
from typing import cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)

from martlet.backends.base import (
    BackendLimits,
    DefaultParams,
    ModelIdentity,
    Prompt,
    RenderedPrompt,
    SampleOutput,
    SampleRequest,
)
from martlet.backends.outputs import to_output
from martlet.backends.render import check_vocabulary, render
from martlet.backends.static_batch import DoneRows, DrawnTokens, StaticBatch
from martlet.engine.request import Request
from martlet.errors import ParameterError, PromptTooLongError
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
        limits: `max_num_requests` is the size of a batch.
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
        self._waiting: dict[str, SampleRequest] = {}

    @property
    def num_unfinished(self) -> int:
        """Requests that wait: between two polls none is being computed."""
        return len(self._waiting)

    def render(self, prompt: Prompt) -> RenderedPrompt:
        """See `Backend.render`."""
        return render(prompt, self._tokenizer, vocab_size=self._vocab_size)

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
        named_ids = (*request.prompt_ids, *(request.params.logit_bias or ()))
        check_vocabulary(named_ids, vocab_size=self._vocab_size)
        self._waiting[request.request_id] = request

    def abort(self, request_id: str) -> None:
        """Gives a request up; `poll` will not return it. Unknown ids are ignored."""
        self._waiting.pop(request_id, None)

    def poll(self) -> list[SampleOutput]:
        """Computes one batch, and returns all of its samples.

        If the model fails, every sample that is not done comes back with `finish_reason` "error".
        """
        first_ids = list(islice(self._waiting, self.limits.max_num_requests))
        requests = [self._start(self._waiting.pop(request_id)) for request_id in first_ids]
        if not requests:
            return []
        decoders = [self._new_decoder(request) for request in requests]
        try:
            self._generate(StaticBatch(requests, decoders))
        except Exception as error:
            logger.error("a batch of %d requests failed", len(requests), exc_info=error)
            for request in requests:
                if request.finish_reason is None:
                    request.finish_reason = "error"
                    request.error = f"{type(error).__name__}: {error}"
        return [to_output(*pair) for pair in zip(requests, decoders, strict=True)]

    def close(self) -> None:
        """Frees the model; the backend is not used afterwards."""
        self._waiting.clear()
        del self._model

    def _start(self, request: SampleRequest) -> Request:
        params, num_prompt_tokens = request.params, len(request.prompt_ids)
        num_left = self.limits.max_context_tokens - num_prompt_tokens
        own_stops = () if params.ignore_eos else self._tokenizer.stop_ids
        return Request(
            request_id=request.request_id,
            prompt_ids=request.prompt_ids,
            params=params,
            seed=request.seed,
            stop_ids=frozenset((*own_stops, *params.stop_token_ids)),
            max_num_tokens=num_prompt_tokens + min(num_left, params.max_tokens or num_left),
        )

    def _new_decoder(self, request: Request) -> StreamDecoder:
        return StreamDecoder(
            self._tokenizer,
            stop=request.params.stop,
            skip_special_tokens=request.params.skip_special_tokens,
            min_tokens=request.params.min_tokens,
        )

    @torch.inference_mode()
    def _generate(self, batch: StaticBatch) -> None:
        pad_id = next(iter(self._tokenizer.stop_ids), 0)  # masked, so any token will do
        input_ids, attention_mask = batch.padded_prompts(pad_id, self._model.device)
        config = GenerationConfig(
            max_new_tokens=batch.max_num_new_tokens, do_sample=False, pad_token_id=pad_id
        )
        # transformers has no public type for the models that can generate.
        generate = cast(Callable[..., Tensor], self._model.generate)
        generate(
            input_ids,
            attention_mask=attention_mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([DrawnTokens(batch)]),
            stopping_criteria=StoppingCriteriaList([DoneRows(batch)]),
        )
