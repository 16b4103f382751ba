"""What is looked at when a run has ended: parity with serving, and a few replies."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from martlet.backends.base import Prompt, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.native import NativeBackend
from martlet.backends.options import BackendOptions, DType
from martlet.engine.params import SamplingParams
from martlet.errors import AdapterError
from martlet.lora.provenance import Generation, ParityProof, Provenance
from martlet.models.folder import open_folder
from martlet.models.nf4 import write_as_nf4
from martlet.models.resolve import resolve
from martlet.train.base import TrainedModel
from martlet.train.batches import collate_for
from martlet.train.config import TrainConfig
from martlet.train.example import Completion, Conversation, Example
from martlet.train.lessons import Lessons, Split
from martlet.train.parity import (
    TOLERANCES,
    compare,
    mean_loss,
    score_by_engine,
    score_by_trainer,
)

ADAPTER_NAME = "trained"
NUM_ROWS = 64
"""Rows that are compared: enough for a mean, and seconds of work."""
_NUM_TOKENS = 256
"""Fewer are no ground for a mean that bf16 leaves alone."""
_NUM_GENERATIONS = 3
_MAX_REPLY_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a finished run was seen to do."""

    parity: ParityProof
    generations: tuple[Generation, ...]

    def into(self, provenance: Provenance) -> Provenance:
        """The provenance with this in it."""
        return replace(provenance, proof=self.parity, generations=self.generations)


def prove(
    config: TrainConfig,
    lessons: Lessons,
    trained: TrainedModel,
    folder: Path,
) -> Proof:
    """Serves what was written, and compares it with what is in the trainer's memory.

    Args:
        lessons: Whose rows to compare on, and the same as training had them.
        folder: What training wrote.
    """
    rows = _rows(lessons)
    by_trainer = score_by_trainer(trained, rows.sequences, collate_for(trained.base))
    adapter = None if config.tuner.full else ADAPTER_NAME
    with _base_as_trained(config, trained, folder) as base:
        try:
            backend = _serve(base, config, trained, folder)
        except AdapterError as error:
            return Proof(parity=_refused(str(error)), generations=())
        served = score_by_engine(backend, rows.examples, adapter=adapter)
        generations = _generate(backend, rows.examples[:_NUM_GENERATIONS], adapter)
        parity = compare(by_trainer, served, backend, tolerance=TOLERANCES[trained.computes_in])
        backend.close()
    if config.tuner.qlora and parity.passed:
        whole = _serve(config.model, config, trained, folder)
        on_whole_base = mean_loss(score_by_engine(whole, rows.examples, adapter=adapter))
        whole.close()
        parity = replace(parity, whole_base_loss=on_whole_base)
    return Proof(parity=parity, generations=generations)


def _rows(lessons: Lessons) -> Split:
    """Validation rows; where they are too few for rounding to cancel out, training rows as well."""
    rows = lessons.validation.head(NUM_ROWS)
    if sum(each.num_targets for each in rows.sequences) >= _NUM_TOKENS:
        return rows
    more = lessons.training.head(NUM_ROWS - len(rows.examples))
    return Split(
        examples=(*rows.examples, *more.examples), sequences=(*rows.sequences, *more.sequences)
    )


@contextmanager
def _base_as_trained(config: TrainConfig, trained: TrainedModel, folder: Path) -> Iterator[str]:
    """The base that was trained on; for QLoRA, with its weights as 4 bits leave them."""
    if config.tuner.full:
        yield str(folder)
    elif not config.tuner.qlora:
        yield config.model
    else:
        with tempfile.TemporaryDirectory(dir=folder, prefix="base-") as place:
            base = open_folder(resolve(config.model))
            write_as_nf4(base, Path(place), dtype=trained.computes_in)
            yield place


def _serve(base: str, config: TrainConfig, trained: TrainedModel, folder: Path) -> NativeBackend:
    """Loads what was written as a server would."""
    dtype: DType = "fp32" if trained.computes_in == torch.float32 else "bf16"
    options = BackendOptions(
        backend="native",
        dtype=dtype,
        chat_template=config.chat_template,
        adapters={} if config.tuner.full else {ADAPTER_NAME: str(folder)},
    )
    backend = load_backend(base, options=options)
    assert isinstance(backend, NativeBackend)
    return backend


def _refused(reason: str) -> ParityProof:
    nothing = float("nan")
    return ParityProof(
        passed=False,
        num_rows=0,
        num_tokens=0,
        trainer_loss=nothing,
        serving_loss=nothing,
        tolerance=0.0,
        reason=reason,
    )


def _generate(
    backend: NativeBackend,
    rows: Sequence[Example],
    adapter: str | None,
) -> tuple[Generation, ...]:
    """The likeliest replies to the last turns of a few rows."""
    prompts = [_question(row) for row in rows]
    for number, (prompt, _) in enumerate(prompts):
        ids = backend.render(prompt).token_ids
        room = backend.limits.max_context_tokens - len(ids)
        backend.submit(
            SampleRequest(
                request_id=str(number),
                prompt_ids=ids,
                params=SamplingParams(temperature=0.0, max_tokens=min(room, _MAX_REPLY_TOKENS)),
                seed=0,
                adapter=adapter,
            )
        )
    replies: dict[int, str] = {}
    while backend.num_unfinished:
        replies |= {int(each.request_id): each.text for each in backend.poll()}
    return tuple(
        Generation(prompt=backend.render(prompt).text, reply=replies[number], expected=expected)
        for number, (prompt, expected) in enumerate(prompts)
    )


def _question(row: Example) -> tuple[Prompt, str]:
    if isinstance(row, Completion):
        return Prompt(text=row.prompt), row.completion
    assert isinstance(row, Conversation)
    last = max(i for i, turn in enumerate(row.messages) if turn.get("role") == "assistant")
    before, reply = row.messages[:last], row.messages[last]
    return Prompt(messages=before, tools=row.tools), str(reply.get("content") or "")
