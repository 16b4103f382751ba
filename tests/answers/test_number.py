"""Numbers out of replies, in the one form of their value."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.answers.number import NumberExtractor
from martlet.errors import ParameterError
from support.shared import SHARED, needs_shared

STATED = [
    ("#### 18", "18"),
    ("She sold 24.\n#### 1,080", "1080"),
    ("18", "18"),
    ("18.", "18"),
    ("$18", "18"),
    ("\\$18.00", "18"),
    ("18%", "18"),
    ("-3", "-3"),
    ("−3", "-3"),
    ("0.50", "0.5"),
    (".5", "0.5"),
    ("007", "7"),
    ("The answer is 18.", "18"),
    ("The answer is $1,234.50 per day.", "1234.5"),
    ("The answer is -3.", "-3"),
    ("The answer is 3/4.", "0.75"),
    ("The answer is 1/3.", "1/3"),
    ("The answer is 2/6", "1/3"),
    ("The answer is 1 1/2 cups.", "1.5"),
    ("The answer is approximately 2.5.", "2.5"),
    ("The answer is x = 5.", "5"),
    ("The final answer is 3 + 4 = 7.", "7"),
    ("The answer is **72**.", "72"),
    ("**Answer:** 72 clips", "72"),
    ("The answer is 2 million dollars.", "2000000"),
    ("\\boxed{72}", "72"),
    ("\\boxed{\\frac{3}{4}}", "0.75"),
    ("$\\boxed{-\\dfrac{1}{3}}$", "-1/3"),
    ("\\boxed{1,080}", "1080"),
    ("\\boxed{x = 5}", "5"),
    ("\\boxed{18\\text{ dollars}}", "18"),
    ("答案是：18", "18"),
    ("答案为 18 元。", "18"),
    ("答案是１８。", "18"),
    ("正确答案是约3.14", "3.14"),
    ("答案：1.2万元", "12000"),
    ("答案是3亿", "300000000"),
    ("答案是18%。", "18"),
    ("Answer:\n\n18", "18"),
    ("Answer:" + "\n" * 5000 + "18", "18"),
    ("The answer is 5. Wait, no. The answer is 6.", "6"),
    ("The answer is not 5. It is below.\n#### 6", "6"),
    ("<think>The answer is 5.</think>The answer is 6.", "6"),
    ("48 / 2 = 24 in May.\n48 + 24 = 72", "72"),
    ("He has 3 and buys 4.\nSo Natalia sold 72 clips altogether.", "72"),
    ("所以她一共卖出了72个。", "72"),
    ("<answer>72</answer>", "72"),
]

UNSTATED = [
    "",
    "I cannot tell.",
    "So she sold 72 clips in 2 months.",
    "The answer is unknown.",
    "It takes 3-5 days.",
    "At 3:30 they leave.",
    "The answer is 3 × 10^8.",
    "The answer is 2^10.",
    "Use r205 and x2.",
    "<think>The answer is 5.",
    "The answer is 1/0.",
]


@pytest.mark.parametrize(("reply", "number"), STATED)
def test_a_stated_number_is_found(reply: str, number: str) -> None:
    assert NumberExtractor().extract(reply) == number


@pytest.mark.parametrize("reply", UNSTATED)
def test_another_number_never_counts(reply: str) -> None:
    assert NumberExtractor().extract(reply) is None


@pytest.mark.parametrize("answer", ["18", "18.0", "$18", "18%", "Sum: 9+9=18"])
def test_a_known_number_has_one_form(answer: str) -> None:
    assert NumberExtractor().canonical(answer) == "18"


def test_an_answer_without_a_number_is_refused() -> None:
    with pytest.raises(ParameterError, match="'Paris' is not a number"):
        NumberExtractor().canonical("Paris")


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
    )
)
def test_the_form_keeps_the_value(value: object) -> None:
    written = NumberExtractor().canonical(f"{value}")
    assert Fraction(written) == Fraction(str(value))
    assert NumberExtractor().canonical(written) == written


@given(st.text(alphabet="0123456789.,-/= answer is:#$%万", max_size=40))
def test_any_text_gives_a_number_in_its_own_form_or_nothing(text: str) -> None:
    number = NumberExtractor().extract(text)
    assert number is None or NumberExtractor().canonical(number) == number


@needs_shared
def test_every_reference_answer_of_gsm8k_is_read() -> None:
    lines = (SHARED / "data/gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        solution = json.loads(line)["answer"]
        expected = solution.rpartition("####")[2].strip().replace(",", "")
        assert NumberExtractor().canonical(solution) == expected
    assert len(lines) > 7000
