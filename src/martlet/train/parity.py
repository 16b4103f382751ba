"""The proof at the end of a run: what was trained is what is served.

The trainer's model scores rows as it was trained on them. The serving engine scores the same rows
its own way: template, tokenizer, mask, adapter, all loaded anew from what was written. Ids and
masks must be equal and the losses agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from martlet.backends.base import SampleRequest
from martlet.backends.native import NativeBackend
from martlet.engine.params import SamplingParams
from martlet.lora.provenance import ParityProof
from martlet.train.base import TrainedModel
from martlet.train.batches import Collate
from martlet.train.encoding import EncodedExample, Encoder
from martlet.train.example import Example, Preference
from martlet.train.sft import losses_of

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 1e-2}
"""The largest difference of mean losses, in nats, by the lower of the two precisions."""
_MANIFEST = 20
"""A token whose own difference is this many tolerances is worth naming."""


@dataclass(frozen=True, kw_only=True)
class ScoredExample:
    """A sequence and the loss of each of its targets."""

    example: EncodedExample
    losses: tuple[float, ...]


def score_by_trainer(
    trained: TrainedModel, examples: Sequence[EncodedExample], collate: Collate
) -> list[ScoredExample]:
    """Scores sequences with the model in the trainer's memory."""
    module = trained.module
    was_training = module.training
    module.eval()
    scored = []
    for example in examples:
        inputs = {name: each.to(trained.base.device) for name, each in collate([example]).items()}
        labels = inputs.pop("labels")
        with (
            torch.no_grad(),
            torch.autocast(
                trained.base.device.type,
                trained.computes_in,
                enabled=trained.computes_in != torch.float32,
            ),
        ):
            losses = losses_of(module(**inputs), labels)
        scored.append(ScoredExample(example=example, losses=tuple(losses.tolist())))
    module.train(was_training)
    return scored


def score_by_engine(
    backend: NativeBackend,
    rows: Sequence[Example],
    *,
    adapter: str | None,
) -> list[ScoredExample]:
    """Scores rows with the serving engine, encoded by the tokenizer that serves."""
    encoder = Encoder(backend.tokenizer)
    examples = [
        each for row in rows if not isinstance(row, Preference) for each in encoder.encode(row)
    ]
    params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0)
    for number, example in enumerate(examples):
        backend.submit(
            SampleRequest(
                request_id=str(number),
                prompt_ids=example.token_ids,
                params=params,
                seed=0,
                adapter=adapter,
            )
        )
    number_to_losses: dict[int, tuple[float, ...]] = {}
    while backend.num_unfinished:
        for output in backend.poll():
            number = int(output.request_id)
            example = examples[number]
            logprobs = output.prompt_logprobs or ()
            number_to_losses[number] = tuple(
                -scores[token_id].logprob
                for token_id, scores, is_target in zip(
                    example.token_ids, logprobs, example.is_target, strict=True
                )
                if is_target and scores is not None
            )
    return [
        ScoredExample(example=example, losses=number_to_losses[number])
        for number, example in enumerate(examples)
    ]


def compare(
    trained: Sequence[ScoredExample],
    served: Sequence[ScoredExample],
    backend: NativeBackend,
    *,
    tolerance: float,
) -> ParityProof:
    """Compares what two ways of scoring the same rows gave.

    Args:
        backend: Its tokenizer puts a difference into words.
        tolerance: The largest difference of the mean losses, in nats.
    """
    trainer_loss, serving_loss = mean_loss(trained), mean_loss(served)
    reason = _difference_in_ids(trained, served, backend)
    if not reason and not abs(trainer_loss - serving_loss) <= tolerance:
        reason = (
            f"the trainer's loss is {trainer_loss:.4f} and the engine's {serving_loss:.4f}, more "
            f"than {tolerance:g} apart; {_first_difference(trained, served, backend, tolerance)}"
        )
    return ParityProof(
        passed=not reason,
        num_rows=len({str(each.example.origin) for each in served}),
        num_tokens=sum(len(each.losses) for each in served),
        trainer_loss=trainer_loss,
        serving_loss=serving_loss,
        tolerance=tolerance,
        reason=reason,
    )


def mean_loss(scored: Sequence[ScoredExample]) -> float:
    """The mean loss of a target, in nats."""
    losses = [loss for each in scored for loss in each.losses]
    return sum(losses) / max(1, len(losses))


def _difference_in_ids(
    trained: Sequence[ScoredExample], served: Sequence[ScoredExample], backend: NativeBackend
) -> str:
    if len(trained) != len(served):
        return f"training saw {len(trained)} sequences where serving sees {len(served)}"
    for one, other in zip(trained, served, strict=True):
        ours, theirs = one.example, other.example
        pairs = zip(ours.token_ids, theirs.token_ids, strict=False)
        if ours.token_ids != theirs.token_ids:
            place = next((i for i, (a, b) in enumerate(pairs) if a != b), -1)
            if place < 0:
                return (
                    f"{ours.origin}: training saw {len(ours.token_ids)} tokens where serving sees "
                    f"{len(theirs.token_ids)}; one is the beginning of the other"
                )
            return (
                f"{ours.origin}, token {place}: training saw "
                f"{_named(ours.token_ids[place], backend)} where serving sees "
                f"{_named(theirs.token_ids[place], backend)}"
            )
        if ours.is_target != theirs.is_target:
            flags = zip(ours.is_target, theirs.is_target, strict=True)
            place = next(i for i, (a, b) in enumerate(flags) if a != b)
            learned, written = ("learned", "context")[:: 1 if ours.is_target[place] else -1]
            return (
                f"{ours.origin}, token {place} ({_named(ours.token_ids[place], backend)}): "
                f"training took it as {learned}, in serving it is {written}: the loss mask is off"
            )
    return ""


def _first_difference(
    trained: Sequence[ScoredExample],
    served: Sequence[ScoredExample],
    backend: NativeBackend,
    tolerance: float,
) -> str:
    for one, other in zip(trained, served, strict=True):
        places = [i for i, flag in enumerate(one.example.is_target) if flag and i]
        for place, ours, theirs in zip(places, one.losses, other.losses, strict=True):
            if not abs(ours - theirs) <= _MANIFEST * tolerance:
                return (
                    f"the first token that differs is {one.example.origin}, token {place}, "
                    f"{_named(one.example.token_ids[place], backend)}: loss {ours:.3f} in "
                    f"training, {theirs:.3f} served"
                )
    return "many tokens differ a little"


def _named(token_id: int, backend: NativeBackend) -> str:
    text = backend.tokenizer.decode([token_id], skip_special_tokens=False)
    return f"{text!r} ({token_id})"
