"""Every shape of row into prompts, and every unusable row into one reason."""

from collections import Counter

import pytest

from martlet.batch.prompts import PromptTemplate, multiple_choice_prompt
from martlet.batch.questions import Question, UnusableQuestion, questions_of
from martlet.batch.rows import Row, read_rows
from martlet.batch.shapes import Wording
from martlet.text.structured import StructuredOutput
from support.shared import SHARED, needs_shared


def ask(data, wording=None):
    row = Row(number=3, row_id="r", data=data)
    return questions_of(row, wording or Wording())


def asked(data, wording=None) -> Question:
    (question,) = ask(data, wording)
    assert isinstance(question, Question), question
    return question


def turns(question):
    return [(turn["role"], turn["content"]) for turn in question.prompt.messages]


def test_prompt_becomes_a_users_message() -> None:
    question = asked({"prompt": "x", "note": 1})
    assert turns(question) == [("user", "x")]
    assert question.question_id == "r"
    assert (question.options, question.answer, question.kind) == (None, None, None)


def test_messages_are_taken_as_they_are() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]
    assert asked({"messages": messages}, Wording(system="t")).prompt.messages == messages


def test_query_with_history_pairs_and_system() -> None:
    data = {"query": "x", "history": [["q", "a"], ["p", "b"]], "system": "s"}
    expected = [("system", "s"), ("user", "q"), ("assistant", "a")]
    expected += [("user", "p"), ("assistant", "b"), ("user", "x")]
    assert turns(asked(data)) == expected


def test_query_with_history_of_messages() -> None:
    history = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    question = asked({"query": "x", "history": history}, Wording(system="s"))
    roles = [role for role, _ in turns(question)]
    assert roles == ["system", "user", "assistant", "user"]


def test_instruction_and_input_without_the_output() -> None:
    question = asked({"instruction": "Translate.", "input": "chat", "output": "cat"})
    assert turns(question) == [("user", "Translate.\nchat")]
    assert turns(asked({"instruction": "Sing.", "input": ""})) == [("user", "Sing.")]


@pytest.mark.parametrize("column", ["problem", "context"])
def test_flat_multiple_choice(column) -> None:
    data = {"question": "q", "options": ["x", 2, True], column: "p", "answer": "B", "type": "sum"}
    question = asked(data)
    expected = multiple_choice_prompt("p", "q", ["x", "2", "true"])
    assert turns(question) == [("user", expected)]
    assert (question.options, question.answer) == (("x", "2", "true"), "B")
    assert question.kind == "sum"


def test_a_question_without_options_is_plain() -> None:
    question = asked({"question": "q", "problem": "p", "answer": 4})
    assert turns(question) == [("user", "p\n\nq")]
    assert question.answer == "4"


def test_nested_questions_share_the_problem() -> None:
    own = [{"question": "q", "options": ["x", "y"], "answer": "A", "kind": "k"}, {"question": "z"}]
    first, second = ask({"problem": "p", "questions": own, "answer": "not theirs"})
    assert turns(first) == [("user", multiple_choice_prompt("p", "q", ["x", "y"]))]
    assert turns(second) == [("user", "p\n\nz")]
    assert (first.question_id, second.question_id) == ("r/0", "r/1")
    assert (first.answer, second.answer, first.kind) == ("A", None, "k")


def test_one_bad_question_of_a_nested_row_leaves_the_others() -> None:
    own = [{"question": "q", "options": ["x", "y"]}, {"options": ["x", "y"]}, "z"]
    good, without, text = ask({"problem": "p", "questions": own})
    assert isinstance(good, Question)
    assert without.place == "line 3, question 2"
    assert "asks nothing" in without.reason
    assert text.reason == "a question is a JSON object, not str"


def test_an_openai_chat_line_sets_its_own_parameters() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": False}
    body |= {"temperature": 0.5, "max_completion_tokens": 9, "logit_bias": {"5": -1}, "top_p": None}
    line = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body}
    question = asked(line)
    assert turns(question) == [("user", "x")]
    overrides = {"temperature": 0.5, "max_tokens": 9, "logit_bias": {5: -1}}
    assert question.overrides == overrides


def test_an_openai_text_line_meets_no_chat_template() -> None:
    question = asked({"custom_id": "c", "body": {"prompt": "x", "seed": 4}})
    assert question.prompt.text == "x"
    assert question.overrides == {"seed": 4}


def test_an_openai_line_may_ask_for_a_form() -> None:
    body = {"prompt": "x", "response_format": {"type": "json_object"}}
    form = StructuredOutput(json_object=True)
    assert asked({"custom_id": "c", "body": body}).overrides == {"structured": form}


