"""Metrics against values worked out by hand and against the packages' own; intervals and flips."""

from collections.abc import Sequence

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from martlet.backends.base import Prompt
from martlet.batch.questions import Question
from martlet.batch.rows import Row
from martlet.errors import ParameterError, RowError
from martlet.score.accuracy import Accuracy
from martlet.score.bleu import Bleu
from martlet.score.comparison import Comparison, Standing, compare, sign_test
from martlet.score.exact_match import ExactMatch, normalised
from martlet.score.exercise import Exercise
from martlet.score.metric import make_metrics
from martlet.score.rouge import Rouge

PAIRS = [
    ("Two men met at the station on Monday.", "Two men met on Monday at a station."),
    ("She bought the red car, not the blue one.", "She has bought a red car."),
    ("It rains.", "It rains."),
    ("The doctor asks Mr. Smith to quit smoking.", "Mr. Smith's doctor wants him to quit."),
]


def exercise(
    number: int,
    reference: str,
    *,
    answer: str | None = None,
    options: tuple[str, ...] | None = None,
) -> Exercise:
    row = Row(number=number, row_id=f"row {number}", data={})
    prompt = Prompt(text="?")
    question = Question(row=row, index=None, prompt=prompt, options=options, answer=answer)
    return Exercise(question=question, reference=reference)


def exercises(references: Sequence[str]) -> list[Exercise]:
    return [exercise(number, each) for number, each in enumerate(references, start=1)]


def test_rouge_by_hand() -> None:
    # 5 of 6 words, 3 of 5 pairs; the longest common sequence leaves out "sat".
    given = exercise(1, "The cat sat on the mat.")
    found = Rouge().statistics(given, ["the cat lay on the mat"])
    assert found == pytest.approx((5 / 6, 3 / 5, 5 / 6))
    # Five of the reply's six characters, all five of the reference's.
    chinese = Rouge().statistics(exercise(1, "今天天气好"), ["今天天气很好"])
    assert chinese[0] == chinese[2] == pytest.approx(2 * (5 / 6) / (5 / 6 + 1))
    assert Rouge().statistics(given, ["the cat sat on the mat", ""]) == pytest.approx((0.5,) * 3)


def test_rouge_of_english_is_that_of_the_package() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for reference, reply in PAIRS:
        expected = [each.fmeasure for each in scorer.score(reference, reply).values()]
        assert Rouge().statistics(exercise(1, reference), [reply]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tokenizer", "pairs"),
    [
        ("13a", PAIRS),
        (
            "zh",
            [("今天下午我们去公园散步吧", "今天下午我们去公园跑步"), ("他喜欢喝绿茶", "他喜欢茶")],
        ),
    ],
)
def test_bleu_is_that_of_the_package(tokenizer: str, pairs: list[tuple[str, str]]) -> None:
    references, replies = [list(each) for each in zip(*pairs, strict=True)]
    metric = Bleu(references)
    assert tokenizer in metric.how
    rows = [
        metric.statistics(each, [reply])
        for each, reply in zip(exercises(references), replies, strict=True)
    ]
    expected = sacrebleu.corpus_bleu(replies, [references], tokenize=tokenizer).score
    assert metric.total(np.sum(rows, axis=0), len(rows))[0] == pytest.approx(expected / 100)
    assert 0.1 < expected / 100 < 0.9


def test_exact_match_looks_past_form_alone() -> None:
    assert normalised("  “Ｐａｒｉｓ.”\n") == normalised("paris")
    assert normalised("3.5") != normalised("35")
    assert normalised("?!") == "?!"
    assert ExactMatch().statistics(exercise(1, "in Paris"), ["In  Paris!", "Paris"]) == (0.5,)


def test_accuracy_of_samples_and_of_the_vote() -> None:
    given = exercise(1, "So it is B.\nThe answer is B", answer="cat", options=("dog", "cat"))
    metric = Accuracy([given], extract=None, num_samples=3)
    replies = ["The answer is B", "The answer is (b).", "no idea"]
    assert metric.statistics(given, replies) == pytest.approx((2 / 3, 1))
    # No answer is wrong, and is no vote for a wrong one.
    assert metric.statistics(given, ["no idea"] * 3) == (0, 0)


def test_accuracy_reads_the_right_answer_in_a_solution() -> None:
    solved = exercise(1, "48 / 2 = 24\n#### 1,072", answer="48 / 2 = 24\n#### 1,072")
    metric = Accuracy([solved], extract="number", num_samples=1)
    assert metric.statistics(solved, ["It comes to 1072."]) == (1,)
    with pytest.raises(RowError, match="line 7: its own reply states no answer"):
        Accuracy([exercise(7, "Who knows?")], extract="number", num_samples=1)
    with pytest.raises(ParameterError, match="rows have no options"):
        Accuracy([solved], extract=None, num_samples=1)


def test_metrics_by_name_and_by_default() -> None:
    chosen = exercise(1, "The answer is A", answer="A", options=("x", "y"))

    def names(given: Sequence[str], rows: list[Exercise]) -> list[str]:
        metrics = make_metrics(given, rows, extract=None, num_samples=1)
        return [metric.figures[-1] for metric in metrics]

    assert names([], [chosen]) == ["accuracy"]
    assert names([], exercises(["text"])) == ["ROUGE-L", "BLEU"]
    assert names(["rouge", "exact-match", "rouge"], [chosen]) == ["ROUGE-L", "exact match"]
    with pytest.raises(ParameterError, match="unknown metric 'rogue'; metrics are accuracy"):
        names(["rogue"], [chosen])


def compared(first: Sequence[bool], other: Sequence[bool]) -> Comparison:
    """Two contestants that are right or wrong as told."""
    rows = exercises(["yes"] * len(first))
    words = {True: ["yes"], False: ["no"]}
    replies = {"base": [words[each] for each in first], "tuned": [words[each] for each in other]}
    return compare(ExactMatch(), rows, replies)


def standing(found: Comparison) -> Standing:
    return next(each for each in found.standings if each.contestant == "tuned")


def test_a_difference_is_paired_and_its_flips_are_listed() -> None:
    first = [True] * 60 + [False] * 40
    other = [True] * 58 + [False] * 2 + [True] * 12 + [False] * 28
    found = compared(first, other)
    difference = standing(found).difference
    assert difference is not None
    assert difference.estimate.value == pytest.approx(0.10)
    assert (difference.num_better, difference.num_worse) == (12, 2)
    # sqrt((14 - 100 x 0.1 x 0.1) / 100) / 10 is the standard error of the paired difference.
    margin = 1.96 * np.sqrt((14 - 1) / 100) / 10
    assert difference.estimate.interval.low == pytest.approx(0.10 - margin, abs=0.012)
    assert difference.estimate.interval.high == pytest.approx(0.10 + margin, abs=0.012)
    rows = [flip.exercise.question.row.number for flip in found.flips]
    assert rows[:2] == [59, 60]
    assert sorted(rows[2:]) == list(range(61, 73))


def test_a_share_has_wilsons_interval_even_at_its_end() -> None:
    found = compared([True] * 20, [True] * 20)
    estimate = standing(found).estimate
    assert estimate.value == 1
    assert estimate.interval.low == pytest.approx(0.839, abs=1e-3)
    assert not found.flips


def test_sign_test_by_hand() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(10, 0) == pytest.approx(2 / 1024)
    assert sign_test(3, 1) == pytest.approx(10 / 16)
    assert sign_test(3000, 2000) < 1e-40
