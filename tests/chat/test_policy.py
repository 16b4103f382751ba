"""A conversation that outgrows the context: what fits never raises, and what is dropped is told."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.conversations import SYSTEM, conversation, turn, visible_turns
from martlet.backends.base import RenderedPrompt
from martlet.demo import model_path
from martlet.errors import ParameterError, PromptTooLongError, TemplateError
from martlet.text.conversation import (
    ContextPolicy,
    FittedConversation,
    check_policy,
    fit_conversation,
    reply_room,
)
from martlet.text.messages import Message
from martlet.text.tokenizer import Tokenizer
from support.shared import SHARED, needs_shared

Fitted = FittedConversation[RenderedPrompt]
TOKENIZER = Tokenizer.load(model_path())
STRICT_TEMPLATE = (
    "{% for m in messages if m.role != 'system' %}"
    "{% if (loop.index0 % 2 == 0) != (m.role == 'user') %}{{ raise_exception('roles alternate') }}"
    "{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
)
STRICT = Tokenizer.load(model_path(), chat_template=STRICT_TEMPLATE)


def render(messages: Sequence[Message], tokenizer: Tokenizer = TOKENIZER) -> RenderedPrompt:
    text, token_ids = tokenizer.render(messages)
    return RenderedPrompt(text=text, token_ids=token_ids)


def fit(
    messages: Sequence[Message],
    policy: ContextPolicy,
    *,
    context: int,
    max_tokens: int | None = None,
) -> Fitted:
    return fit_conversation(
        messages, render, max_context_tokens=context, max_tokens=max_tokens, policy=policy
    )


def size(messages: Sequence[Message]) -> int:
    return len(render(messages).token_ids)


texts = st.text(st.sampled_from("ab <>|\n.戊己é"), min_size=0, max_size=30)
answers = st.lists(st.sampled_from(["assistant", "tool"]), max_size=3)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """System messages, perhaps a greeting, turns of any shape, perhaps a late system message."""
    messages: list[Message] = [
        {"role": "system", "content": draw(texts)} for _ in range(draw(st.integers(0, 2)))
    ]
    if draw(st.booleans()):
        messages.append({"role": "assistant", "content": draw(texts)})
    for _ in range(draw(st.integers(0, 6))):
        messages.append({"role": "user", "content": draw(texts)})
        messages += [{"role": role, "content": draw(texts)} for role in draw(answers)]
        if draw(st.integers(0, 5)) == 0:
            messages.append({"role": "system", "content": draw(texts)})
    return [*messages, {"role": "user", "content": draw(texts)}]


def split(messages: Sequence[Message]) -> list[list[int]]:
    """The places of each turn's messages, in the plainest way."""
    turns: list[list[int]] = []
    for place, message in enumerate(messages):
        if message["role"] == "system":
            continue
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(place)
    return turns


@settings(max_examples=150, deadline=None)
@given(messages=conversations(), context=st.integers(2, 400), data=st.data())
def test_the_oldest_turns_go_and_no_more_than_must(
    messages: list[Message], context: int, data: st.DataObject
) -> None:
    max_tokens = data.draw(st.none() | st.integers(1, context))
    turns = split(messages)

    def without(num_turns: int) -> list[Message]:
        dropped = {place for turn in turns[:num_turns] for place in turn}
        return [message for place, message in enumerate(messages) if place not in dropped]

    num_least = size(without(len(turns) - 1))
    if num_least > context - (max_tokens or 1):
        with pytest.raises(PromptTooLongError, match=f"{num_least} tokens"):
            fit(messages, "drop-old-turns", context=context, max_tokens=max_tokens)
        return
    fitted = fit(messages, "drop-old-turns", context=context, max_tokens=max_tokens)
    use = fitted.use
    assert list(fitted.messages) == without(use.num_dropped_turns)
    assert fitted.prompt == render(fitted.messages)
    assert use.num_prompt_tokens == len(fitted.prompt.token_ids)
    assert use.num_dropped_messages == len(messages) - len(fitted.messages)
    assert use.num_dropped_tokens == size(messages) - use.num_prompt_tokens
    assert use.num_room_tokens == context - use.num_prompt_tokens >= (max_tokens or 1)
    if use.num_dropped_turns:
        room = context - (max_tokens or min(reply_room(context), context - num_least))
        assert size(without(use.num_dropped_turns - 1)) > room, "one turn more would have fitted"


@settings(max_examples=100, deadline=None)
@given(messages=conversations(), context=st.integers(60, 300), max_tokens=st.integers(1, 40))
def test_the_tail_is_cut_where_it_fits_exactly(
    messages: list[Message], context: int, max_tokens: int
) -> None:
    bare = [m for m in messages[:-1] if m["role"] == "system"] + [{"role": "user", "content": ""}]
    if size(bare) + 8 > context - max_tokens:
        return
    fitted = fit(messages, "keep-system+tail", context=context, max_tokens=max_tokens)
    use = fitted.use
    assert use.num_prompt_tokens <= context - max_tokens
    whole = fit(messages, "drop-old-turns", context=100_000).prompt
    assert use.is_whole == (fitted.prompt == whole)
    roles = [m["role"] for m in messages if m["role"] == "system"]
    assert [m["role"] for m in fitted.messages if m["role"] == "system"] == roles
    if not use.num_cut_characters:
        return
    turn = split(messages)[use.num_dropped_turns]
    text = "".join(str(messages[place]["content"]) for place in turn)
    kept = "".join(str(m["content"]) for m in fitted.messages if m["role"] != "system")
    assert kept.startswith(text[use.num_cut_characters :])
    # A character is three tokens at most, and one that comes back may merge with its neighbours.
    assert context - max_tokens - use.num_prompt_tokens <= 3


