"""From files of every format to what the model learns: examples, masks, splits, lengths."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.demo import model_path
from martlet.errors import InputError, NotFoundError, ParameterError, RowError
from martlet.text.tokenizer import Tokenizer
from martlet.train.config import DataConfig, TooLong
from martlet.train.encoding import EncodedExample, Encoder
from martlet.train.example import Completion, Conversation, Origin, Preference
from martlet.train.fitting import Fitted, fit_rows
from martlet.train.sources import read_source
from martlet.train.split import overlap, split_off
from support.shared import SHARED, needs_shared

USER = {"role": "user", "content": "Hi"}
REPLY = {"role": "assistant", "content": "Hello"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(model_path())


def write(path: Path, *rows: Mapping[str, object]) -> str:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return str(path)


def read(path: Path, *rows: Mapping[str, object], **config: object) -> list[object]:
    source = read_source(write(path, *rows), DataConfig(**config))
    for fault in source.faults:
        raise fault
    return list(source.examples)


def texts(example: object) -> list[tuple[object, object]]:
    assert isinstance(example, Conversation)
    return [(each["role"], each["content"]) for each in example.messages]


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"messages": [USER, REPLY]}, [("user", "Hi"), ("assistant", "Hello")]),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello"},
                ],
                "system": "Be brief.",
            },
            [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")],
        ),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["a", "b"]]},
            [("user", "a"), ("assistant", "b"), ("user", "Add.\n1 2"), ("assistant", "3")],
        ),
        (
            {"query": "Hi", "response": "Hello", "history": []},
            [("user", "Hi"), ("assistant", "Hello")],
        ),
        (
            {"question": "2 + 2?", "answer": "2 + 2 = 4\n#### 4"},
            [("user", "2 + 2?"), ("assistant", "2 + 2 = 4\n#### 4")],
        ),
    ],
)
def test_a_format_is_known_by_its_columns(
    row: dict[str, object], turns: list[tuple[str, str]], tmp_path: Path
) -> None:
    (example,) = read(tmp_path / "rows.jsonl", row)
    assert texts(example) == turns


def test_a_nested_row_teaches_each_of_its_questions_as_it_will_be_asked(tmp_path: Path) -> None:
    row = {
        "problem": "安娜在左边。",
        "questions": [
            {"question": "谁在左边？", "options": ["安娜", "本"], "answer": "A"},
            {
                "question": "谁在右边？",
                "options": ["安娜", "本"],
                "answer": "本",
                "reasoning": "另一个。",
            },
        ],
    }
    first, second = map(texts, read(tmp_path / "rows.jsonl", row))
    assert "谁在左边？\nA. 安娜\nB. 本" in str(first[0][1])
    assert first[1][1] == "答案是：A"
    assert second[1][1] == "另一个。\n答案是：B"


def test_prompt_and_completion_are_raw_text(tmp_path: Path) -> None:
    (example,) = read(tmp_path / "rows.jsonl", {"prompt": "1 + 1 =", "completion": " 2"})
    assert isinstance(example, Completion)


def test_any_columns_are_mapped_and_worded(tmp_path: Path) -> None:
    template = tmp_path / "prompt.jinja"
    template.write_text("On {{ topic }}:\n{{ dialogue }}")
    row = {"dialogue": "A: Hi", "topic": "greeting", "summary": "They greet."}
    file = tmp_path / "rows.jsonl"
    (example,) = read(file, row, map=("reply=summary",), prompt_template=template)
    assert texts(example) == [("user", "On greeting:\nA: Hi"), ("assistant", "They greet.")]
    (example,) = read(file, row, map=("prompt=dialogue", "reply=summary"))
    assert texts(example)[0] == ("user", "A: Hi")
    with pytest.raises(RowError, match=r"line 1: no column 'text', .* dialogue, topic, summary"):
        read(file, row, map=("prompt=text",))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
        {"messages": [USER], "chosen": [REPLY], "rejected": {"role": "assistant", "content": "Go"}},
        {
            "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [REPLY],
            "non_preferred_output": [{"role": "assistant", "content": "Go"}],
        },
        {"chosen": [USER, REPLY], "rejected": [USER, {"role": "assistant", "content": "Go"}]},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "Go"},
        },
    ],
)
def test_preferences_are_read_in_every_form(row: dict[str, object], tmp_path: Path) -> None:
    (example,) = read(tmp_path / "rows.jsonl", row)
    assert isinstance(example, Preference)
    assert example.messages == (USER,)
    assert [each["content"] for each in (*example.chosen, *example.rejected)] == ["Hello", "Go"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [USER]}, "no turn of the assistant's"),
        ({"messages": [REPLY, USER, REPLY]}, "turn 0 is of role assistant; at the start may come"),
        ({"messages": [USER, REPLY, USER]}, "the last turn is of role 'user'"),
        ({"messages": [USER, USER, REPLY]}, "turn 1 is of role user; after user may come: assis"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "unknown role 'judge'"),
        ({"text": "Hi"}, "no known format; its columns are: text"),
        ({"instruction": "Add."}, "no reply: a row says it in one of"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        (
            {"input": "Hi", "preferred_output": [REPLY], "non_preferred_output": [REPLY]},
            "input must be an object with messages",
        ),
        (
            {"question": "?", "options": ["x", "y"], "answer": "C"},
            "the answer 'C' is none of the options, A to B",
        ),
    ],
)
def test_a_row_that_cannot_be_learned_is_named_with_its_line(
    row: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RowError) as refused:
        read(tmp_path / "rows.jsonl", {"messages": [USER, REPLY]}, row)
    assert "rows.jsonl, line 2" in str(refused.value)
    assert words in str(refused.value)


def test_a_source_says_how_many_of_its_rows_are_taken(tmp_path: Path) -> None:
    rows = [{"messages": [{**USER, "content": f"{i}"}, REPLY]} for i in range(20)]
    file = write(tmp_path / "rows.jsonl", *rows)
    sampled = read_source(f"{file}#5", DataConfig()).examples
    assert len(sampled) == 5
    assert sampled == read_source(f"{file}#5", DataConfig()).examples
    assert len(read_source(f"{file}@0.5", DataConfig()).examples) == 10
    assert len(read_source(f"{file}@2.5", DataConfig()).examples) == 50
    with pytest.raises(ParameterError, match="takes 21 of 20 rows"):
        read_source(f"{file}#21", DataConfig())
    with pytest.raises(NotFoundError):
        read_source("nowhere.jsonl", DataConfig())
    with pytest.raises(NotFoundError, match=r"no file sharegpt; a data set .* owner/name"):
        read_source("sharegpt#1000", DataConfig())


def marked(tokenizer: Tokenizer, sequences: Sequence[EncodedExample]) -> list[str]:
    """Each sequence as text, what is learned in brackets."""
    drawn = []
    for each in sequences:
        text, was_target = "", False
        for token_id, is_target in zip(each.token_ids, each.is_target, strict=True):
            text += "[" if is_target > was_target else "]" if is_target < was_target else ""
            text += tokenizer.decode([token_id], skip_special_tokens=False)
            was_target = is_target
        drawn.append(text + ("]" if was_target else ""))
    return drawn


def conversation(*turns: Mapping[str, object], **given: object) -> Conversation:
    return Conversation(origin=Origin(path="rows.jsonl", row=1), messages=turns, **given)


def test_replies_and_their_ends_are_learned_and_nothing_else(tokenizer: Tokenizer) -> None:
    twice = conversation(USER, REPLY, USER, REPLY)
    (drawn,) = marked(tokenizer, Encoder(tokenizer).encode(twice))
    turn = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Hello<|im_end|>]"
    assert drawn == f"{turn}\n{turn}"
    once = conversation(USER, REPLY, USER, REPLY, untrained=frozenset({1}))
    (drawn,) = marked(tokenizer, Encoder(tokenizer).encode(once))
    assert drawn == f"{turn.replace('[', '').replace(']', '')}\n{turn}"


@needs_shared
@pytest.mark.parametrize(
    "template", ["qwen2-1.5b-instruct", "qwen2.5-7b-instruct", "qwen3-0.6b", "chatml", "chatglm3"]
)
def test_what_stands_before_a_reply_is_the_prompt_that_is_served(template: str) -> None:
    source = (SHARED / "templates" / f"{template}.jinja").read_text()
    tokenizer = Tokenizer.load(SHARED / "tokenizers" / "qwen2", chat_template=source)
    turns = [{"role": "system", "content": "Be brief."}, USER, REPLY, USER, REPLY]
    sequences = Encoder(tokenizer).encode(conversation(*turns))
    last = sequences[-1]
    _, prompt_ids = tokenizer.render(turns[:-1])
    num_last = len(last.token_ids) - len(prompt_ids)
    assert last.token_ids[: len(prompt_ids)] == prompt_ids
    assert last.is_target[len(prompt_ids) :] == (True,) * num_last
    if template == "qwen3-0.6b":  # it shows the thinking of the last reply alone
        assert len(sequences) == 2
    elif last.ends:
        assert last.token_ids[-1] in tokenizer.stop_ids


@needs_shared
@pytest.mark.parametrize(
    "name",
    [
        "formats/alpaca_en_demo.json",
        "formats/alpaca_zh_demo.json",
        "formats/identity.json",
        "formats/dpo_zh_demo.json",
        "formats/glaive_toolcall_zh_demo.json",
        "logic/round1_train.jsonl",
        "logic/cot_train.json",
        "gsm8k/train.jsonl",
    ],
)
def test_the_files_of_other_tools_are_read_whole(name: str) -> None:
    config = DataConfig(allow_repeated_options=True)
    source = read_source(str(SHARED / "data" / name), config)
    if name == "logic/round1_train.jsonl":
        assert len(source.examples) == 1421
    kind = Preference if "dpo" in name else Conversation
    assert all(isinstance(each, kind) for each in source.examples)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=4, max_size=40),
    st.floats(0.05, 0.5),
)
def test_a_split_never_leaks(rows: list[tuple[int, int]], share: float) -> None:
    examples = [
        Conversation(
            origin=Origin(path="rows.jsonl", row=row),
            messages=({"role": "user", "content": f"Question  {asked}"}, REPLY),
        )
        for row, asked in rows
    ]
    try:
        training, validation = split_off(examples, share)
    except InputError:
        return
    assert len(training) + len(validation) == len(examples)
    assert training
    assert validation
    assert not overlap(training, validation)
    assert {str(each.origin) for each in training}.isdisjoint(str(e.origin) for e in validation)


def test_long_rows_are_refused_skipped_or_cut_by_whole_turns(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer)
    system = {"role": "system", "content": "Be brief."}
    short = conversation(USER, REPLY)
    long = conversation(system, USER, REPLY, USER, REPLY, USER, REPLY)
    max_length = len(encoder.encode(long)[0].token_ids) - 1

    def fit(policy: TooLong) -> Fitted:
        return fit_rows([short, long], encoder, max_length=max_length, too_long=policy)

    with pytest.raises(InputError, match=r"1 rows are longer than \d+ tokens: rows.jsonl, row 1"):
        fit("error")
    skipped = fit("skip")
    assert skipped.examples == (short,)
    assert skipped.encoded == encoder.encode(short)
    assert skipped.losses[0].num_tokens == max_length + 1
    cut = fit("truncate-left")
    shorter = conversation(system, USER, REPLY, USER, REPLY)
    assert cut.examples == (short, shorter)
    assert cut.encoded == (*encoder.encode(short), *encoder.encode(shorter))
    assert cut.losses[0].num_tokens == max_length + 1 - len(cut.encoded[1].token_ids)


def test_a_long_preference_is_refused_or_skipped(tokenizer: Tokenizer) -> None:
    encoder, origin = Encoder(tokenizer), Origin(path="rows.jsonl", row=4)
    long = Preference(origin=origin, messages=(USER,), chosen=(REPLY,), rejected=(REPLY,))
    encoded = encoder.encode_preference(long)
    max_length = len(encoded.prompt_ids) + len(encoded.rejected_ids) - 1
    with pytest.raises(InputError, match="row 4"):
        fit_rows([long], encoder, max_length=max_length, too_long="truncate-left")
    assert not fit_rows([long], encoder, max_length=max_length, too_long="skip").examples
    assert fit_rows([long], encoder, max_length=max_length + 1, too_long="error").examples
