"""Who computes what in the next step. Knows requests and blocks; knows no tensor.

There are no phases. Every request has tokens that are known and tokens that are computed; each
step gives it a share of the token budget to catch up. A prompt in chunks, one token of a reply and
a preempted request starting over are the same thing.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from martlet.engine.block_pool import BlockPool, block_key, root_key
from martlet.engine.config import EngineConfig
from martlet.engine.draft import MAX_DRAFTING_REQUESTS
from martlet.engine.plan import Chunk, StepPlan
from martlet.engine.request import FinishReason, Request, RequestStatus


class Scheduler:
    """Admits requests in order of arrival and shares the token budget of each step among them."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._max_num_tokens = config.max_num_batched_tokens
        self.pool = BlockPool(config.num_blocks)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    @property
    def num_unfinished(self) -> int:
        return len(self.waiting) + len(self.running)

    def requests(self) -> Iterator[Request]:
        """Every unfinished request."""
        yield from self.running
        yield from self.waiting

    def add(self, request: Request) -> None:
        """Puts a request at the end of the queue."""
        self.waiting.append(request)

    def plan(self) -> StepPlan:
        """Shares the token budget: running requests first, then those that wait.

        Blocks are taken and full ones registered here already: within a step, keys and values are
        written before they are read, so two requests that start together share their beginning.
        """
        budget = self._max_num_tokens
        chunks: list[Chunk] = []
        num_preempted = self._plan_running(chunks, budget)
        num_running, num_cached_tokens = len(self.running), 0
        if num_preempted == 0:
            budget -= sum(chunk.num_tokens for chunk in chunks)
            num_cached_tokens = self._plan_waiting(chunks, budget)
            if self._config.speculation:
                self._plan_drafts(chunks)
        return StepPlan(
            chunks=tuple(chunks),
            num_admitted=len(self.running) - num_running,
            num_preempted=num_preempted,
            num_cached_tokens=num_cached_tokens,
        )

    def commit(self, plan: StepPlan) -> None:
        """Takes note of what a step computed; what it drew is in the requests already.

        A guess that came true is computed as if it had been known, and its blocks can be shared
        from now on. The next step writes over the others.
        """
        for chunk in plan.chunks:
            request = chunk.request
            request.num_computed_tokens = request.num_tokens - 1 if chunk.samples else chunk.end
            self._register_full_blocks(request, chunk.known_end, request.num_computed_tokens)

    def finish(
        self, request: Request, reason: FinishReason, *, stop_reason: int | str | None = None
    ) -> None:
        """Ends a request, wherever it stands, and frees its blocks."""
        if request.status is RequestStatus.RUNNING:
            self.running.remove(request)
        elif request.status is RequestStatus.WAITING:
            self.waiting.remove(request)
        self._free_blocks(request)
        request.status = RequestStatus.FINISHED
        request.finish_reason = reason
        request.stop_reason = stop_reason

    def fail(self, plan: StepPlan, error: str) -> list[Request]:
        """Ends every request of a step that raised, and forgets what the step did not write."""
        failed = [chunk.request for chunk in plan.chunks if not chunk.request.is_finished]
        for chunk in plan.chunks:
            if chunk.samples:  # What it drew is not told any more.
                chunk.request.drop(chunk.request.num_tokens - chunk.known_end)
        self._forget_unwritten(plan)
        for request in failed:
            request.error = error
            self.finish(request, "error")
        return failed

    def retreat(self, plan: StepPlan) -> int | None:
        """Undoes a plan that the device had no memory for, and holds later ones to half of it.

        Requests that began with it go back to the queue: they may count on blocks that others were
        to write in the same step.

        Returns:
            How many tokens a step may hold from now on; None if the plan cannot be halved, or has
            drawn something already.
        """
        has_drawn = any(c.samples and c.request.num_tokens > c.known_end for c in plan.chunks)
        if plan.num_tokens < 2 or has_drawn:
            return None
        self._max_num_tokens = plan.num_tokens // 2
        self._forget_unwritten(plan)
        num_kept = min(len(self.running) - plan.num_admitted, self._max_num_tokens)
        while len(self.running) > num_kept:
            self._preempt_youngest()
        return self._max_num_tokens

    def _forget_unwritten(self, plan: StepPlan) -> None:
        for chunk in plan.chunks:
            first_unwritten = chunk.start // self._config.block_size
            self.pool.forget(chunk.block_ids[first_unwritten:])

    def check_integrity(self) -> None:
        """Raises AssertionError if the books of requests and blocks contradict each other."""
        self.pool.check_integrity(request.block_table for request in self.requests())
        for request in self.waiting:
            assert request.status is RequestStatus.WAITING
            assert not request.block_table, f"{request.request_id} waits and holds blocks"
        for request in self.running:
            assert request.status is RequestStatus.RUNNING
            assert request.num_computed_tokens <= request.num_tokens
            num_slots = len(request.block_table) * self._config.block_size
            assert request.num_computed_tokens <= num_slots, f"{request.request_id} lacks blocks"
            self._check_registered(request)

    def _check_registered(self, request: Request) -> None:
        size = self._config.block_size
        for index, block in enumerate(request.block_table):
            content = self.pool.content(block)
            own = tuple(request.token_ids[index * size : (index + 1) * size])
            assert content in (None, own), f"block {block} is registered with other tokens"

    def _plan_running(self, chunks: list[Chunk], budget: int) -> int:
        """Gives each running request its share, preempting the youngest if blocks run out."""
        num_preempted = 0
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            num_tokens = min(request.num_tokens - request.num_computed_tokens, budget)
            while not self._extend(request, num_tokens):
                num_preempted += 1
                if self._preempt_youngest() is request:
                    return num_preempted
            chunks.append(self._chunk(request, num_tokens))
            budget -= num_tokens
            index += 1
        return num_preempted

    def _plan_waiting(self, chunks: list[Chunk], budget: int) -> int:
        """Admits requests in order while tokens, blocks and places last."""
        num_cached_tokens = 0
        while self.waiting and budget > 0 and len(self.running) < self._config.max_num_requests:
            request = self.waiting[0]
            shared = self._find_shared(request)
            if not self._has_room(request, shared):
                break
            for block in shared:
                self.pool.hold(block)
            request.block_table = shared
            request.num_computed_tokens = len(shared) * self._config.block_size
            num_cached_tokens += request.num_computed_tokens
            if request.num_preemptions == 0:
                request.num_cached_tokens = request.num_computed_tokens
            num_tokens = min(request.num_tokens - request.num_computed_tokens, budget)
            self._extend(request, num_tokens)
            self.waiting.popleft()
            self.running.append(request)
            request.status = RequestStatus.RUNNING
            chunks.append(self._chunk(request, num_tokens))
            budget -= num_tokens
        return num_cached_tokens

    def _plan_drafts(self, chunks: list[Chunk]) -> None:
        """Lets decoding requests compute guesses too, as far as the budget lasts."""
        budget = self._max_num_tokens - sum(chunk.num_tokens for chunk in chunks)
        num_requests = sum(chunk.samples for chunk in chunks)
        if num_requests > MAX_DRAFTING_REQUESTS:
            return
        for index, chunk in enumerate(chunks):
            if chunk.samples and chunk.num_tokens == 1:
                chunks[index] = self._with_draft(chunk, num_requests, budget)
                budget -= len(chunks[index].draft)

    def _with_draft(self, chunk: Chunk, num_requests: int, budget: int) -> Chunk:
        request = chunk.request
        num_left = request.max_num_tokens - request.num_tokens - 1  # One is drawn in any case.
        draft = request.drafter.draft(
            request.token_ids, num_requests=num_requests, max_tokens=min(num_left, budget)
        )
        end = chunk.end + len(draft)
        num_blocks = self._num_blocks(end) - len(request.block_table)
        # Every running request may need a block for its next token; none gives way to a guess.
        if not draft or self.pool.num_free - num_blocks < len(self.running) * (num_blocks > 0):
            return chunk
        request.block_table.extend(self.pool.take(max(0, num_blocks)) or ())
        return replace(
            chunk,
            num_tokens=chunk.num_tokens + len(draft),
            block_ids=tuple(request.block_table[: self._num_blocks(end)]),
            draft=draft,
        )

    def _find_shared(self, request: Request) -> list[int]:
        """Blocks in the pool that hold the beginning of a request.

        At least the last token is left to compute: its logits are what the request waits for. A
        request that wants the prompt scored needs the logits of every position and shares nothing.
        """
        if not self._config.prefix_sharing or request.wants_prompt_logprobs:
            return []
        size = self._config.block_size
        shared: list[int] = []
        for index in range((request.num_tokens - 1) // size):
            self._compute_keys(request, index + 1)
            parent = request.block_keys[index - 1] if index else root_key(request.namespace)
            token_ids = request.token_ids[index * size : (index + 1) * size]
            block = self.pool.find(request.block_keys[index], parent, token_ids)
            if block is None:
                break
            shared.append(block)
        return shared

    def _has_room(self, request: Request, shared: list[int]) -> bool:
        """Whether all tokens known now would fit, and room is left for the replies to grow."""
        num_needed = self._num_blocks(request.num_tokens) - len(shared)
        num_needed += self._config.headroom_blocks * len(self.running)
        num_shared_free = sum(self.pool.is_free(block) for block in shared)
        return self.pool.num_free - num_shared_free >= num_needed

    def _extend(self, request: Request, num_tokens: int) -> bool:
        """Gets the blocks for the next tokens of a request; False if the pool is exhausted."""
        end = request.num_computed_tokens + num_tokens
        num_new = self._num_blocks(end) - len(request.block_table)
        if num_new > 0:
            taken = self.pool.take(num_new)
            if taken is None:
                return False
            request.block_table.extend(taken)
        self._register_full_blocks(request, request.num_computed_tokens, end)
        return True

    def _register_full_blocks(self, request: Request, start: int, end: int) -> None:
        """Makes the blocks that become full between two positions findable."""
        size = self._config.block_size
        num_full = end // size
        if num_full == start // size or not self._config.prefix_sharing:
            return
        self._compute_keys(request, num_full)
        for index in range(start // size, num_full):
            parent = request.block_keys[index - 1] if index else root_key(request.namespace)
            token_ids = request.token_ids[index * size : (index + 1) * size]
            self.pool.register(
                request.block_table[index], request.block_keys[index], parent, token_ids
            )

    def _compute_keys(self, request: Request, count: int) -> None:
        size = self._config.block_size
        keys = request.block_keys
        while len(keys) < count:
            parent = keys[-1] if keys else root_key(request.namespace)
            start = len(keys) * size
            keys.append(block_key(parent, request.token_ids[start : start + size]))

    def _preempt_youngest(self) -> Request:
        """Sends the request that was admitted last back to the head of the queue."""
        request = self.running.pop()
        self._free_blocks(request)
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        if request.wants_prompt_logprobs:
            request.prompt_logprobs.clear()
        request.status = RequestStatus.WAITING
        self.waiting.appendleft(request)
        return request

    def _free_blocks(self, request: Request) -> None:
        self.pool.release(request.block_table)
        request.block_table = []

    def _chunk(self, request: Request, num_tokens: int) -> Chunk:
        end = request.num_computed_tokens + num_tokens
        return Chunk(
            request=request,
            start=request.num_computed_tokens,
            num_tokens=num_tokens,
            block_ids=tuple(request.block_table[: self._num_blocks(end)]),
            samples=end == request.num_tokens,
            scores_prompt=request.wants_prompt_logprobs,
        )

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._config.block_size)
