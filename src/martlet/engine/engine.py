"""The engine: token ids in, token ids out. Reading `step` tells how it works.

It owns the requests, the pool and the model. It knows nothing of text: words, templates and stop
strings belong to its callers. One thread calls it.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from martlet.engine.batch import LogitRows
from martlet.engine.config import EngineConfig
from martlet.engine.constraint import TokenConstraint
from martlet.engine.draws import StepDraws, draw_step
from martlet.engine.params import SamplingParams
from martlet.engine.plan import Chunk, StepPlan
from martlet.engine.request import FinishReason, Request
from martlet.engine.runner import StepRunner, new_runner
from martlet.engine.scheduler import Scheduler
from martlet.engine.stats import EngineStats, StepStats
from martlet.errors import ParameterError, PromptTooLongError
from martlet.lora.proof import probe_ids
from martlet.lora.revision import AdapterRevision
from martlet.lora.store import AdapterStore
from martlet.models.load import LoadedModel

logger = logging.getLogger(__name__)

CROWD = 128
"""Unfinished requests from which on compiling for a narrow model takes no longer than it saves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutput:
    """What one step did for one request."""

    request: Request
    token_ids: tuple[int, ...]
    """The tokens that were drawn: several where guesses were right, none where the request failed
    at once."""
    finish_reason: FinishReason | None
    """Set if the request ended with them."""


