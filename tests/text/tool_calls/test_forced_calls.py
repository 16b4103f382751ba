"""Grammars of tool calls: what they let through is read back as a call that fits its schema."""

import json
from random import Random

import numpy as np
import pytest

from martlet.errors import ParameterError
from martlet.text.grammar import Grammar, GrammarCompiler
from martlet.text.tokenizer import Tokenizer
from martlet.text.tool_calls.chatglm import ChatGLMFormat
from martlet.text.tool_calls.format import ToolCallFormat
from martlet.text.tool_calls.functions import read_functions
from martlet.text.tool_calls.hermes import HermesFormat
from martlet.text.tool_calls.llama3 import Llama3Format
from martlet.text.tool_calls.mistral import MistralFormat

MOVE = {
    "name": "move",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"side": {"enum": ["left", "right"]}, "steps": {"enum": [1, 2]}},
        "required": ["side", "steps"],
        "additionalProperties": False,
    },
}
TOOLS = [
    {"type": "function", "function": MOVE},
    {"type": "function", "function": {"name": "wait"}},
]
FUNCTIONS = read_functions(TOOLS)
FAMILIES = [HermesFormat, MistralFormat, Llama3Format, ChatGLMFormat]


def compile_for(tokenizer: Tokenizer, family: ToolCallFormat, **options: bool) -> Grammar:
    structured = family.structured_output(FUNCTIONS, **options)
    assert structured is not None
    return GrammarCompiler(tokenizer, vocab_size=tokenizer.num_tokens).compile(structured)


def draw_at_random(grammar: Grammar, tokenizer: Tokenizer, random: Random) -> str:
    state, drawn = grammar.start(), []
    mask = np.zeros(-(-tokenizer.num_tokens // 32), dtype=np.uint32)
    while not state.is_finished:
        state.fill(mask)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        token_id = random.choice(np.flatnonzero(bits).tolist())
        if token_id in tokenizer.stop_ids:
            break
        state.accept(token_id)
        drawn.append(token_id)
    return tokenizer.decode(drawn, skip_special_tokens=False)


def accepts(grammar: Grammar, tokenizer: Tokenizer, text: str) -> bool:
    """Whether a reply may begin with this text."""
    state = grammar.start()
    mask = np.zeros(-(-tokenizer.num_tokens // 32), dtype=np.uint32)
    for token_id in tokenizer.encode(text, add_special_tokens=False):
        state.fill(mask)
        if not mask[token_id // 32] >> np.uint32(token_id % 32) & 1:
            return False
        state.accept(token_id)
    return True


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("is_special", [False, True])
def test_a_required_call_is_read_back(
    byte_level: Tokenizer, kind: type[ToolCallFormat], is_special: bool
) -> None:
    # Any special token will do for a mark: the grammar must draw that one token.
    mark_id = byte_level.encode("<|im_start|>", add_special_tokens=False)[0]
    family = kind(dict.fromkeys(kind.marks[:1], mark_id) if is_special else {})
    grammar = compile_for(byte_level, family, is_required=True, is_parallel=False)
    names = set()
    for seed in range(12):
        text = draw_at_random(grammar, byte_level, Random(seed))
        if is_special and kind in (HermesFormat, MistralFormat):
            assert text.startswith("<|im_start|>")
            text = text.replace("<|im_start|>", kind.marks[0])
        reply = family.parse(text, FUNCTIONS)
        assert reply.content is None
        (call,) = reply.tool_calls
        names.add(call.name)
        arguments = json.loads(call.arguments)
        if call.name == "move":
            assert arguments in [{"side": s, "steps": n} for s in ("left", "right") for n in (1, 2)]
        else:
            assert arguments == {}
    assert names == {"move", "wait"}


CALL = '{"name": "move", "arguments": {"side": "left", "steps": 1}}'
BAD_CALL = '{"name": "move", "arguments": {"side": "up'
AUTO_CASES = [
    (HermesFormat, f"<tool_call>\n{CALL}\n</tool_call>", f"<tool_call>\n{BAD_CALL}"),
    (MistralFormat, f"[TOOL_CALLS] [{CALL}]", f"[TOOL_CALLS] [{BAD_CALL}"),
]


@pytest.mark.parametrize("is_special", [False, True])
@pytest.mark.parametrize(("kind", "good", "bad"), AUTO_CASES)
def test_words_are_free_and_a_strict_call_amid_them_is_not(
    byte_level: Tokenizer, kind: type[ToolCallFormat], good: str, bad: str, is_special: bool
) -> None:
    if is_special:
        mark_id = byte_level.encode("<|im_start|>", add_special_tokens=False)[0]
        good, bad = (text.replace(kind.marks[0], "<|im_start|>", 1) for text in (good, bad))
    family = kind({kind.marks[0]: mark_id} if is_special else {})
    for is_parallel in (True, False):
        grammar = compile_for(byte_level, family, is_required=False, is_parallel=is_parallel)
        assert accepts(grammar, byte_level, "Just words, with < and [ and {.\n")
        assert accepts(grammar, byte_level, f"Let me see.\n{good}")
        assert not accepts(grammar, byte_level, f"Let me see.\n{bad}")


def test_parallel_calls_may_be_forbidden(byte_level: Tokenizer) -> None:
    tagged = f"<tool_call>\n{CALL}\n</tool_call>"
    two = f"{tagged}\n{tagged}"
    for is_required in (True, False):
        for is_parallel in (True, False):
            grammar = compile_for(
                byte_level, HermesFormat({}), is_required=is_required, is_parallel=is_parallel
            )
            assert accepts(grammar, byte_level, tagged)
            assert accepts(grammar, byte_level, two) == is_parallel


def test_a_reply_is_free_unless_something_must_be_held() -> None:
    lax = read_functions([TOOLS[1]])
    for kind in FAMILIES:
        assert kind({}).structured_output(lax, is_required=False) is None
    for kind in (Llama3Format, ChatGLMFormat):
        assert kind({}).structured_output(lax, is_required=False, is_parallel=False) is None
        with pytest.raises(ParameterError, match="strict functions are not available"):
            kind({}).structured_output(FUNCTIONS, is_required=False)
