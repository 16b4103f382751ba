"""The shipped multiple-choice text, to the letter, and the user's own Jinja files."""

import pytest

from martlet.batch.prompts import PromptTemplate, multiple_choice_prompt
from martlet.errors import InputError, NotFoundError

ENGLISH = """\
Ann is taller than Bo.

Question: Who is shorter?
A. Ann
B. Bo

Reason step by step briefly, then finish with a last line of the form "The answer is X", \
where X is the letter of the right option."""
CHINESE = """\
小明比小红高。

问题：谁更矮？
A. 小明
B. 小红
C. Bo

请先简要推理，最后一行写“答案是：X”，X 为正确选项的字母。"""


def test_english_prompt_to_the_letter() -> None:
    prompt = multiple_choice_prompt(" Ann is taller than Bo.\n", "Who is shorter? ", ["Ann", " Bo"])
    assert prompt == ENGLISH


def test_chinese_prompt_to_the_letter() -> None:
    prompt = multiple_choice_prompt("小明比小红高。", "谁更矮？", ["小明", "小红", "Bo"])
    assert prompt == CHINESE


def test_an_empty_problem_leaves_no_blank_line() -> None:
    assert multiple_choice_prompt(" ", "Who?", ["x", "y"]).startswith("Question: Who?\nA. x\n")


def test_chinese_options_alone_do_not_make_a_prompt_chinese() -> None:
    assert multiple_choice_prompt("", "Who?", ["小明", "小红"]).startswith("Question:")


def test_text_is_not_taken_for_a_template() -> None:
    assert "{{ problem }} <b>" in multiple_choice_prompt("{{ problem }} <b>", "Who?", ["x", "y"])


def test_up_to_twenty_six_options() -> None:
    assert "\nZ. 25\n" in multiple_choice_prompt("", "Who?", [str(i) for i in range(26)])
    with pytest.raises(InputError, match="1 to 26 options, not 27"):
        multiple_choice_prompt("", "Who?", ["x"] * 27)


def template_file(tmp_path, text):
    path = tmp_path / "prompt.jinja"
    path.write_text(text, encoding="utf-8")
    return PromptTemplate.from_file(path)


def test_a_template_words_a_row(tmp_path) -> None:
    template = template_file(tmp_path, "{{ a }}{% for b in bs %} {{ b }}{% endfor %}\n")
    assert template.render({"a": "x", "bs": [1, 2]}) == "x 1 2"
    assert len(template.template_hash) == 64


def test_an_unknown_variable_is_named_with_the_columns(tmp_path) -> None:
    with pytest.raises(InputError, match="'titel' is undefined; columns here: title, body"):
        template_file(tmp_path, "{{ titel }}").render({"title": "x", "body": "y"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ a + 1 }}", "TypeError"),
        ("{{ a.__class__.__mro__ }}", "unsafe"),
        ("{{ range(10**9) | list }}", "OverflowError"),
        (" \n", "empty prompt"),
    ],
)
def test_what_a_template_may_not_do(tmp_path, text, message) -> None:
    with pytest.raises(InputError, match=message):
        template_file(tmp_path, text).render({"a": "x"})


def test_a_broken_template_is_refused_with_its_line(tmp_path) -> None:
    with pytest.raises(InputError, match=r"prompt\.jinja, line 2: not Jinja"):
        template_file(tmp_path, "fine\n{% for %}")


def test_a_missing_template_is_not_found(tmp_path) -> None:
    with pytest.raises(NotFoundError, match=r"no such prompt template: .*absent\.jinja"):
        PromptTemplate.from_file(tmp_path / "absent.jinja")


def test_a_template_that_is_not_utf8_is_refused(tmp_path) -> None:
    path = tmp_path / "prompt.jinja"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        PromptTemplate.from_file(path)
