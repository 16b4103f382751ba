"""`python -m martlet.compat.yuan2 chat|page`: a conversation with Yuan2.

Its folder has no chat template, and its tokenizer lacks the tokens that the model was trained with:
its web demo adds them each time, and here they are written once, into a tokenizer's folder.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from martlet.cli.main import ending_well
from martlet.compat import verbs
from martlet.compat.flags import Flag, FlagTable, Given
from martlet.compat.model_types import RULES
from martlet.errors import InputError, NotFoundError, ParameterError

ADDED_TOKENS = (
    "<sep>",
    "<pad>",
    "<mask>",
    "<predict>",
    "<FIM_SUFFIX>",
    "<FIM_PREFIX>",
    "<FIM_MIDDLE>",
    "<commit_before>",
    "<commit_msg>",
    "<commit_after>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<empty_output>",
)
"""In this order: those that the vocabulary lacks get the ids behind it."""
_END = "<eod>"

_MODEL = (
    Flag(
        name="path",
        explanation="The model's folder.",
        default="./IEITYuan/Yuan2-2B-Mars-hf",
    ),
    Flag(
        name="tokenizer_dir",
        explanation="Where the completed tokenizer is, or goes; beside the model unless given.",
    ),
)
CHAT = FlagTable(command="yuan2 chat", purpose="Talk to Yuan2 in the terminal.", flags=_MODEL)
PAGE = FlagTable(
    command="yuan2 page",
    purpose="Talk to Yuan2 on a page in the browser.",
    flags=(
        *_MODEL,
        Flag(
            name="server.address",
            explanation="Where to listen.",
            default="127.0.0.1",
            modern="--host",
        ),
        Flag(name="server.port", explanation="The port.", kind=int, default=6006, modern="--port"),
    ),
)
_GREEDY = ("--temperature", "0", "--max-tokens", "1024")


def write_tokenizer(model: Path, out: Path) -> None:
    """Writes Yuan2's tokenizer with all its tokens, its end token and its chat template.

    Args:
        model: The model's folder; it stays as it is.
        out: The new folder.

    Raises:
        NotFoundError: If there is no such model.
        InputError: If `out` exists.
    """
    from transformers import AutoTokenizer

    if not (model / "tokenizer_config.json").is_file():
        raise NotFoundError(f"no tokenizer in {model}; name the folder of Yuan2 with --path")
    if out.exists():
        raise InputError(f"{out} exists, and nothing is overwritten; move it away")
    tokenizer = AutoTokenizer.from_pretrained(
        model, add_eos_token=False, add_bos_token=False, eos_token=_END, local_files_only=True
    )
    tokenizer.add_tokens(list(ADDED_TOKENS), special_tokens=True)
    tokenizer.chat_template = (RULES / "yuan2.jinja").read_text(encoding="utf-8")
    tokenizer.save_pretrained(out)


def main(arguments: Sequence[str]) -> None:
    """Completes the tokenizer where that was not done yet, and starts the conversation.

    Raises:
        ParameterError: If the command or a flag is unknown.
        MartletError: As `write_tokenizer` and the verbs do.
    """
    modern = translated(arguments)
    verbs.tell([modern])
    verbs.run([modern])


def translated(arguments: Sequence[str]) -> verbs.Verb:
    """The modern command; raises as `main` does."""
    command, *flags = arguments or [""]
    if command == "chat":
        given = CHAT.parse(flags)
        return ["chat", *_model_options(given), *_GREEDY]
    if command == "page":
        given = PAGE.parse(flags)
        fits = ["--context-policy", "drop-old-turns"]
        return ["ui", *_model_options(given), *fits, *PAGE.straight(given)]
    raise ParameterError("say how to talk to Yuan2: chat, or page; each has a --help")


def _model_options(given: Given) -> list[str]:
    model = Path(given["path"]).expanduser()
    out = Path(given["tokenizer_dir"] or model.with_name(f"{model.name}-tokenizer"))
    if not (out / "tokenizer_config.json").is_file():
        write_tokenizer(model, out)
        typer.echo(f"tokenizer with all tokens: {out}", err=True)
    return [str(model), "--tokenizer", str(out), "--trust-remote-code"]


if __name__ == "__main__":
    ending_well(lambda: main(sys.argv[1:]))
