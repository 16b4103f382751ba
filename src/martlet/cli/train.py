"""`martlet train`: rows in, an adapter out, and proof that it is served as it was trained."""

from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from martlet.cli.options.option import option
from martlet.cli.options.plan import TrainPlanOptions
from martlet.cli.options.result import JsonOption
from martlet.cli.verb import verb
from martlet.train.config import DataConfig, KeepConfig, StepsConfig, TunerConfig

if TYPE_CHECKING:
    pass

_PANEL = "Run"


def _given(config: type, panel: str) -> Any:
    """The fields of a config as options, all absent unless given: a file may set them too."""
    hints = get_type_hints(config, include_extras=True)
    options = []
    for each in fields(config):
        kind, explanation = get_args(hints[each.name])[:2]
        is_many = str(kind).startswith("tuple")
        default = each.default
        if default not in (None, False, ()):
            explanation = f"{explanation} [default: {default}]"
        flag = "--" + each.name.replace("_", "-")
        taken: Any = (list[str] if is_many else kind) | None
        annotation = Annotated[taken, option(panel, explanation, flag)]
        options.append((each.name, annotation, field(default=None)))
    return make_dataclass(f"Given{config.__name__}", options, frozen=True, kw_only=True)


_Rows = _given(DataConfig, "Rows")
_Tuner = _given(TunerConfig, "What is trained")
_Steps = _given(StepsConfig, "Steps")
_Keep = _given(KeepConfig, "Measured and kept")


@verb
def train(
    *,
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA...", show_default=False, help="Files of rows."),
    ] = None,
    model: Annotated[
        str | None,
        option(_PANEL, "The base: a folder, a Hugging Face id, or demo.", "--model", "-m"),
    ] = None,
    out: Annotated[
        Path | None,
        option(_PANEL, "The folder of the run, which becomes the adapter's.", "--out", "-o"),
    ] = None,
    config: Annotated[
        Path | None,
        option(
            _PANEL,
            "A YAML file with any of these options; what is given here goes before it.",
            "--config",
        ),
    ] = None,
    chat_template: Annotated[
        Path | None,
        option(_PANEL, "A Jinja file in place of the model's chat template.", "--chat-template"),
    ] = None,
    rows: _Rows,  # type: ignore[valid-type]
    tuner: _Tuner,  # type: ignore[valid-type]
    steps: _Steps,  # type: ignore[valid-type]
    keep: _Keep,  # type: ignore[valid-type]
    plan: TrainPlanOptions,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on rows, and prove that what was trained is what is served.

    Trains a LoRA adapter unless told otherwise. The rows go through the model's own chat template,
    by the code that serves; only replies are learned. An interrupted run goes on where it stopped:
    give the same command again. At the end the serving engine scores validation rows with the new
    adapter, and must agree with the trainer.
    """
    from martlet.cli.training import run_training
    from martlet.train.config import resolve_config

    top = {"data": data, "model": model, "out": out, "chat_template": chat_template}
    given = {
        name: value
        for group in (top, *(vars(each) for each in (rows, tuner, steps, keep)))
        for name, value in group.items()
        if value not in (None, [])
    }
    resolved, price = resolve_config(given, file=config), plan.parsed_price()
    if plan.plan:
        from martlet.cli.plan_training import plan_training

        plan_training(resolved, price, as_json=as_json)
        return
    run_training(resolved, as_json=as_json)
