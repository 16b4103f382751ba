"""The run: keeps the backend fed in order, gives up what is not wanted, settles every question."""

from collections import Counter

import pytest

from batch.echo_backend import EchoBackend
from batch.plans import plan
from batch.policies import FirstShort, OneByOne, UntilTwoAgree
from martlet.batch.journal import Journal
from martlet.batch.policy import DrawAll
from martlet.batch.run import Run
from martlet.errors import EngineError, Interrupted, ParameterError

ROWS = [{"prompt": f"question {i}"} for i in range(20)]


@pytest.fixture
def journal(tmp_path):
    with Journal.open(tmp_path / "journal") as journal:
        yield journal


def run_of(backend, journal, *, rows=ROWS, policy=None, outcomes=None, **given):
    return Run(
        backend=backend,
        journal=journal,
        questions=plan(*rows, backend=backend, **given).asked,
        policy_of=lambda planned: policy or DrawAll(planned.params.n),
        on_outcome=([] if outcomes is None else outcomes).append,
    )


def finish(run, *, stop_requested=lambda: False):
    return run.finish(on_step=lambda _tally: None, stop_requested=stop_requested)


def texts_by_row(outcomes):
    return {o.planned.row.row_id: [s.text for s in o.samples] for o in outcomes}


def test_samples_are_submitted_in_order_and_finish_out_of_order(journal) -> None:
    backend, outcomes = EchoBackend(max_num_requests=4), []
    finish(run_of(backend, journal, outcomes=outcomes, n=3))
    ids = [request.request_id for request in backend.submitted]
    assert ids == [f"{position}.{k}" for position in range(20) for k in range(3)]
    positions = [outcome.planned.position for outcome in outcomes]
    assert positions != sorted(positions)
    assert sorted(positions) == list(range(20))


def test_the_backend_is_kept_fed_and_not_flooded(journal) -> None:
    backend = EchoBackend(max_num_requests=4)
    finish(run_of(backend, journal, n=3))
    assert backend.max_num_unfinished == 12


def test_an_early_decision_aborts_the_rest_and_is_the_same_at_any_batch_size(tmp_path) -> None:
    results = []
    for max_num_requests in (1, 4, 32):
        backend, outcomes = EchoBackend(max_num_requests=max_num_requests), []
        with Journal.open(tmp_path / str(max_num_requests)) as journal:
            run = run_of(backend, journal, policy=FirstShort(), outcomes=outcomes, n=8)
            tally = finish(run)
        assert backend.aborted
        assert tally.num_samples_saved > 0
        assert tally.num_samples_drawn + tally.num_samples_saved == 8 * 20
        results.append(texts_by_row(outcomes))
    assert results[0] == results[1] == results[2]


def test_rounds_draw_no_more_than_they_ask_for(journal) -> None:
    backend, outcomes = EchoBackend(), []
    tally = finish(run_of(backend, journal, policy=OneByOne(), outcomes=outcomes, n=4))
    assert tally.num_samples_drawn == 80
    assert not backend.aborted
    assert all(len(outcome.samples) == 4 for outcome in outcomes)


def test_more_samples_reuse_those_that_are_there(journal) -> None:
    few, many = [], []
    finish(run_of(EchoBackend(), journal, outcomes=few, n=3))
    backend = EchoBackend()
    tally = finish(run_of(backend, journal, outcomes=many, n=8))
    assert Counter(r.request_id.split(".")[1] for r in backend.submitted) == dict.fromkeys(
        "34567", 20
    )
    assert (tally.num_samples_drawn, tally.num_samples_reused) == (100, 60)
    first_three = {row: texts[:3] for row, texts in texts_by_row(many).items()}
    assert first_three == texts_by_row(few)


def test_a_failing_row_fails_alone_and_is_tried_again(journal) -> None:
    outcomes, retried = [], []
    tally = finish(run_of(EchoBackend(fail_on="question 7"), journal, outcomes=outcomes, n=2))
    failed = [outcome for outcome in outcomes if outcome.error]
    assert [o.planned.row.row_id for o in failed] == ["r7"]
    assert failed[0].error == "sample 0 failed: the echo broke"
    assert (tally.num_questions_done, tally.num_questions_failed) == (20, 1)

    backend = EchoBackend()
    finish(run_of(backend, journal, outcomes=retried, n=2))
    assert [request.request_id for request in backend.submitted] == ["7.0", "7.1"]
    assert not any(outcome.error for outcome in retried)


def test_a_row_that_the_backend_refuses_fails_alone(journal) -> None:
    rows = [{"prompt": "x"}, {"body": {"prompt": "y", "min_p": 0.5}}]
    outcomes = []
    finish(run_of(EchoBackend(refused_parameters=["min_p"]), journal, rows=rows, outcomes=outcomes))
    errors = {outcome.planned.position: outcome.error for outcome in outcomes}
    assert errors == {0: None, 1: "sample 0 failed: the echo backend has no min_p"}


def test_a_parameter_of_the_run_that_the_backend_refuses_ends_it(journal) -> None:
    backend = EchoBackend(refused_parameters=["min_p"])
    with pytest.raises(ParameterError, match="has no min_p"):
        finish(run_of(backend, journal, min_p=0.5))


def test_a_stop_keeps_what_is_finished_and_says_how_to_go_on(journal) -> None:
    backend, steps = EchoBackend(), iter([False, False, False, True])
    run = run_of(backend, journal, n=3)
    with pytest.raises(Interrupted, match="run the same command again to go on") as caught:
        finish(run, stop_requested=lambda: next(steps))
    assert caught.value.exit_code == 130
    assert backend.num_unfinished == 0
    num_kept = run.tally.num_samples_drawn
    assert num_kept > 0
    assert finish(run_of(EchoBackend(), journal, n=3)).num_samples_drawn == 60 - num_kept


def test_a_stop_after_the_last_step_comes_too_late(journal) -> None:
    run = run_of(EchoBackend(max_num_requests=64), journal, rows=[{"prompt": "x"}], max_tokens=1)
    steps = iter([False, True])
    assert finish(run, stop_requested=lambda: next(steps)).num_questions_done == 1


def test_a_backend_that_loses_requests_is_found_out(journal) -> None:
    class Forgetful(EchoBackend):
        def poll(self):
            self.close()
            return []

    with pytest.raises(EngineError, match="the backend lost 12 requests"):
        finish(run_of(Forgetful(), journal))


def test_a_decided_question_draws_nothing(journal) -> None:
    finish(run_of(EchoBackend(), journal, policy=UntilTwoAgree(3), n=3))
    backend = EchoBackend()
    finish(run_of(backend, journal, policy=UntilTwoAgree(3), n=3))
    assert not backend.submitted
