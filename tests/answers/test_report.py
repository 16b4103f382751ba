"""The report: what it must say, and that nothing from the data can break it."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from martlet.answers.report import Parameter, Report, RunFigures, render_html, render_markdown
from martlet.answers.score import JudgedQuestion, score
from martlet.answers.vote import TIE_RULE, Answer, majority

_VOID = {"meta", "br"}


def judged(place: int) -> JudgedQuestion:
    right = "ABCD"[place % 4]
    other = "ABCD"[(place + 1) % 4]
    answers = [right if (place * k) % 5 != 1 else other for k in range(4)]
    answers = [other, other, None, right] if place % 3 == 0 else answers
    return JudgedQuestion(
        name=f"demo-{place:03}/0",
        question=f"Who | sits <b>left</b> of `Ann` in puzzle {place}? " + "Long words. " * 20,
        right=right,
        vote=majority([Answer(value=value) for value in answers]),
        sample_answers=answers,
        kind=["order", "links", "规则"][place % 3],
    )


@pytest.fixture
def report() -> Report:
    questions = [judged(place) for place in range(240)]
    return Report(
        title="Vote over puzzles.jsonl",
        origin={"model": "./model", "data": "puzzles.jsonl", "date": "2025-01-01T00:00:00+00:00"},
        figures=RunFigures(
            rows=60,
            failed=1,
            questions=240,
            failed_questions=1,
            unparsed=3,
            unparsed_samples=83,
            samples_drawn=1312,
            samples_saved=608,
            tokens_saved=41234,
            prompt_tokens=65432,
            generated_tokens=98765,
            cut_by_length=37,
            seconds=83.4,
            tokens_per_second=1184.2,
        ),
        num_samples=8,
        early_stop="exact",
        extractor="letter",
        weighting="none",
        margins=[each.vote.margin for each in questions if each.vote.winner],
        score_card=score(questions),
        parameters=[
            Parameter(name="temperature", value="0.7", source="command line"),
            Parameter(name="stop", value="['|']", source="default of martlet"),
        ],
    )


class Balance(HTMLParser):
    """Checks that every tag that opens is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        assert not any(name in ("src", "href") for name, _ in attrs), "the page stands alone"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_markdown_says_all(report: Report) -> None:
    text = render_markdown(report)
    card = report.score_card
    assert card is not None
    low, high = card.total.vote.interval.low, card.total.vote.interval.high
    expected = [
        "# Vote over puzzles.jsonl",
        "- model: ./model",
        f"| **vote of 8** | **{card.total.vote.value:.1%}** | {low:.1%} to {high:.1%} | 240 |",
        "| samples saved by early stop | 608 |",
        "| tokens saved, about | 41,234 |",
        "| time | 1 min 23 s |",
        "**37 samples were cut by length**",
        "**1 questions failed**; no accuracy counts them.",
        f"- Ties: {TIE_RULE}.",
        "| 规则 | 80 |",
        "| temperature | 0.7 | command line |",
        "and 30 more.",
    ]
    for piece in expected:
        assert piece in text
    assert "\n\n\n" not in text


def test_every_row_of_a_markdown_table_has_its_columns(report: Report) -> None:
    for block in render_markdown(report).split("\n\n"):
        if block.startswith("|"):
            widths = {line.replace("\\|", "").count("|") for line in block.strip().split("\n")}
            assert len(widths) == 1, block


def test_the_page_is_whole_and_stands_alone(report: Report) -> None:
    page = render_html(report)
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert {"svg", "table", "style"} <= balance.names
    assert "url(" not in page


def test_data_cannot_become_markup(report: Report) -> None:
    page = render_html(replace(report, title="<script>alert(1)</script>"))
    assert "<script>" not in page
    assert "<b>left</b>" not in page
    assert "&lt;b&gt;left&lt;/b&gt; of" in page


def test_only_the_first_wrong_rows_are_listed(report: Report) -> None:
    card = report.score_card
    assert card is not None
    page = render_html(report)
    shown = [each.name in page for each in card.wrong]
    assert len(card.wrong) == 80
    assert shown == [True] * 50 + [False] * 30
    assert "and 30 more." in page


def test_without_right_answers_there_is_no_accuracy(report: Report) -> None:
    blind = replace(report, score_card=None)
    for text in (render_markdown(blind), render_html(blind)):
        assert "accuracy" not in text.lower()
        assert "Margins" in text


def test_a_run_without_any_winner_has_no_margins(report: Report) -> None:
    for text in (
        render_markdown(replace(report, margins=())),
        render_html(replace(report, margins=())),
    ):
        assert "Margins" not in text
