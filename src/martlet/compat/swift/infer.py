"""`swift infer`: a conversation in the terminal, or replies to a training's validation rows."""

from pathlib import Path

from martlet.compat.flags import Flag, FlagTable, Given, truth
from martlet.compat.swift.checkpoint import checkpoint_of
from martlet.compat.swift.running import (
    RUNNING_FLAGS,
    adapter_options,
    engine_options,
    merged_first,
)
from martlet.compat.swift.validation import result_path, write_questions
from martlet.compat.verbs import Verb
from martlet.errors import ParameterError

INFER = FlagTable(
    command="swift infer",
    purpose="Talk to a model, or let it answer the validation rows of its training.",
    flags=(
        *RUNNING_FLAGS,
        Flag(
            name="load_dataset_config",
            explanation="Answer the validation rows of the training, into infer_result/.",
            kind=truth,
        ),
        Flag(
            name="custom_val_dataset_path",
            explanation="A file of rows to answer, with --load_dataset_config true.",
        ),
        Flag(name="system", explanation="The system message.", modern="--system"),
        Flag(
            name="max_new_tokens",
            explanation="The longest reply, in tokens.",
            kind=int,
            modern="--max-tokens",
        ),
        Flag(
            name="temperature",
            explanation="Divides the logits; 0 takes the most likely token.",
            kind=float,
            modern="--temperature",
        ),
        Flag(
            name="top_p",
            explanation="Keep the most likely tokens that add up to this.",
            kind=float,
            modern="--top-p",
        ),
        Flag(
            name="top_k",
            explanation="Keep this many most likely tokens.",
            kind=int,
            modern="--top-k",
        ),
        Flag(
            name="repetition_penalty",
            explanation="Above 1, makes tokens of prompt and reply less likely.",
            kind=float,
            modern="--repetition-penalty",
        ),
        Flag(name="seed", explanation="Fixes every draw.", kind=int, modern="--seed"),
    ),
)


def infer(given: Given) -> list[Verb]:
    """The modern commands."""
    verbs, checkpoint = merged_first(given, checkpoint_of(given))
    engine = engine_options(given, checkpoint, vllm_takes_adapters=True)
    options = [*INFER.straight(given), *engine]
    if not given["load_dataset_config"]:
        return [*verbs, ["chat", checkpoint.model, *adapter_options(checkpoint), *options]]
    if given["ckpt_dir"] is None:
        raise ParameterError("--load_dataset_config true needs --ckpt_dir, which was trained")
    folder = Path(given["ckpt_dir"])
    questions = write_questions(folder, given["custom_val_dataset_path"])
    drawn = ["--model", checkpoint.model, *adapter_options(checkpoint), *options]
    out = result_path(folder, [questions, *drawn])
    return [*verbs, ["generate", questions, *drawn, "--out", str(out)]]
