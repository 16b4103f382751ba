"""What the commands that run a model have in common: merging first, and the engine."""

import os
from pathlib import Path

import typer

from martlet.compat.flags import Flag, Given, said, truth
from martlet.compat.swift.checkpoint import DEFAULT_ADAPTER, MODEL_FLAGS, Checkpoint
from martlet.compat.verbs import Verb
from martlet.errors import NotFoundError, ParameterError

_DTYPES = {"bf16": "bf16", "fp32": "fp32", "AUTO": "auto"}
RUNNING_FLAGS = (
    *MODEL_FLAGS,
    Flag(
        name="infer_backend",
        explanation="What computes: pt is Martlet's own engine, vllm the vLLM of this machine.",
        choices=("pt", "vllm", "AUTO"),
        default="AUTO",
    ),
    Flag(name="merge_lora", explanation="Merge the adapter of --ckpt_dir first.", kind=truth),
    Flag(
        name="lora_modules",
        explanation="More adapters, as NAME=DIR.",
        many=True,
        modern="--adapter",
    ),
    Flag(
        name="tensor_parallel_size",
        explanation="GPUs that share each layer; vLLM alone.",
        kind=int,
    ),
    Flag(
        name="vllm_enable_lora",
        explanation="Answer with the adapter un-merged.",
        kind=truth,
        moot="an adapter that is not merged is always served as it is",
    ),
    Flag(name="dtype", explanation="Precision.", choices=tuple(_DTYPES)),
    Flag(
        name="max_model_len",
        explanation="Prompt and reply together, in tokens.",
        kind=int,
        modern="--max-context",
    ),
)


def merged_first(given: Given, checkpoint: Checkpoint) -> tuple[list[Verb], Checkpoint]:
    """The merge that is asked for, and what it leaves to run."""
    if not given["merge_lora"]:
        return [], checkpoint
    if checkpoint.adapter is None:
        raise ParameterError("--merge_lora true needs an adapter in --ckpt_dir", param="merge_lora")
    is_there = Path(checkpoint.merged.model).exists()
    return ([] if is_there else [merge_of(checkpoint)]), checkpoint.merged


def merge_of(checkpoint: Checkpoint) -> Verb:
    """The verb that merges a checkpoint's adapter."""
    out = checkpoint.merged.model
    return ["merge", str(checkpoint.adapter), "--model", checkpoint.model, "--out", out]


def engine_options(given: Given, checkpoint: Checkpoint, *, vllm_takes_adapters: bool) -> list[str]:
    """Which engine runs a model, and how; where it is not the one that was asked for, says why.

    Raises:
        NotFoundError: If several GPUs are to share the layers, and there is no vLLM.
    """
    from martlet.backends.vllm.command import find_program

    options = [*checkpoint.options(), *said("--dtype", _DTYPES.get(given["dtype"]))]
    num_gpus = given["tensor_parallel_size"] or 1
    if given["infer_backend"] != "vllm" and num_gpus == 1:
        return options
    try:
        find_program(os.environ.get("MARTLET_VLLM", "vllm"))
    except NotFoundError as error:
        if num_gpus > 1:
            raise NotFoundError(f"--tensor_parallel_size is for vLLM, and {error}") from error
        typer.echo(f"{error}; until then, Martlet's own engine answers", err=True)
        return options
    has_adapters = checkpoint.adapter is not None or given["lora_modules"] is not None
    if has_adapters and not vllm_takes_adapters and num_gpus == 1:
        typer.echo("adapters by their names are served by Martlet's own engine", err=True)
        return options
    sizes = said("--tensor-parallel-size", None if num_gpus == 1 else num_gpus)
    return [*options, "--backend", "vllm", *sizes]


def adapter_options(checkpoint: Checkpoint) -> list[str]:
    """The adapter of a checkpoint under the name that requests know."""
    if checkpoint.adapter is None:
        return []
    return ["--adapter", f"{DEFAULT_ADAPTER}={checkpoint.adapter}"]
