"""The rows that two models are compared on, as token ids."""

import json
from collections.abc import Iterable, Mapping, Sequence

from martlet.demo import puzzles_path
from martlet.errors import InputError
from martlet.text.tokenizer import Tokenizer

NUM_BUILT_IN = 24
BUILT_IN = "sentences of the embedded puzzles"


def built_in_rows() -> list[Mapping[str, object]]:
    """Conversations from the embedded puzzle file: a problem, a question, the right option."""
    lines = puzzles_path().read_text(encoding="utf-8").splitlines()[:NUM_BUILT_IN]
    return [_conversation(json.loads(line)) for line in lines]


def token_rows(
    rows: Iterable[Mapping[str, object]], tokenizer: Tokenizer, *, max_tokens: int
) -> list[tuple[int, ...]]:
    """Renders rows by the model's own template, or joins their texts where it has none.

    A row is a conversation (`messages`), or its columns of text in their order: the last one is
    the reply. What is longer than `max_tokens` is compared as far as that.

    Raises:
        InputError: If no row has two tokens of text.
        TemplateError: If the template refuses a conversation.
    """
    ids = [_row_ids(row, tokenizer)[:max_tokens] for row in rows]
    usable = [row for row in ids if len(row) > 1]
    if not usable:
        raise InputError("no row holds text: give messages, or columns of text")
    return usable


def _row_ids(row: Mapping[str, object], tokenizer: Tokenizer) -> tuple[int, ...]:
    messages = _messages(row)
    if tokenizer.has_template:
        return tokenizer.render(messages, add_generation_prompt=False)[1]
    text = "\n".join(str(message["content"]) for message in messages)
    return tokenizer.encode(text, add_special_tokens=True)


def _messages(row: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    given = row.get("messages")
    if isinstance(given, list):
        return given
    texts = [value for name, value in row.items() if isinstance(value, str) and name != "id"]
    roles = ["assistant" if texts[1:] and text is texts[-1] else "user" for text in texts]
    asked = "\n".join(text for text, role in zip(texts, roles, strict=True) if role == "user")
    turns = [{"role": "user", "content": asked}]
    replies = [text for text, role in zip(texts, roles, strict=True) if role == "assistant"]
    return [*turns, *({"role": "assistant", "content": text} for text in replies[-1:])]


def _conversation(puzzle: Mapping[str, object]) -> Mapping[str, object]:
    questions = puzzle["questions"]
    assert isinstance(questions, list), "the embedded file is ours"
    first = questions[0]
    asked = f"{puzzle['problem']}{first['question']}{'，'.join(first['options'])}"
    answer = first["options"]["ABCDEFGH".index(first["answer"])]
    return {
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer},
        ]
    }
