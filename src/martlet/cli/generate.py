"""`martlet generate`: one reply, or several, to every row of a file."""

from martlet.cli.options.model import AdapterOption, ModelOption
from martlet.cli.options.plan import PlanOptions
from martlet.cli.options.result import JsonOption
from martlet.cli.options.rows import DataArgument, RowOptions
from martlet.cli.options.runtime import BatchRuntimeOptions
from martlet.cli.options.sampling import SamplingOptions
from martlet.cli.verb import verb


@verb
def generate(
    *,
    data: DataArgument,
    model: ModelOption,
    adapter: AdapterOption = None,
    rows: RowOptions,
    as_json: JsonOption = False,
    sampling: SamplingOptions,
    plan: PlanOptions,
    runtime: BatchRuntimeOptions,
) -> None:
    """Reply to each row of a file.

    Rows hold a `prompt`, `messages`, an `instruction` with its
    `input`, a `query`, or are lines of an OpenAI batch; the result is the same with
    `reply` added. An interrupted run goes on where it stopped: give the same command again.
    """
    from martlet.batch.card import card_path
    from martlet.batch.job import Job
    from martlet.batch.task import GENERATE
    from martlet.cli.ask import run_job
    from martlet.cli.summary import json_of_run, lines_of_run, tell

    price = plan.parsed_price()
    job = Job.read(GENERATE, rows.job_options(data, sampling.given_params()))
    if plan.plan:
        from martlet.cli.planning import plan_job

        plan_job(job, model, runtime.adapted_options(adapter=adapter), price, as_json=as_json)
        return
    summary = run_job(job, lambda: runtime.load(model, adapter=adapter))
    tell([*lines_of_run(summary)], {"replies": rows.out, "card": card_path(rows.out)})
    if as_json:
        print(json_of_run(summary))