def test_raw_prompts_are_text() -> None:
    assert asked({"prompt": "x"}, Wording(is_raw=True)).prompt.text == "x"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"text": "x"}, "the row asks nothing; a row holds one of: prompt · messages · query"),
        ({"prompt": ""}, "asks nothing"),
        ({"prompt": None, "query": None}, "asks nothing"),
        ({"prompt": " \n"}, "no 'prompt', or an empty one"),
        ({"prompt": 5}, "'prompt' must be a text, not int"),
        ({"prompt": "x", "query": "y"}, "the row asks twice, in prompt and query"),
        ({"messages": "x"}, "'messages' must be a list"),
        ({"messages": [{"content": "x"}]}, "has a role and a content"),
        ({"messages": [{"role": "user", "content": "x"}], "history": [["a", "b"]]}, "'history'"),
        ({"query": "x", "history": "y"}, "'history' must be a list"),
        ({"query": "x", "history": [["a"]]}, "[question, answer] pair, not ['a']"),
        ({"query": "x", "history": [["a", "b", "c"]]}, "pair"),
        ({"question": "q", "options": ["x", "y", "x "]}, "options repeat: A and C are both 'x'"),
        ({"question": "q", "options": ["x"]}, "list of 2 to 26 texts"),
        ({"question": "q", "options": []}, "list of 2 to 26 texts"),
        ({"question": "q", "options": "x"}, "list of 2 to 26 texts"),
        ({"question": "q", "options": ["x", " "]}, "option B is empty"),
        ({"questions": "x"}, "'questions' must be a list"),
        ({"body": {"messages": []}}, "neither 'messages' nor a text 'prompt'"),
        ({"body": "x"}, "'body' must be a JSON object, not str"),
        ({"body": {"prompt": "x", "top_q": 1}}, "unknown field 'top_q' in body; known: messages"),
        ({"body": {"prompt": "x", "logprobs": 1}}, "unknown field 'logprobs'"),
        ({"body": {"prompt": "x", "response_format": "json"}}, "response_format must be"),
        ({"body": {"prompt": "x", "stream": True}}, "unknown field 'stream'"),
        ({"body": {"prompt": "x", "logit_bias": [1]}}, "logit_bias maps token ids"),
        ({"method": "GET", "body": {"prompt": "x"}}, "method must be POST"),
        ({"url": "/v1/embeddings", "body": {"prompt": "x"}}, "url must be one of"),
        ({"url": "/v1/chat/completions", "body": {"prompt": "x"}}, "holds 'messages'"),
    ],
)
def test_an_unusable_row_says_why(data, reason) -> None:
    (question,) = ask(data)
    assert isinstance(question, UnusableQuestion)
    assert question.place == "line 3"
    assert reason in question.reason


@pytest.mark.parametrize(
    "data", [{"prompt": "x", "system": "s"}, {"messages": [{"role": "user", "content": "x"}]}]
)
def test_raw_prompts_take_no_conversation(data) -> None:
    (question,) = ask(data, Wording(is_raw=True))
    assert isinstance(question, UnusableQuestion)
    assert "need the chat template" in question.reason


def test_options_that_repeat_may_be_allowed() -> None:
    data = {"question": "q", "options": ["x", "y", "x"]}
    (refused,) = ask(data)
    assert "--allow-repeated-options" in refused.remedy
    question = asked(data, Wording(allow_repeated_options=True))
    assert "A. x\nB. y\nC. x\n" in turns(question)[0][1]


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "prompt.jinja"
    path.write_text("{{ title }}/{{ question }}/{{ options | join(',') }}")
    return PromptTemplate.from_file(path)


def test_a_template_words_a_row_of_any_shape(template) -> None:
    data = {"title": "t", "question": "q", "options": ["x", "y"], "system": "a column", "body": {}}
    question = asked(data, Wording(template=template, system="s"))
    assert turns(question) == [("system", "s"), ("user", "t/q/x,y")]
    assert question.options == ("x", "y")


def test_a_template_words_each_nested_question(template) -> None:
    own = [{"question": "q", "options": ["x", "y"]}, {"question": "z", "options": "vw"}]
    first, second = ask({"title": "t", "questions": own}, Wording(template=template))
    assert turns(first) == [("user", "t/q/x,y")]
    assert turns(second) == [("user", "t/z/v,w")]
    assert second.options is None


def test_a_row_that_a_template_cannot_word_is_unusable(template) -> None:
    (question,) = ask({"title": "t"}, Wording(template=template))
    assert "'question' is undefined; columns here: title" in question.reason


@needs_shared
def test_all_questions_of_the_real_file() -> None:
    rows = read_rows(str(SHARED / "data/logic/round1_train.jsonl")).rows
    questions = [item for row in rows for item in questions_of(row, Wording())]
    kinds = Counter(type(item).__name__ for item in questions)
    assert kinds == {"Question": 1417, "UnusableQuestion": 4}
    allowed = Wording(allow_repeated_options=True)
    questions = [item for row in rows for item in questions_of(row, allowed)]
    assert all(isinstance(item, Question) and item.answer for item in questions)
    assert len({item.question_id for item in questions}) == len(questions) == 1421
