"""`swift sft`: fine-tuning, from its flags to `martlet train`."""

import os
from pathlib import Path

import typer

from martlet.compat.flags import Given, said
from martlet.compat.swift.checkpoint import checkpoint_of
from martlet.compat.swift.self_cognition import write_self_cognition
from martlet.compat.swift.sft_flags import SFT, TOO_LONG
from martlet.compat.verbs import Verb
from martlet.errors import ParameterError

_PROCESSES = "NPROC_PER_NODE"
_ALL = ("ALL", "DEFAULT", "AUTO")
_SHARE = 0.01
"""Of the rows, for validation."""


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
        *said("--too-long", TOO_LONG[given["truncation_strategy"]]),
        *_validation(given),
        *said("--targets", _targets(given)),
        *said("--full", given["sft_type"] == "full"),
        *said("--qlora", given["quantization_bit"] == "4"),
    ]
    template = said("--chat-template", base.rule)
    files = [*_files(given), *_self_cognition(given, out)]
    _tell_differences(out)
    return [["train", *files, "--model", base.model, "--out", str(out), *template, *options]]


def _tell_differences(out: Path) -> None:
    typer.echo(f"the adapter goes to {out}, with no folder for versions or steps", err=True)
    if num_processes := os.environ.get(_PROCESSES):
        typer.echo(
            f"{_PROCESSES}={num_processes} has no effect: torchrun --nproc-per-node "
            f"{num_processes} -m martlet.cli.main train … shares the run among processes",
            err=True,
        )


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
    if given["custom_val_dataset_path"] is not None:
        if share is not None:
            raise ParameterError("give --dataset_test_ratio or --custom_val_dataset_path, not both")
        return []
    return said("--validation", _SHARE if share is None else share or None)


def _targets(given: Given) -> list[str] | None:
    targets = given["lora_target_modules"] or ["ALL"]
    return None if targets[0] in _ALL else targets
