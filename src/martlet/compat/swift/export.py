"""`swift export`: merge an adapter, quantise a model, write an adapter in PEFT's format."""

from pathlib import Path

import typer

from martlet.compat.flags import Flag, FlagTable, Given, said, truth
from martlet.compat.swift.checkpoint import MERGED_SUFFIX, MODEL_FLAGS, checkpoint_of
from martlet.compat.swift.running import merge_of
from martlet.compat.verbs import Verb
from martlet.errors import ParameterError

EXPORT = FlagTable(
    command="swift export",
    purpose="Merge an adapter into its base, quantise, or write an adapter in PEFT's format.",
    flags=(
        *MODEL_FLAGS,
        Flag(
            name="merge_lora",
            explanation=f"Merge the adapter of --ckpt_dir; the result ends with {MERGED_SUFFIX}.",
            kind=truth,
        ),
        Flag(
            name="quant_bits",
            explanation="Store the linear layers in so many bits, after the merge if there is one.",
            choices=("8", "4"),
        ),
        Flag(
            name="dataset",
            explanation="With --quant_bits 4: rows like those to be answered, for GPTQ.",
        ),
        Flag(
            name="to_peft_format",
            explanation="Write the adapter in PEFT's format; the result ends with -peft.",
            kind=truth,
        ),
    ),
)


def export(given: Given) -> list[Verb]:
    """The modern commands; PEFT's format has none, and is written here.

    Raises:
        ParameterError: If nothing is to be done, or two things that exclude each other.
    """
    if given["to_peft_format"]:
        return _write_peft_format(given)
    if not given["merge_lora"] and given["quant_bits"] is None:
        raise ParameterError("say what to export: --merge_lora, --quant_bits or --to_peft_format")
    checkpoint = checkpoint_of(given)
    if checkpoint.adapter is None:
        if given["merge_lora"]:
            raise ParameterError("--merge_lora true needs an adapter in --ckpt_dir")
        return _quantization(given, checkpoint.model)
    if not given["merge_lora"]:
        raise ParameterError(
            "--quant_bits needs a whole model, and --ckpt_dir holds an adapter; add "
            "--merge_lora true"
        )
    return [merge_of(checkpoint), *_quantization(given, checkpoint.merged.model)]


def _quantization(given: Given, model: str) -> list[Verb]:
    bits = given["quant_bits"]
    if bits is None:
        return []
    is_here = given["ckpt_dir"] is not None or Path(model).is_dir()
    out = f"{model if is_here else Path(model).name}-int{bits}"
    calibration = said("--calibration", given["dataset"])
    return [["quantize", model, "--bits", bits, *calibration, "--out", out]]


def _write_peft_format(given: Given) -> list[Verb]:
    if given["ckpt_dir"] is None or given["merge_lora"] or given["quant_bits"]:
        raise ParameterError("--to_peft_format needs --ckpt_dir, and nothing else to be done")
    from martlet.compat.swift.peft_format import to_peft_format

    folder = Path(given["ckpt_dir"]).expanduser()
    out = folder.with_name(f"{folder.name}-peft")
    to_peft_format(folder, out)
    typer.echo(f"adapter  {out}", err=True)
    typer.echo("what martlet train writes is in PEFT's format, and needs no conversion", err=True)
    return []
