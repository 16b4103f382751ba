"""What `--plan` prints: what a run will take, and the command that runs it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from time import monotonic

from martlet.backends.base import Backend
from martlet.backends.load import load_backend, load_opened
from martlet.backends.opened import OpenedModel, open_model
from martlet.backends.options import BackendOptions, names_server
from martlet.batch.job import Job
from martlet.cli.ask import announce, fitted_job
from martlet.cli.probing import command_to_go, probe_shown
from martlet.cli.progress import clock
from martlet.cli.stop import stop_on_signal
from martlet.cli.summary import counted
from martlet.forecast.batch import BatchForecast, Drawing, Rows, forecast_batch
from martlet.forecast.memory import Memory
from martlet.forecast.price import Price
from martlet.forecast.probe import Look
from martlet.forecast.work import Amount
from martlet.models.memory import GIB


def plan_job(
    job: Job, model: str, options: BackendOptions, price: Price | None, *, as_json: bool
) -> None:
    """Plans a job that was read, and prints what it will take.

    Raises:
        MartletError: As `load_backend` and `forecast_batch` do; the forecast's refusal, after the
            table.
    """
    announce(job)
    started = monotonic()
    backend, opened = _load(model, options)
    load_s = monotonic() - started
    try:
        with stop_on_signal() as asked_to_stop, _shown() as show:
            forecast = forecast_batch(
                fitted_job(job, backend.limits),
                backend,
                opened=opened,
                show=show,
                asked_to_stop=asked_to_stop,
            )
    finally:
        backend.close()
    print(_json(forecast, price, load_s) if as_json else _text(forecast, price, load_s))
    if forecast.refusal is not None:
        raise forecast.refusal


def _load(model: str, options: BackendOptions) -> tuple[Backend, OpenedModel | None]:
    """The backend; of a model that is loaded here, also what was known before."""
    if options.backend in ("openai", "vllm") or names_server(model, options):
        return load_backend(model, options=options), None
    opened = open_model(model, options)
    return load_opened(opened), opened


@contextmanager
def _shown() -> Iterator[Callable[[Look], None]]:
    with probe_shown("drawing first samples, which are kept") as show:
        yield lambda look: show(look.seconds, f"{look.num_samples:,} samples")


def _json(forecast: BatchForecast, price: Price | None, load_s: float) -> str:
    facts = asdict(forecast)
    facts["refusal"] = str(forecast.refusal) if forecast.refusal else None
    if forecast.drawing is not None:
        facts["drawing"]["seconds_to_load"] = load_s
        if price is not None:
            facts["drawing"]["drawn"]["price"] = _price_of(forecast.drawing.drawn, price)
            facts["drawing"]["left"]["price"] = _price_of(forecast.drawing.left, price)
    facts["command"] = command_to_go()
    return json.dumps(facts, ensure_ascii=False)


def _text(forecast: BatchForecast, price: Price | None, load_s: float) -> str:
    rows, drawing = forecast.rows, forecast.drawing
    facts = {"rows": _limit(rows)}
    table: list[str] = []
    if drawing is not None:
        table = [*_amounts(drawing.drawn, drawing.left, price)]
        memory = drawing.memory
        facts["memory"] = "not known: the server's own" if memory is None else _parts(memory)
        if memory is not None:
            facts["fits"] = _fits(memory)
        facts["time"] = _time(drawing, load_s)
        facts["go"] = command_to_go()
    return "\n".join([*table, *(f"{name:<12}{value}" for name, value in facts.items())])


def _amounts(drawn: Amount, left: Amount, price: Price | None) -> Iterator[str]:
    """What is there, what is left, and both together, in columns."""
    rows = {
        name.replace("_", " "): (getattr(drawn, name), getattr(left, name), ",.0f")
        for name in ("questions", "samples", "tokens_in", "tokens_out")
    }
    if price is not None:
        rows["price"] = (_price_of(drawn, price), _price_of(left, price), ",.4f")
    yield f"{'':<12}{'in the journal':>16}{'left':>16}{'together':>16}"
    for name, (known, rest, form) in rows.items():
        yield f"{name:<12}" + "".join(f"{each:>16{form}}" for each in (known, rest, known + rest))


def _price_of(amount: Amount, price: Price) -> float:
    return price.of(tokens_in=amount.tokens_in, tokens_out=amount.tokens_out)


def _limit(rows: Rows) -> str:
    over = counted(rows.too_long, "question")
    longest = f", the longest prompt has {rows.longest_prompt:,}" if rows.longest_prompt else ""
    return (
        f"{rows.rows:,}; {over} over the limit of {rows.max_context_tokens:,} tokens, prompt and "
        f"reply{longest}"
    )


def _parts(memory: Memory) -> str:
    parts = [f"weights {_gib(memory.weights)}"]
    if memory.pool:
        parts.append(f"keys and values up to {_gib(memory.pool)}")
    if memory.adapters:
        parts.append(f"adapters {_gib(memory.adapters)}")
    return f"{_gib(memory.peak)} at most, of {_gib(memory.available)}; {', '.join(parts)}"


def _fits(memory: Memory) -> str:
    at_once = f"{counted(memory.requests_at_once, 'sample')} at once"
    if memory.longest_at_once is None:
        return at_once
    return f"{at_once}; there is room for {memory.longest_at_once:,} of the longest"


def _time(drawing: Drawing, load_s: float) -> str:
    probed = f"{drawing.seconds_probed:.0f} s"
    if drawing.seconds_left is None:
        return f"not known: no sample ended in the {probed} of the probe"
    return (
        f"{clock(drawing.seconds_left)} for what is left, and {clock(load_s)} to load the model "
        f"(by a probe: {counted(drawing.num_ended, 'sample')} in {probed})"
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB"
