"""`martlet vote`: asks every question several times and takes the majority."""

from typing import Annotated, Literal

from martlet.cli.options.model import AdapterOption, ModelOption
from martlet.cli.options.option import option
from martlet.cli.options.plan import PlanOptions
from martlet.cli.options.result import JsonOption
from martlet.cli.options.rows import DataArgument, RowOptions
from martlet.cli.options.runtime import BatchRuntimeOptions
from martlet.cli.options.sampling import SamplingOptions
from martlet.cli.verb import verb

_PANEL = "Vote"


@verb
def vote(
    *,
    data: DataArgument,
    model: ModelOption,
    adapter: AdapterOption = None,
    extract: Annotated[
        str | None,
        option(
            _PANEL,
            "How answers are read: letter, letters, number, json:FIELD or regex:PATTERN; unless "
            "given, letter, for rows with options.",
            "--extract",
            metavar="HOW",
        ),
    ] = None,
    early_stop: Annotated[
        str,
        option(
            _PANEL,
            "exact: stop once the winner cannot change; beta:0.95: also once it is that likely to "
            "lead; off: never.",
            "--early-stop",
            metavar="WHEN",
        ),
    ] = "exact",
    weights: Annotated[
        Literal["none", "logprob"],
        option(_PANEL, "logprob weighs a sample by the mean likelihood of a token.", "--weights"),
    ] = "none",
    replies: Annotated[
        bool,
        option(_PANEL, "Keep the text of every counted sample in the result.", "--replies"),
    ] = False,
    rows: RowOptions,
    as_json: JsonOption = False,
    sampling: SamplingOptions,
    plan: PlanOptions,
    runtime: BatchRuntimeOptions,
) -> None:
    """Ask each question several times, take the majority, and say how sure it is.

    Rows hold a `question` and `options`, or a `problem` with a list of
    `questions`; the result is the same with `answer` filled in. If rows carry the
    right answer, the accuracy of one sample and of the vote is measured. An interrupted run goes
    on where it stopped: give the same command again.
    """
    from martlet.answers.policy import EarlyStop
    from martlet.cli.ask import run_votes
    from martlet.cli.summary import json_of_vote
    from martlet.cli.voting import DEFAULT_NUM_SAMPLES, Voting, VotingRules

    params = sampling.given_params()
    if weights == "logprob":
        params["logprobs"] = 0
    rules = VotingRules(
        num_samples=sampling.n or DEFAULT_NUM_SAMPLES,
        early_stop=EarlyStop.parse(early_stop),
        extractor=extract,
        weighting=weights,
        with_replies=replies,
    )
    options, price = rows.job_options(data, params), plan.parsed_price()
    if plan.plan:
        from martlet.cli.planning import plan_job

        job = Voting(rules).read(options)
        plan_job(job, model, runtime.adapted_options(adapter=adapter), price, as_json=as_json)
        return
    findings = run_votes(rules, options, lambda: runtime.load(model, adapter=adapter))
    if as_json:
        print(json_of_vote(findings.figures, findings.score_card))
