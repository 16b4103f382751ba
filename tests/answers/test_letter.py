"""Letters out of replies as models write them, in English and Chinese, and out of none else."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.answers.letter import LetterExtractor, LettersExtractor
from martlet.errors import ParameterError
from support.shared import SHARED, needs_shared

CITIES = ("London", "Paris", "Rome", "New York")
FRENCH = (
    "le chat saute sur la lune",
    "le chat sauts sur le lune",
    "le sauts chat sur le lune",
    "le chat sauts sur la lune",
)
YES_NO = ("是", "否")

STATED = [
    # A letter and nothing else.
    ("B", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    (" b ", "B"),
    ("Ｂ", "B"),
    ("**B**", "B"),
    ("**(B)**", "B"),
    ("`B`", "B"),
    ("$B$", "B"),
    ("B\n", "B"),
    ("[B]", "B"),
    ("Option B", "B"),
    ("选项B", "B"),
    ("B选项", "B"),
    ("选B。", "B"),
    ("B<|im_end|>", "B"),
    # English cues.
    ("The answer is B", "B"),
    ("The answer is B.", "B"),
    ("the answer is (B)", "B"),
    ("The answer is (b).", "B"),
    ("The correct answer is d.", "D"),
    ("The answer is: C", "C"),
    ("The answer is **C**.", "C"),
    ("The answer is 'C'.", "C"),
    ("The answer is [C]", "C"),
    ("The answer is option C.", "C"),
    ("The answer is therefore C.", "C"),
    ("The answer is most likely C.", "C"),
    ("So the answer must be (C), as shown.", "C"),
    ("The answer should be C", "C"),
    ("The answer to question 3 is (D).", "D"),
    ("The answer to this question is D because it follows.", "D"),
    ("The answer is B because a car moves.", "B"),
    ("The answer is C because I computed the integral.", "C"),
    ("ANSWER IS D. A is incorrect.", "D"),
    ("Answer: D, not B", "D"),
    ("Answer: B", "B"),
    ("answer: b", "B"),
    ("ANSWER: $A$", "A"),
    ("**Answer:** (B)", "B"),
    ("**Answer: D**", "D"),
    ("### Answer: B", "B"),
    ("Answer:\n\nB", "B"),
    ("Answer:\n\nB. Paris", "B"),
    ("Final answer - B", "B"),
    ("My answer: C.", "C"),
    ("Final Answer: The final answer is $\\boxed{C}$. I hope it is correct.", "C"),
    ("Correct option: B", "B"),
    ("The correct option is B.", "B"),
    ("The correct choice is (A).", "A"),
    ("The best choice is A, since it holds.", "A"),
    ("The correct translation is: B.", "B"),
    ("The correct one is D.", "D"),
    ("I would choose B.", "B"),
    ("I'd go with option C.", "C"),
    ("I would pick B — a safe choice.", "B"),
    ("I'll go with (D).", "D"),
    ("We therefore select B.", "B"),
    ("Answer: I think it is C", "C"),
    ('{"reasoning": "because", "answer": "B"}', "B"),
    ("<answer>B</answer>", "B"),
    ("<think>Is it A? The answer is A.</think>\n\nThe answer is B.", "B"),
    ("\\boxed{B}", "B"),
    ("\\boxed{\\text{B}}", "B"),
    ("Thus \\(\\boxed{\\mathrm{(B)}}\\).", "B"),
    ("$\\boxed{\\textbf{(D) } 12}$", "D"),
    ("#### B", "B"),
    # Verdicts after the letter.
    ("C is the correct answer.", "C"),
    ("Therefore, (C) is the best answer.", "C"),
    ("Option D is the only correct choice.", "D"),
    ("So B is the answer, as A fails.", "B"),
    ("Therefore, option B is correct.", "B"),
    ("Hence B is correct.", "B"),
    ("So it must be B.", "B"),
    ("Thus, B.", "B"),
    ("We get 12, which is option (C).", "C"),
    ("The value is 12. This corresponds to option C.", "C"),
    ("Option B is correct.", "B"),
    ("A fails, D fails.\n\nOption B is correct, as the rule holds.", "B"),
    ("This leaves B as the answer.", "B"),
    ("So the choice is B.", "B"),
    ("Ans: B", "B"),
    ("I'm going with B", "B"),
    # The last statement counts.
    ("The answer is B. Wait, no: the answer is C", "C"),
    ("Answer: A? Let me check.\n\nThe answer is D.", "D"),
    ("The answer is A.\nOn reflection it fails.\n\nB", "B"),
    ("I considered (A), but it is incorrect. Final answer: D.", "D"),
    ("Answer: It is not B, the answer is D", "D"),
    ("The answer is B. Note that A is a common distractor.", "B"),
    ("The answer is B. The other options, A and C, are wrong.", "B"),
    ("The answer is A and B is wrong.", "A"),
    ("Answer seems to be A.\n\nAnswer: B", "B"),
    ("**Answer: D**, while \\boxed{\\langle H\\rangle \\ll \\Delta E} is a bound.", "D"),
    # First or last lines.
    ("B\n\nExplanation: Paris is the capital, A is not.", "B"),
    ("It rains in the rules above.\n\n**B**", "B"),
    # Chinese cues.
    ("答案是：B", "B"),
    ("答案是:B", "B"),
    ("答案是B", "B"),
    ("答案是 B。", "B"),
    ("答案为B", "B"),
    ("答案为：B。", "B"),
    ("答案：Ｂ", "B"),
    ("答案：（B）", "B"),
    ("答案：【B】", "B"),
    ("答案 B", "B"),
    ("答案B", "B"),
    ("【答案】B", "B"),
    ("【答案】：B", "B"),
    ("**答案是：A**", "A"),
    ("答案是“B”。", "B"),
    ("答案应该是B。", "B"),
    ("答案应为 B", "B"),
    ("答案就是B。", "B"),
    ("答案选B", "B"),
    ("答案选择 B。", "B"),
    ("答案是选项B", "B"),
    ("答案是选项 B，因为A不成立。", "B"),
    ("答案是B选项。", "B"),
    ("答案是B，A选项错误。", "B"),
    ("答案是B而不是A。", "B"),
    ("答案是：B（尽管题目有误）", "B"),
    ("答案最有可能是C。", "C"),
    ("正确答案是C。", "C"),
    ("正确答案：C", "C"),
    ("正确选项是：D", "D"),
    ("正确的选项为D。", "D"),
    ("以上说法正确的是D。", "D"),
    ("符合题意的是 B。", "B"),
    ("应选B", "B"),
    ("故选：B．", "B"),
    ("故选B。", "B"),
    ("因此选择B。", "B"),
    ("所以我选择选项 D。", "D"),
    ("综上，选C。", "C"),
    ("选择 B", "B"),
    ("我选择C作为最终答案。", "C"),
    ("C是正确答案。", "C"),
    ("选项C是最佳答案", "C"),
    ("因此，选项B是正确的。", "B"),
    ("所以是B。", "B"),
    ("因此，B选项正确。", "B"),
    ("选项A错误，选项C错误，因此选项B正确。", "B"),
    ("只有选项C符合条件。", "C"),
    ("答：B", "B"),
    ("答案→B", "B"),
    ("不，答案是C", "C"),
    ("前面有误。\n答案是C", "C"),
    ("答案是A。不对，重新计算后，答案是C。", "C"),
    ("答案是：B. 否", "B"),
    ("答案是：B.否", "B"),
    ("选择题1的答案是：\n\n答案是：A. r205", "A"),
    ("<think>答案是A</think>答案是B", "B"),
]

UNSTATED = [
    "",
    "   \n",
    "A cat sat on the mat.",
    "B vitamins are good for you.",
    "Option analysis: A is wrong because the rule fails.",
    "Options: A) London B) Paris C) Rome D) New York",
    "A. London\nB. Paris\nC. Rome\nD. New York",
    "The answer is not A.",
    "The answer isn't A.",
    "The wrong answer is A.",
    "The incorrect option is: A",
    "I do not think the answer is A.",
    "If the answer is A, then the rule fails.",
    "Suppose the answer is B.",
    "I would not choose A.",
    "If we choose A, the rule fails.",
    "The answer is A cat.",
    "The answer is a cat.",
    "The answer is A-frame.",
    "The answer is C++.",
    "The answer is A's brother.",
    "The answer is A or B.",
    "The answer is either A or B.",
    "The answer is neither A nor B.",
    "Neither A nor B is the correct answer.",
    "The answer might be B.",
    "The answer is E.",
    "The answer is unknown.",
    "ANSWER: None of the above",
    "ANSWER: Don't know",
    "ANSWER: I don't know",
    "Answer: I am not sure",
    "The calculated answer is 11.",
    "Answer A is wrong because it rains.",
    "A is not the correct answer.",
    "So if A is correct then B is too.",
    "So A is correct. So B is correct.",
    "A is correct.\n\nB is correct as well.",
    "The rule e.g. fails.\ne.g. here",
    "Plan B is to wait.",
    "Vitamin C is the best.",
    "\\boxed{A \\cup B}",
    "\\boxed{42}",
    "#### A. Analysis of the first option\nIt holds.",
    "Answer:\nA. London is wrong.\nB. Paris is right.",
    "<think>The answer is B",
    "The answer",
    "The answer is",
    "答案",
    "答案是：",
    "答案不是A",
    "答案不是 A。",
    "不选A",
    "不应选A。",
    "我不选择A。",
    "错误答案是A。",
    "不正确的答案是：A",
    "如果答案是A，则矛盾。",
    "假设答案是B",
    "排除选项A。",
    "选项A描述了一个完全二叉树。",
    "选项A：描述有误。",
    "选项A错误。",
    "A错误，B也错误。",
    "答案是C语言",
    "答案是A型血",
    "答案是A或B",
    "答案可能是A",
    "答案是否定的",
    "答案是E",
    "答案是：没有正确答案。",
    "答案是：此题无解，所有选项都不正确。",
    "A: 正确 B: 错误",
    "A正确，B正确",
    "小A和小B是朋友。",
    "这里的“A”并非正确答案",
    "B、C、D都是正确答案",
]


@pytest.mark.parametrize(("reply", "letter"), STATED)
def test_a_stated_letter_is_found(reply: str, letter: str) -> None:
    assert LetterExtractor(["one", "two", "three", "four"]).extract(reply) == letter


@pytest.mark.parametrize("reply", UNSTATED)
def test_a_stray_letter_never_counts(reply: str) -> None:
    assert LetterExtractor(["one", "two", "three", "four"]).extract(reply) is None


@pytest.mark.parametrize(
    ("options", "reply", "letter"),
    [
        (CITIES, "The answer is Paris.", "B"),
        (CITIES, "The answer is New York, of course.", "D"),
        (CITIES, "Answer: rome", "C"),
        (CITIES, "Paris", "B"),
        (CITIES, "B. Paris", "B"),
        (CITIES, "B) Paris\n\nIt is the capital of France.", "B"),
        (CITIES, "A) London is in England.\n\nIt is not C.\n\nB) Paris", "B"),
        (CITIES, "A) London is in England.\n\nC) Rome is in Italy.\n\nB) Paris", None),
        (CITIES, "The answer is B Paris", "B"),
        (CITIES, "The answer is Parisian food.", None),
        (CITIES, "Paris is a city.", None),
        (CITIES, "A. London\n\nB. Paris\n\nC. Rome\n\nD. New York", None),
        (CITIES, "D. Madrid", None),
        (FRENCH, "所以翻译为：\n\nB. le chat sauts sur le lune", "B"),
        (FRENCH, "Answer: le chat sauts sur la lune.", "D"),
        (YES_NO, "答案是：否。", "B"),
        (YES_NO, "答案是否。", "B"),
        (YES_NO, "答案是否定的。", None),
        (YES_NO, "答案是：C", None),
        (("5", "50"), "The answer is 50.", "B"),
        (("5", "50"), "The answer is 5.5", None),
        (("A cat sat", "A dog sat"), "Answer: A cat sat", "A"),
        (("A cat sat", "A dog sat"), "Answer: A dog sat", "B"),
        ((), "The answer is J.", "J"),
        ((), "The answer is K.", None),
        ((), "It follows.\nB. le chat", "B"),
        ((), "A. le chat\n\nIt fails.\n\nB. la lune", None),
        (tuple(map(str, range(26))), "The answer is Z.", "Z"),
    ],
)
def test_the_texts_of_the_options_count(
    options: tuple[str, ...], reply: str, letter: str | None
) -> None:
    assert LetterExtractor(options).extract(reply) == letter


@pytest.mark.parametrize(
    ("reply", "letters"),
    [
        ("答案是：A、C", "AC"),
        ("答案：AC", "AC"),
        ("答案是ＡＣＤ。", "ACD"),
        ("答案是A、C选项。", "AC"),
        ("答案是：A，C", "AC"),
        ("答案: A C D", "ACD"),
        ("故选：BD．", "BD"),
        ("选择A和C。", "AC"),
        ("【答案】ABD", "ABD"),
        ("The answer is A and C.", "AC"),
        ("The answers are A, B and D.", "ABD"),
        ("The correct options are (A) and (C).", "AC"),
        ("The correct answers are: C, A", "AC"),
        ("\\boxed{A, C}", "AC"),
        ("\\boxed{AC}", "AC"),
        ("A, C", "AC"),
        ("ACD", "ACD"),
        ("The answer is B", "B"),
        ("The answer is A and B is wrong.", "A"),
        ("答案是A，C错误。", "A"),
        ("The answer is AA.", None),
        ("The answer is AE.", None),
        ("It is bad.\nbad", None),
        ("答案不是A、C", None),
    ],
)
def test_several_letters_are_sorted(reply: str, letters: str | None) -> None:
    assert LettersExtractor(["one", "two", "three", "four"]).extract(reply) == letters


@pytest.mark.parametrize(
    "answer", ["B", "b", "B.", "(B)", "Ｂ", " B\n", "B. Paris", "Paris", "PARIS"]
)
def test_a_known_letter_has_one_form(answer: str) -> None:
    assert LetterExtractor(CITIES).canonical(answer) == "B"


@pytest.mark.parametrize("answer", ["AC", "CA", "A,C", "A、C", "c, a", "(A), (C)", "A C"])
def test_known_letters_have_one_form(answer: str) -> None:
    assert LettersExtractor(CITIES).canonical(answer) == "AC"


@pytest.mark.parametrize("answer", ["", "E", "AB", "Madrid"])
def test_an_answer_that_is_no_option_is_refused(answer: str) -> None:
    with pytest.raises(ParameterError, match="not one of the options A, B, C, D"):
        LetterExtractor(CITIES).canonical(answer)
    if answer != "AB":
        with pytest.raises(ParameterError, match="names other options than A, B, C, D"):
            LettersExtractor(CITIES).canonical(answer)


@given(st.text(alphabet="ABab 答案是：:.,()\n*不the answer is", max_size=60))
def test_any_text_gives_an_option_or_nothing(text: str) -> None:
    assert LetterExtractor(CITIES).extract(text) in (None, "A", "B", "C", "D")


@given(reasoning=st.text(max_size=200), letter=st.sampled_from("ABCD"))
def test_a_last_line_wins_over_any_reasoning(reasoning: str, letter: str) -> None:
    assert LetterExtractor(CITIES).extract(f"{reasoning}</think>\n答案是：{letter}") == letter


@needs_shared
def test_every_reply_of_the_logic_training_file_is_read() -> None:
    rows = json.loads((SHARED / "data/logic/cot_train.json").read_text(encoding="utf-8"))
    stated = re.compile(r"答案是：\s*([A-Z])(?![A-Za-z])")
    num_stated = 0
    for row in rows:
        expected = stated.findall(row["output"])[-1:] or [None]
        num_stated += expected != [None]
        assert LetterExtractor().extract(row["output"]) == expected[0]
    assert (num_stated, len(rows)) == (1200, 1204)
