"""The script: a file of instructions to predictions, or a conversation."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from martlet.cli.main import ending_well
from martlet.compat import verbs
from martlet.compat.flags import Flag, FlagTable, Given, said, truth
from martlet.compat.inference_hf.predictions import (
    check_free,
    write_config,
    write_examples,
    write_predictions,
)
from martlet.errors import ParameterError

SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
EXAMPLES = ("为什么要减少污染，保护环境？", "你有什么建议？")
"""What is asked without a data file."""
SAMPLING: Mapping[str, float] = {
    "temperature": 0.2,
    "top_k": 40,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
    "max_new_tokens": 400,
}
"""The script's own settings, by transformers' names."""
_OPTIONS = {"max_new_tokens": "--max-tokens"}

INFERENCE = FlagTable(
    command="inference_hf",
    purpose="Answer a file of instructions, or talk to the model.",
    flags=(
        Flag(name="base_model", explanation="The model's folder or its id on a hub."),
        Flag(
            name="tokenizer_path",
            explanation="Another folder to take the tokenizer from.",
            modern="--tokenizer",
        ),
        Flag(name="data_file", explanation="A .txt file, an instruction a line."),
        Flag(
            name="with_prompt",
            explanation="Put instructions through the model's chat template.",
            kind=truth,
        ),
        Flag(
            name="interactive",
            explanation="Talk to the model, over several turns; with --with_prompt.",
            kind=truth,
        ),
        Flag(
            name="predictions_file",
            explanation="The result, a list of Input and Output.",
            default="./predictions.json",
        ),
        Flag(name="gpus", explanation="Numbers of GPUs, with commas; vLLM shares among several."),
        Flag(name="only_cpu", explanation="Compute on the CPU.", kind=truth),
        Flag(name="use_vllm", explanation="Let the vLLM of this machine compute.", kind=truth),
        Flag(
            name="load_in_8bit",
            explanation="Store the model in 8 bits first, beside the predictions.",
            kind=truth,
        ),
        Flag(
            name="load_in_4bit",
            explanation="Store the model in 4 bits first, beside the predictions.",
            kind=truth,
        ),
        Flag(
            name="use_flash_attention_2",
            explanation="Which attention is used.",
            kind=truth,
            moot="the engine chooses its attention itself",
        ),
    ),
)


def main(arguments: Sequence[str]) -> None:
    """Runs the script.

    Raises:
        ParameterError: If a flag is unknown or contradicts another.
        InputError: If predictions would be written over.
        MartletError: As the verbs do.
    """
    given = INFERENCE.parse(arguments)
    _check(given)
    predictions = Path(given["predictions_file"])
    if not given["interactive"]:
        check_free(predictions)
    predictions.parent.mkdir(parents=True, exist_ok=True)
    quantization, model = _quantized(given, predictions.parent)
    options = [*_sampling(), *INFERENCE.straight(given), *_engine(given)]
    if given["with_prompt"]:
        options += ["--system", SYSTEM]
    if given["interactive"]:
        _run([*quantization, ["chat", model, *options]])
        return
    rows = predictions.with_suffix(".jsonl")
    data = given["data_file"] or _examples(predictions)
    raw = [] if given["with_prompt"] else ["--raw"]
    generate = ["generate", data, "--model", model, *options, *raw, "--out", str(rows)]
    _run([*quantization, generate])
    write_predictions(rows, predictions)
    write_config(predictions.parent, {"do_sample": True, **SAMPLING})


def _check(given: Given) -> None:
    if given["base_model"] is None:
        raise ParameterError("name the model with --base_model", param="base_model")
    if given["load_in_8bit"] and given["load_in_4bit"]:
        raise ParameterError("give --load_in_8bit or --load_in_4bit, not both")
    if given["interactive"] and not given["with_prompt"]:
        raise ParameterError(
            "--interactive is a conversation, which the model knows by its chat template; add "
            "--with_prompt",
            param="interactive",
        )


def _run(modern: Sequence[verbs.Verb]) -> None:
    verbs.tell(modern)
    verbs.run(modern)


def _sampling() -> list[str]:
    named = (
        (_OPTIONS.get(name, f"--{name.replace('_', '-')}"), SAMPLING[name]) for name in SAMPLING
    )
    return [part for option, value in named for part in said(option, value)]


def _engine(given: Given) -> list[str]:
    num_gpus = len((given["gpus"] or "0").split(","))
    options = said("--device", "cpu" if given["only_cpu"] else None)
    if given["use_vllm"]:
        sizes = said("--tensor-parallel-size", num_gpus if num_gpus > 1 else None)
        return [*options, "--backend", "vllm", *sizes]
    if num_gpus > 1:
        raise ParameterError(
            "several --gpus are for --use_vllm, which shares the layers among them"
        )
    return options


def _quantized(given: Given, place: Path) -> tuple[list[verbs.Verb], str]:
    """The verb that stores the model in fewer bits, unless that was done, and the model to run."""
    model: str = given["base_model"]
    bits = "8" if given["load_in_8bit"] else "4" if given["load_in_4bit"] else None
    if bits is None:
        return [], model
    out = place / f"{Path(model).name}-int{bits}"
    if out.exists():
        return [], str(out)
    return [["quantize", model, "--bits", bits, "--out", str(out)]], str(out)


def _examples(predictions: Path) -> str:
    path = predictions.with_suffix(".examples.txt")
    write_examples(path, EXAMPLES)
    return str(path)


if __name__ == "__main__":
    ending_well(lambda: main(sys.argv[1:]))
