"""What a run is about to do: every question rendered, measured, keyed, before any compute.

A sample is a function of the prompt's tokens, the parameters, the seed and the model. The key of a
question hashes just these and its id, so that a journal knows which samples still hold.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

from martlet.backends.base import Backend, ModelIdentity
from martlet.batch.parameters import EffectiveParams, ParamSources
from martlet.batch.questions import Question, UnusableQuestion, place_of
from martlet.batch.rows import Row
from martlet.engine.params import SamplingParams
from martlet.errors import InputError, PromptTooLongError
from martlet.text.context import TooLongPolicy, fit_prompt

_TOKEN_TYPE = "I"


@dataclass(frozen=True, kw_only=True)
class PlannedQuestion:
    """A question with all that decides its samples."""

    position: int
    """Its place among the items of the plan."""
    question: Question
    packed_prompt: bytes
    """The prompt's token ids at four bytes each: a plan holds every prompt of a file. Empty if
    only a server knows them."""
    num_dropped_tokens: int
    """Tokens cut from the left of the prompt to fit the model's context."""
    params: SamplingParams
    run_seed: int
    key: str
    """Names the question's samples in a journal."""

    @property
    def row(self) -> Row:
        """The row that asks it."""
        return self.question.row

    @property
    def index(self) -> int | None:
        """Its place in the row's `questions`; None if the row is the question."""
        return self.question.index

    @property
    def place(self) -> str:
        """Where the question stands, for people."""
        return place_of(self.row, self.index)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt's token ids."""
        return tuple(array(_TOKEN_TYPE, self.packed_prompt))

    @property
    def num_prompt_tokens(self) -> int:
        """How many there are."""
        return len(self.packed_prompt) // array(_TOKEN_TYPE).itemsize

    def seed_of(self, k: int) -> int:
        """The 64-bit seed of sample k: neither the row's place nor its neighbours matter."""
        name = json.dumps([self.run_seed, self.question.question_id, k])
        return int.from_bytes(sha256(name.encode()).digest()[:8], "big")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every question of a file in its order, with the reason of those that cannot be asked."""

    items: tuple[PlannedQuestion | UnusableQuestion, ...]
    effective: EffectiveParams
    """The run's parameters; a row may override some for itself."""

    @property
    def asked(self) -> list[PlannedQuestion]:
        """The questions that can be asked."""
        return [item for item in self.items if isinstance(item, PlannedQuestion)]

    @property
    def unusable(self) -> list[UnusableQuestion]:
        """The questions that cannot."""
        return [item for item in self.items if isinstance(item, UnusableQuestion)]

    @property
    def num_samples(self) -> int:
        """How many samples are drawn at most."""
        return sum(planned.params.n for planned in self.asked)

    def key_set_hash(self, verb: str) -> str:
        """Names what a result is made from, besides the number of samples."""
        keys = sorted(planned.key for planned in self.asked)
        return sha256("\n".join([verb, *keys]).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Renders, measures and keys questions for one model."""

    backend: Backend
    sources: ParamSources
    too_long: TooLongPolicy

    def plan(self, items: Iterable[Question | UnusableQuestion]) -> Plan:
        """Plans every question; whatever is wrong with one makes it unusable, and only it.

        Raises:
            ParameterError: If a parameter of the run itself is unknown, out of its range, or more
                than the backend can do.
        """
        effective = self.sources.resolve({}, self.backend.default_params)
        self.backend.prepare(effective.params)
        identity = _identity_of_samples(self.backend.identity)
        planned = (
            item
            if isinstance(item, UnusableQuestion)
            else self._plan_one(position, item, effective, identity)
            for position, item in enumerate(items)
        )
        return Plan(items=tuple(planned), effective=effective)

    def _plan_one(
        self,
        position: int,
        question: Question,
        effective: EffectiveParams,
        identity: Sequence[str],
    ) -> PlannedQuestion | UnusableQuestion:
        try:
            return self._rendered(position, question, effective, identity)
        except InputError as error:
            is_too_long = isinstance(error, PromptTooLongError)
            return UnusableQuestion(
                row=question.row,
                index=question.index,
                reason=str(error),
                is_allowed=is_too_long and self.too_long == "skip",
                is_too_long=is_too_long,
            )

    def _rendered(
        self,
        position: int,
        question: Question,
        effective: EffectiveParams,
        identity: Sequence[str],
    ) -> PlannedQuestion:
        if question.overrides:
            effective = self.sources.resolve(question.overrides, self.backend.default_params)
        params = effective.params
        self.backend.prepare(params)
        rendered = self.backend.render(question.prompt)
        fitted = fit_prompt(
            rendered.token_ids,
            max_context_tokens=self.backend.limits.max_context_tokens,
            max_tokens=params.max_tokens,
            policy=self.too_long,
            bos_id=rendered.bos_id,
        )
        packed_prompt = array(_TOKEN_TYPE, fitted.token_ids).tobytes()
        named_by = packed_prompt or rendered.text.encode()
        run_seed = params.seed or 0
        return PlannedQuestion(
            position=position,
            question=question,
            packed_prompt=packed_prompt,
            num_dropped_tokens=fitted.num_dropped,
            params=params,
            run_seed=run_seed,
            key=_key(question.question_id, named_by, params, run_seed, identity),
        )


def _identity_of_samples(identity: ModelIdentity) -> tuple[str, ...]:
    # A folder may move without a change of its samples, so a name counts only where there is no
    # hash. The chat template is in the prompt's tokens.
    return (
        identity.model_hash or identity.model,
        identity.adapter_hash or identity.adapter or "",
        identity.tokenizer_hash,
        identity.backend,
        identity.dtype,
    )


def _key(
    question_id: str,
    prompt: bytes,
    params: SamplingParams,
    run_seed: int,
    identity: Sequence[str],
) -> str:
    # Neither the number of samples nor how the seed was given changes sample k.
    values = asdict(replace(params, n=1, seed=None))
    head = json.dumps([question_id, run_seed, values, identity], sort_keys=True)
    return sha256(head.encode() + b"\0" + prompt).hexdigest()
