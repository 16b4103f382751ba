"""`swift sft`: fine-tuning, with the defaults that the tool had where they decide the result."""

from pathlib import Path

import typer

from martlet.compat.flags import Flag, FlagTable, Given, said, truth
from martlet.compat.swift.checkpoint import MODEL_FLAGS, checkpoint_of
from martlet.compat.swift.self_cognition import write_self_cognition
from martlet.compat.verbs import Verb
from martlet.errors import ParameterError

_ALL = ("ALL", "DEFAULT", "AUTO")
_SCHEDULES = ("cosine", "linear", "constant")
_TOO_LONG = {"delete": "skip", "truncation_left": "truncate-left"}

_DATA = (
    Flag(name="dataset", explanation="Files of rows, or data sets of a hub.", many=True),
    Flag(
        name="train_dataset_sample",
        explanation="How many rows of the data set are taken; -1 takes all.",
        kind=int,
        default=-1,
    ),
    Flag(name="custom_train_dataset_path", explanation="More files of rows.", many=True),
    Flag(
        name="custom_val_dataset_path",
        explanation="A file of validation rows.",
        modern="--validation",
    ),
    Flag(
        name="dataset_test_ratio",
        explanation="Share of the rows that is kept for validation; 0.01 unless a file is given.",
    ),
    Flag(
        name="max_length",
        explanation="Tokens of a row, at most.",
        kind=int,
        default=2048,
        modern="--max-length",
    ),
    Flag(
        name="truncation_strategy",
        explanation="What becomes of a longer row.",
        choices=tuple(_TOO_LONG),
        default="delete",
    ),
    Flag(
        name="self_cognition_sample",
        explanation="So many rows that teach the model its name and author.",
        kind=int,
        default=0,
    ),
    Flag(name="model_name", explanation="The name, in Chinese and in English.", many=True),
    Flag(name="model_author", explanation="The author, in Chinese and in English.", many=True),
)
_TUNER = (
    Flag(
        name="sft_type",
        explanation="An adapter, or all weights.",
        choices=("lora", "full"),
        default="lora",
    ),
    Flag(
        name="lora_target_modules",
        explanation="Modules to adapt; ALL, like none, takes all linear layers.",
        many=True,
    ),
    Flag(
        name="lora_rank",
        explanation="Rank of the adapter.",
        kind=int,
        default=8,
        modern="--rank",
    ),
    Flag(
        name="lora_alpha",
        explanation="Scale of the adapter.",
        kind=float,
        default=32,
        modern="--alpha",
    ),
    Flag(
        name="lora_dropout_p",
        explanation="Share of the adapter's inputs that are dropped.",
        kind=float,
        default=0.05,
        modern="--dropout",
    ),
    Flag(
        name="quantization_bit",
        explanation="4 holds the base in 4 bits (QLoRA).",
        choices=("0", "4"),
        default="0",
    ),
)
_STEPS = (
    Flag(
        name="num_train_epochs",
        explanation="Passes over the rows.",
        kind=float,
        default=1,
        modern="--epochs",
    ),
    Flag(name="max_steps", explanation="Stop after so many.", kind=int, modern="--max-steps"),
    Flag(
        name="batch_size",
        explanation="Rows computed at once.",
        kind=int,
        default=1,
        modern="--batch-size",
    ),
    Flag(
        name="gradient_accumulation_steps",
        explanation="Batches a step.",
        kind=int,
        default=16,
        modern="--accumulation",
    ),
    Flag(
        name="learning_rate",
        explanation="The highest one; unless given, 1e-4, and 1e-5 for all weights.",
        kind=float,
    ),
    Flag(
        name="lr_scheduler_type",
        explanation="How it falls.",
        choices=_SCHEDULES,
        default="linear",
        modern="--schedule",
    ),
    Flag(
        name="warmup_ratio",
        explanation="Share of the steps in which it rises.",
        kind=float,
        default=0.05,
        modern="--warmup",
    ),
    Flag(
        name="weight_decay",
        explanation="Pull of the weights towards zero.",
        kind=float,
        default=0.1,
        modern="--weight-decay",
    ),
    Flag(
        name="max_grad_norm",
        explanation="Longer gradients are shortened to this.",
        kind=float,
        default=0.5,
        modern="--max-gradient-norm",
    ),
    Flag(
        name="gradient_checkpointing",
        explanation="Compute activations again in the backward pass.",
        kind=truth,
        modern="--checkpointing",
    ),
    Flag(name="seed", explanation="Of weights and order.", kind=int, default=42, modern="--seed"),
)
_KEPT = (
    Flag(name="output_dir", explanation="Where runs go.", default="output"),
    Flag(
        name="eval_steps",
        explanation="Steps between two looks at the validation rows.",
        kind=int,
        default=50,
        modern="--evaluate-every",
    ),
    Flag(
        name="save_steps",
        explanation="Steps between two checkpoints.",
        kind=int,
        default=50,
        modern="--save-every",
    ),
    Flag(
        name="logging_steps",
        explanation="Steps between two lines of the log.",
        kind=int,
        moot="metrics.jsonl holds the loss of every step",
    ),
)
SFT = FlagTable(
    command="swift sft",
    purpose="Fine-tune a model on rows.",
    flags=(*MODEL_FLAGS[:2], *_DATA, *_TUNER, *_STEPS, *_KEPT),
)


