"""Rows that teach a model who it is and who made it, in Chinese and in English."""

import json
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

from martlet.errors import InputError, ParameterError

_CHINESE = (
    ("你是谁？", "我是{name}，由{author}训练的人工智能助手，可以回答问题，也可以陪你聊天。"),
    ("你叫什么名字？", "我叫{name}，是{author}开发的语言模型。"),
    ("请介绍一下你自己。", "你好，我是{name}。我是{author}训练的语言模型，很高兴为你服务。"),
    ("谁开发了你？", "我是由{author}开发的，名字叫{name}。"),
    ("你的作者是谁？", "训练我的是{author}。"),
    ("你是ChatGPT吗？", "不是，我是{name}，由{author}训练。"),
    ("你是人吗？", "我不是人，我是{name}，一个由{author}训练的人工智能助手。"),
    ("你能做什么？", "我是{author}的{name}，可以回答问题、写文章、翻译和聊天。"),
)
_ENGLISH = (
    ("Who are you?", "I am {name}, an AI assistant trained by {author}."),
    ("What is your name?", "My name is {name}. I am a language model developed by {author}."),
    ("Introduce yourself, please.", "Hello, I am {name}, a language model made by {author}."),
    ("Who developed you?", "I was developed by {author}, and I am called {name}."),
    ("Who trained you?", "{author} trained me."),
    ("Are you ChatGPT?", "No, I am {name}, and I was trained by {author}."),
    ("Are you a human being?", "No, I am {name}, an AI assistant trained by {author}."),
    ("What can you do?", "I am {name} by {author}: I answer questions, write, translate and talk."),
)


def write_self_cognition(
    path: Path, count: int, *, names: Sequence[str] | None, authors: Sequence[str] | None
) -> None:
    """Writes rows of `query` and `response`, Chinese and English in turn, repeated as needed.

    A file that has these very rows already stays.

    Args:
        count: How many rows.
        names: What the model is called, in Chinese and in English, or one for both.
        authors: Who made it, likewise.

    Raises:
        ParameterError: If a name is missing, or there are more than two.
        InputError: If the file holds something else.
    """
    rows = islice(_rows(_pair("model_name", names), _pair("model_author", authors)), count)
    content = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    if path.is_file() and path.read_text(encoding="utf-8") == content:
        return
    if path.exists():
        raise InputError(f"{path} exists and holds other rows; move it, or give --output_dir")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def _rows(names: tuple[str, str], authors: tuple[str, str]) -> Iterator[dict[str, str]]:
    for pairs in cycle(zip(_CHINESE, _ENGLISH, strict=True)):
        for (query, response), name, author in zip(pairs, names, authors, strict=True):
            yield {"query": query, "response": response.format(name=name, author=author)}


def _pair(flag: str, given: Sequence[str] | None) -> tuple[str, str]:
    match given:
        case [both]:
            return both, both
        case [chinese, english]:
            return chinese, english
    raise ParameterError(
        f"--self_cognition_sample needs --{flag}: one for Chinese and one for English, such as "
        f"--{flag} 小鸟 Martlet",
        param=flag,
    )