def test_three_hundred_turns_cost_a_dozen_renders() -> None:
    messages, num_renders = conversation(300), 0

    def counted(turns: Sequence[Message]) -> RenderedPrompt:
        nonlocal num_renders
        num_renders += 1
        return render(turns)

    for policy, most in (("drop-old-turns", 11), ("keep-system+tail", 17)):
        num_renders = 0
        fitted = fit_conversation(
            messages, counted, max_context_tokens=512, max_tokens=None, policy=check_policy(policy)
        )
        assert fitted.use.num_dropped_turns > 250
        assert math.log2(300) < num_renders <= most
    num_renders = 0
    fit_conversation(
        messages, counted, max_context_tokens=10**5, max_tokens=9, policy="drop-old-turns"
    )
    assert num_renders == 1


def test_a_cut_conversation_of_300_turns_keeps_its_system_message() -> None:
    """Whole turns are dropped in `test_chat`, by a chat that lasts as long."""
    messages = conversation(0, words=8)
    for number in range(300):
        messages = [*messages, turn(number)[1], turn(number + 1, words=8)[0]]
        if number % 4:
            continue
        fitted = fit(messages, "keep-system+tail", context=512)
        assert f"system\n{SYSTEM}" in fitted.prompt.text
        assert f"<{number + 1}>" in fitted.prompt.text
        assert fitted.use.num_room_tokens >= reply_room(512) == 128
        seen = visible_turns(fitted.prompt.text, number + 2)
        partly = fitted.use.num_cut_characters > 0
        first = fitted.use.num_dropped_turns
        assert list(seen) in ([*range(first, number + 2)], [*range(first + partly, number + 2)])
    assert not fitted.use.is_whole


def test_a_last_turn_that_leaves_less_than_a_quarter_is_kept() -> None:
    messages = conversation(4, words=200)
    messages[-1] = {"role": "user", "content": "a" * 440}
    alone = size([messages[0], messages[-1]])
    fitted = fit(messages, "drop-old-turns", context=512)
    assert (fitted.use.num_dropped_turns, fitted.use.num_prompt_tokens) == (4, alone)
    assert 512 - 128 < alone < 512
    with pytest.raises(PromptTooLongError, match="keep-system"):
        fit(messages, "drop-old-turns", context=512, max_tokens=128)
    cut = fit(messages, "keep-system+tail", context=512, max_tokens=128)
    assert (cut.use.num_dropped_turns, cut.use.num_room_tokens) == (4, 128)
    assert cut.messages[-1]["content"] == "a" * (440 - cut.use.num_cut_characters)


def test_a_cut_turn_keeps_its_roles() -> None:
    """A template that insists on alternating roles takes what is left, wherever it is cut."""

    def strict(messages: Sequence[Message]) -> RenderedPrompt:
        return render(messages, STRICT)

    messages = conversation(12, words=12)
    cut_turns = set()
    for max_tokens in range(100, 160):
        fitted = fit_conversation(
            messages,
            strict,
            max_context_tokens=400,
            max_tokens=max_tokens,
            policy="keep-system+tail",
        )
        assert fitted.use.num_room_tokens - max_tokens <= 3 or not fitted.use.num_cut_characters
        cut_turns.add(str(fitted.messages[1]["content"]))
    assert "" in cut_turns, "a cut through the answer leaves the question's place"
    assert len(cut_turns) > 10


def test_error_refuses_and_says_the_ways_out() -> None:
    messages = conversation(30)
    assert fit(messages, "error", context=size(messages) + 1).use.is_whole
    with pytest.raises(PromptTooLongError) as caught:
        fit(messages, "error", context=512, max_tokens=100)
    for piece in (f"{size(messages)} tokens", "100 are kept", "holds 512", "drop-old-turns"):
        assert piece in str(caught.value)


def test_what_is_no_policy_and_no_message_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"one of .*, error, not 'drop'"):
        check_policy("drop")
    with pytest.raises(TemplateError, match=r"messages\[0\] needs a role"):
        fit([{"content": "hello"}], "drop-old-turns", context=512)


@needs_shared
@pytest.mark.parametrize(
    ("family", "template"),
    [("qwen2", "qwen2.5-7b-instruct.jinja"), ("llama2", "chatml.jinja")],
)
def test_real_tokenizers(family: str, template: str) -> None:
    source = (SHARED / "templates" / template).read_text(encoding="utf-8")
    tokenizer = Tokenizer.load(SHARED / "tokenizers" / family, chat_template=source)
    for max_tokens in range(256, 276):
        fitted = fit_conversation(
            conversation(80, words=30),
            lambda messages: render(messages, tokenizer),
            max_context_tokens=2048,
            max_tokens=max_tokens,
            policy="keep-system+tail",
        )
        use = fitted.use
        assert SYSTEM in fitted.prompt.text
        seen = visible_turns(fitted.prompt.text, 81)
        assert 80 - use.num_dropped_turns <= len(seen) <= 81 - use.num_dropped_turns
        # A turn's own frame takes some tokens: with less than those, it goes as a whole.
        assert 0 <= use.num_room_tokens - max_tokens <= (3 if use.num_cut_characters else 12)