class Engine:
    """Draws the replies of many requests together.

    Args:
        model: A model that passed the load-time guard.
        config: Sizes; see `EngineConfig`.

    Raises:
        ParameterError: If a step may hold more tokens than the model computes rightly at once.
    """

    def __init__(self, model: LoadedModel, config: EngineConfig) -> None:
        limit = model.max_packed_tokens
        if limit is not None and config.max_num_batched_tokens > limit:
            raise ParameterError(
                f"max_num_batched_tokens={config.max_num_batched_tokens} must be at most {limit} "
                "for this model"
            )
        self.config = config
        self.stats = EngineStats()
        self.last_step: StepStats | None = None
        self._model = model
        self._scheduler = Scheduler(config)
        self._requests: dict[str, Request] = {}
        self._is_crowded = False
        """Whether there ever was a crowd."""
        self.adapters = AdapterStore(
            model, max_loaded=config.max_loaded_adapters, probe=self._probe
        )
        """Which adapters there are; to be changed between two steps."""
        self._runner = self._new_runner(config.num_blocks)

    @property
    def num_unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self._requests)

    def add(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        seed: int,
        stop_ids: Sequence[int] = (),
        constraint: TokenConstraint | None = None,
        adapter: str | None = None,
        num_candidates: int = 0,
    ) -> Request:
        """Queues one sample to draw.

        Args:
            request_id: Unique among the unfinished requests.
            prompt_ids: At least one token.
            params: `n` and `seed` are not looked at; one call draws one sample.
            seed: The draw of a token depends on this and on its position alone.
            stop_ids: The model's own end tokens; `params.ignore_eos` switches them off.
            constraint: What may be drawn, where the reply must have a form; changed as it grows.
            adapter: One of `adapters`, by name; its newest revision serves the request to the end.
                None is the base.
            num_candidates: How many rivals of each drawn token `logprobs` is to follow through
                the steps before the draw.

        Raises:
            PromptTooLongError: If no room is left for a single token of reply.
            ParameterError: If the prompt is empty, an id is not in the vocabulary or in use.
            NotFoundError: If no adapter has the name.
            AdapterError, BusyError, ResourceError: If the adapter was put out of memory and cannot
                be read again; see `AdapterStore.acquire`.
        """
        self._check(request_id, prompt_ids, params)
        num_left = self.config.max_context_tokens - len(prompt_ids)
        # A folder may name end tokens that its model has no logits for.
        own_stops = () if params.ignore_eos else [i for i in stop_ids if i < self._model.vocab_size]
        revision = None if adapter is None else self.adapters.acquire(adapter)
        request = Request(
            request_id=request_id,
            prompt_ids=tuple(prompt_ids),
            params=params,
            seed=seed,
            stop_ids=frozenset((*own_stops, *params.stop_token_ids)),
            max_num_tokens=len(prompt_ids) + min(num_left, params.max_tokens or num_left),
            constraint=constraint,
            adapter=revision,
            namespace="" if revision is None else revision.namespace,
            num_candidates=num_candidates,
        )
        self._requests[request_id] = request
        self._scheduler.add(request)
        return request

    def abort(self, request_id: str) -> None:
        """Gives a request up and frees its blocks; unknown ids are ignored."""
        self.finish(request_id, "abort")

    def finish(
        self, request_id: str, reason: FinishReason, *, stop_reason: str | None = None
    ) -> None:
        """Ends a request from outside, as a stop string does; unknown ids are ignored."""
        request = self._requests.get(request_id)
        if request is not None:
            self._end(request, reason, stop_reason=stop_reason)

    def step(self) -> list[StepOutput]:
        """Advances every request that has a share in this step.

        Returns:
            One output for each request that got a token, or failed. A step that raises fails the
            requests that were in it, frees their blocks, and leaves the engine usable. So does an
            interrupt, which goes on to the caller. Where the device has no memory for a step, the
            output is empty and later steps are smaller.
        """
        if self.num_unfinished >= CROWD and not self._is_crowded:
            self._make_ready_for_crowd()
        start = time.perf_counter()
        plan = self._scheduler.plan()
        if not plan:
            return []
        try:
            rows, logits = self._runner.run(plan)
            draws = draw_step(logits, rows)
        except torch.OutOfMemoryError as error:
            return self._retreat(plan, error)
        except BaseException as error:
            outputs = self._fail(plan, error)
            if not isinstance(error, Exception):
                raise
            return outputs
        self._clean(rows, logits.values)
        outputs = self._commit(plan, rows, draws)
        self._record(plan, outputs, time.perf_counter() - start)
        return outputs

    def check_integrity(self) -> None:
        """Raises AssertionError if requests, blocks, prefix index and adapters contradict."""
        self._scheduler.check_integrity()
        assert self._scheduler.num_unfinished == len(self._requests)
        held = (request.adapter for request in self._requests.values())
        self.adapters.check_integrity(adapter for adapter in held if adapter is not None)

    def _make_ready_for_crowd(self) -> None:
        self._is_crowded = True
        self._model.compile_for_crowd()
        self._runner.cache.lay_out_anew(self._scheduler.pool.kept_blocks())

    def _check(self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        limit = self.config.max_context_tokens
        if request_id in self._requests:
            raise ParameterError(f"request id {request_id!r} is in use")
        if not prompt_ids:
            raise ParameterError("the prompt is empty; give at least one token")
        if len(prompt_ids) >= limit:
            raise PromptTooLongError(
                f"the prompt has {len(prompt_ids)} tokens and the context holds {limit}, "
                "the reply included; shorten the prompt or raise --max-context"
            )
        vocab_size = self._model.vocab_size
        named = [*prompt_ids, *(params.logit_bias or ()), *params.stop_token_ids]
        if not 0 <= min(named) <= max(named) < vocab_size:
            bad = next(i for i in named if not 0 <= i < vocab_size)
            raise ParameterError(f"token id {bad} is not in the vocabulary: 0 to {vocab_size - 1}")

    def _probe(self, adapter: AdapterRevision | None) -> Tensor:
        """The logits of the probe's prompt, `[T, V]`, with an adapter or without."""
        return self.logits(tuple(probe_ids(self._model.vocab_size)), adapter)

    def logits(self, prompt: tuple[int, ...], adapter: AdapterRevision | None = None) -> Tensor:
        """The logits of every position of a prompt, with an adapter or without.

        It goes the way of every request, but through a cache of its own.

        Args:
            prompt: T token ids, no more than a step may hold.
            adapter: One whose layers are in place.

        Returns:
            `[T, V]`.
        """
        request = Request(
            request_id="probe",
            prompt_ids=prompt,
            params=SamplingParams(),
            seed=0,
            stop_ids=frozenset(),
            max_num_tokens=len(prompt),
            adapter=adapter,
        )
        num_blocks = -(-len(prompt) // self.config.block_size)
        chunk = Chunk(
            request=request,
            start=0,
            num_tokens=len(prompt),
            block_ids=tuple(range(num_blocks)),
            samples=False,
            scores_prompt=True,
        )
        plan = StepPlan(chunks=(chunk,))
        return self._new_runner(num_blocks, is_probe=True).run(plan)[1].values

    def _new_runner(self, num_blocks: int, *, is_probe: bool = False) -> StepRunner:
        return new_runner(
            self._model,
            self.config,
            self.adapters.step,
            num_blocks=num_blocks,
            is_probe=is_probe,
        )

    def _clean(self, rows: LogitRows, logits: Tensor) -> None:
        """Zeroes what drafts left in the pool if it is not finite.

        Nobody looks at the keys and values of a wrong guess, but a masked key has the weight 0, and
        0 times NaN is NaN. What is not finite spoils every logit of its row.
        """
        if not rows.num_drafted_rows:
            return
        is_spoiled = ~logits[len(logits) - rows.num_drafted_rows :, 0].isfinite()
        if is_spoiled.any():
            slots = torch.tensor(rows.draft_slots(self.config.block_size), device=logits.device)
            self._runner.cache.clear_slots(slots[is_spoiled])

    def _commit(self, plan: StepPlan, rows: LogitRows, draws: StepDraws) -> list[StepOutput]:
        """Writes what was computed into the requests, and ends those that are done."""
        self._scheduler.commit(plan)
        for chunk, token_ids in zip(rows.sampled, draws.token_ids, strict=True):
            chunk.request.num_drafted_tokens += len(chunk.draft)
            chunk.request.num_accepted_tokens += max(len(token_ids) - 1, 0)
        for chunk, scores in zip(rows.scored, draws.prompt_logprobs, strict=True):
            chunk.request.prompt_logprobs.extend(scores)
        return [
            self._settle(chunk.request, token_ids)
            for chunk, token_ids in zip(rows.sampled, draws.token_ids, strict=True)
            if token_ids or chunk.request.error is not None
        ]

    def _settle(self, request: Request, token_ids: Sequence[int]) -> StepOutput:
        """Ends a request if nothing can follow what it drew."""
        reason = request.reached_end if request.error is None else "error"
        if reason == "error":
            self._end_poisoned(request)
        elif reason is not None:
            last = token_ids[-1]
            self._end(request, reason, stop_reason=last if last in request.stop_ids else None)
        return StepOutput(request=request, token_ids=tuple(token_ids), finish_reason=reason)

    def _end_poisoned(self, request: Request) -> None:
        """Ends a request alone that nothing could be drawn for, and cleans the blocks it held.

        A masked key has the weight 0, and 0 times NaN is NaN: left as they are, the blocks would
        spoil whoever holds them next.
        """
        blocks = list(request.block_table)
        self._scheduler.pool.forget(blocks)
        self._end(request, "error")
        self._runner.cache.clear([block for block in blocks if self._scheduler.pool.is_free(block)])

    def _retreat(self, plan: StepPlan, error: torch.OutOfMemoryError) -> list[StepOutput]:
        """Goes on with smaller steps, if the one that the device had no memory for can be cut."""
        max_num_tokens = self._scheduler.retreat(plan)
        if max_num_tokens is None:
            return self._fail(plan, error)
        logger.warning(
            "the device had no memory for a step of %d tokens; they hold at most %d from now on",
            plan.num_tokens,
            max_num_tokens,
        )
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return []

    def _fail(self, plan: StepPlan, error: BaseException) -> list[StepOutput]:
        logger.error("a step of %d requests failed", len(plan.chunks), exc_info=error)
        self.stats.num_failed_steps += 1
        failed = self._scheduler.fail(plan, f"{type(error).__name__}: {error}")
        for request in failed:
            self._forget(request)
        return [
            StepOutput(request=request, token_ids=(), finish_reason="error") for request in failed
        ]

    def _end(
        self, request: Request, reason: FinishReason, *, stop_reason: int | str | None = None
    ) -> None:
        self._scheduler.finish(request, reason, stop_reason=stop_reason)
        self._forget(request)

    def _forget(self, request: Request) -> None:
        del self._requests[request.request_id]
        if request.adapter is not None:
            self.adapters.release(request.adapter)

    def _record(self, plan: StepPlan, outputs: Sequence[StepOutput], seconds: float) -> None:
        num_drawn = [len(output.token_ids) for output in outputs]
        self.last_step = StepStats(
            num_tokens=plan.num_tokens,
            num_drawn=sum(num_drawn),
            num_drafted=plan.num_drafted,
            num_accepted=sum(max(num - 1, 0) for num in num_drawn),
            num_attended=sum(chunk.end for chunk in plan.chunks),
            num_running=len(self._scheduler.running),
            num_waiting=len(self._scheduler.waiting),
            num_preempted=plan.num_preempted,
            num_free_blocks=self._scheduler.pool.num_free,
            seconds=seconds,
        )
        self.stats.add(self.last_step)
        self.stats.num_cached_tokens += plan.num_cached_tokens
