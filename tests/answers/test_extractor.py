"""The command line's names of extractors, and the two that read free answers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.answers.extractor import parse_extractor
from martlet.answers.json_field import JsonFieldExtractor
from martlet.answers.pattern import RegexExtractor
from martlet.errors import ParameterError


@pytest.mark.parametrize(
    ("spec", "reply", "answer"),
    [
        ("letter", "The answer is B.", "B"),
        ("letters", "答案是：A、B", "AB"),
        ("number", "#### 1,080", "1080"),
        ("json:answer", '{"answer": "yes"}', "yes"),
        (r"regex:code:\s*(\w+)", "code: x1 code: y2", "y2"),
    ],
)
def test_each_extractor_has_a_name(spec: str, reply: str, answer: str) -> None:
    assert parse_extractor(spec)(("one", "two")).extract(reply) == answer


@pytest.mark.parametrize("spec", ["", "word", "letter:A", "number:", "json", "json:", "regex:"])
def test_an_unknown_name_is_refused(spec: str) -> None:
    with pytest.raises(ParameterError, match="one of letter, letters, number"):
        parse_extractor(spec)


def test_a_bad_pattern_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"'\(' is no regular expression"):
        parse_extractor("regex:(")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ('{"answer": "B"}', "B"),
        ('{"answer": "b."}', "B"),
        ('```json\n{"reasoning": "a {brace}", "answer": " Paris "}\n```', "Paris"),
        ('First {"answer": "A"} then {"answer": "B"}', "B"),
        ('{"answer": "A"} and {"other": 1}', "A"),
        ('{"answer": 18.0}', "18"),
        ('{"answer": 18}', "18"),
        ('{"answer": 0.5}', "0.5"),
        ('{"answer": true}', "true"),
        ('{"answer": ["B", "A"]}', '["B", "A"]'),
        ('{"answer": "是"}', "是"),
        ('<think>{"answer": "A"}</think>{"answer": "B"}', "B"),
        ('{"outer": {"answer": "A"}}', None),
        ('{"answer": null}', None),
        ('{"answer": ""}', None),
        ('{"answer": "B"', None),
        ("{" * 5000, None),
        ("answer: B", None),
        ("", None),
    ],
)
def test_a_field_is_read_from_the_last_object_that_has_it(reply: str, answer: str | None) -> None:
    assert JsonFieldExtractor("answer").extract(reply) == answer


@pytest.mark.parametrize(
    ("pattern", "reply", "answer"),
    [
        (r"=> (\w+)", "=> one => two", "two"),
        (r"yes|no", "yes, no, yes", "yes"),
        (r"=> (\w*)", "=> ", None),
        (r"a(b)?", "a", None),
        (r"=> (.*)", "=> “Ｐaris”。", "Paris"),
        (r"(\w)$", "it is b", "B"),
        (r"nothing", "something else", None),
    ],
)
def test_a_pattern_reads_its_first_group(pattern: str, reply: str, answer: str | None) -> None:
    assert RegexExtractor(re.compile(pattern)).extract(reply) == answer


@given(st.text(max_size=80))
def test_the_form_of_a_free_answer_is_stable(text: str) -> None:
    for extractor in (JsonFieldExtractor("answer"), RegexExtractor(re.compile("x"))):
        once = extractor.canonical(text)
        assert extractor.canonical(once) == once
