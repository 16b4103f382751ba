"""`martlet info`: what a model folder holds and how it would run here, without loading it."""

from typing import TYPE_CHECKING, Annotated

import typer

from martlet.cli.options.result import JsonOption
from martlet.cli.options.runtime import RuntimeOptions
from martlet.cli.verb import verb

if TYPE_CHECKING:
    from martlet.backends.opened import OpenedModel


@verb
def info(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            envvar="MARTLET_MODEL",
            show_envvar=False,
            help="A folder, a Hugging Face id, ms: and a ModelScope id, or demo.",
        ),
    ],
    as_json: JsonOption = False,
    runtime: RuntimeOptions,
) -> None:
    """Show what a model is, what it recommends, and what it would take here.

    Reads configuration and headers only; all that loading would refuse for is refused here.
    """
    import json

    from martlet.backends.opened import open_model

    opened = open_model(model, runtime.backend_options())
    facts = _facts(opened)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {_written(value)}")
    print("\nmemory")
    for line in opened.memory.lines:
        print(f"  {line}")


def _facts(opened: "OpenedModel") -> dict[str, object]:
    folder, memory = opened.folder, opened.memory
    return {
        "model": opened.name,
        "folder": str(folder.path),
        "architecture": ", ".join(folder.architectures) or None,
        "parameters": folder.num_parameters,
        "quantization": folder.quantization_method,
        "dtype": opened.precision,
        "device": str(opened.device),
        "context_tokens": memory.max_context_tokens,
        "chat_template": bool(opened.tokenizer.template_hash),
        "stop_tokens": {
            token_id: ", ".join(sources)
            for token_id, sources in opened.tokenizer.stop_id_sources.items()
        },
        "recommended": dict(opened.default_params.values),
        "weights_bytes": memory.weights_bytes,
        "pool_tokens": memory.num_tokens,
        "pool_bytes": memory.pool_bytes,
        "model_hash": folder.model_hash,
        "tokenizer_hash": opened.tokenizer.tokenizer_hash,
    }


def _written(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case dict():
            return ", ".join(f"{name} {each}" for name, each in value.items()) or "none"
        case _:
            return str(value)