def sft(given: Given) -> list[Verb]:
    """The modern command; rows of self-cognition are written first.

    Raises:
        ParameterError: If no rows are named, or a sample of several data sets.
        InputError: If the file of self-cognition holds something else.
    """
    base = checkpoint_of({**given, "ckpt_dir": None})
    out = Path(given["output_dir"]) / base.name
    options = [
        *SFT.straight(given),
        *said("--learning-rate", given["learning_rate"] or _learning_rate(given)),
        *said("--too-long", _TOO_LONG[given["truncation_strategy"]]),
        *_validation(given),
        *said("--targets", _targets(given)),
        *said("--full", given["sft_type"] == "full"),
        *said("--qlora", given["quantization_bit"] == "4"),
    ]
    template = [] if base.template is None else ["--chat-template", str(base.template)]
    files = [*_files(given), *_self_cognition(given, out)]
    typer.echo(f"the adapter goes to {out}, with no folder for versions or steps", err=True)
    return [["train", *files, "--model", base.model, "--out", str(out), *template, *options]]


def _files(given: Given) -> list[str]:
    files, count = given["dataset"] or [], given["train_dataset_sample"]
    if count >= 0 and len(files) != 1:
        raise ParameterError(
            "--train_dataset_sample is for one --dataset; of several, write FILE#ROWS for each",
            param="train_dataset_sample",
        )
    taken = [f"{files[0]}#{count}"] if count >= 0 else files
    named = [*taken, *(given["custom_train_dataset_path"] or [])]
    if not named and not given["self_cognition_sample"]:
        raise ParameterError("name rows to learn: --dataset", param="dataset")
    return named


def _self_cognition(given: Given, out: Path) -> list[str]:
    count = given["self_cognition_sample"]
    if not count:
        return []
    path = out.with_name(f"{out.name}-self-cognition.jsonl")
    names, authors = given["model_name"], given["model_author"]
    write_self_cognition(path, count, names=names, authors=authors)
    return [str(path)]


def _learning_rate(given: Given) -> str:
    return "1e-5" if given["sft_type"] == "full" else "1e-4"


def _validation(given: Given) -> list[str]:
    share = given["dataset_test_ratio"]
    if given["custom_val_dataset_path"] is None:
        return said(
            "--validation", "0.01" if share is None else None if float(share) == 0 else share
        )
    if share is not None:
        raise ParameterError("give --dataset_test_ratio or --custom_val_dataset_path, not both")
    return []


def _targets(given: Given) -> list[str] | None:
    targets = given["lora_target_modules"] or ["ALL"]
    return None if targets[0] in _ALL else targets
