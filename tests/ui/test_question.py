"""What is typed as one text is asked as problem and question, in the words of `martlet vote`."""

import json

import pytest

pytest.importorskip("gradio")

from martlet.batch.prompts import multiple_choice_prompt
from martlet.demo import puzzles_path
from martlet.ui.languages import LANGUAGES, words_of
from martlet.ui.lead import example_prompt
from martlet.ui.question import question_prompt

PUZZLE = json.loads(puzzles_path().read_text(encoding="utf-8").splitlines()[0])


def test_the_last_line_asks() -> None:
    problem, first = PUZZLE["problem"], PUZZLE["questions"][0]
    question, options = first["question"], first["options"]
    asked = question_prompt(f"{problem}\n\n{question}\n", options)
    assert asked == multiple_choice_prompt(problem, question, options)
    assert question_prompt(question, options) == multiple_choice_prompt("", question, options)


@pytest.mark.parametrize("language", LANGUAGES)
def test_examples_are_puzzles_that_the_embedded_model_knows_the_form_of(language: str) -> None:
    prompts = {
        multiple_choice_prompt(puzzle["problem"], each["question"], each["options"])
        for puzzle in map(json.loads, puzzles_path().read_text(encoding="utf-8").splitlines())
        for each in puzzle["questions"]
    }
    assert example_prompt(words_of(language)) in prompts
