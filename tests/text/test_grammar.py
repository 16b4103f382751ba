"""Grammars over tokens allow what a slow validator allows, and bad ones are refused in time."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import pytest
from transformers import ByT5Tokenizer

from martlet.engine.params import SamplingParams
from martlet.errors import ParameterError
from martlet.text.grammar import Grammar, GrammarCompiler, GrammarState
from martlet.text.structured import StructuredOutput
from martlet.text.tokenizer import Tokenizer
from support.shared import needs_shared

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(params=["byte-level", "byte-fallback", "python"])
def tokenizer(request: pytest.FixtureRequest, load_pair: Callable, tmp_path: Path) -> Tokenizer:
    """Two families that llguidance can read, and a tokenizer without a Rust backend."""
    if request.param == "python":
        return Tokenizer(ByT5Tokenizer(), folder=tmp_path)
    return load_pair(request.param).tokenizer


def compiler_of(tokenizer: Tokenizer) -> GrammarCompiler:
    # Models have columns for more tokens than their tokenizers know.
    return GrammarCompiler(tokenizer, vocab_size=tokenizer.num_tokens + 50)


def allowed_ids(state: GrammarState, tokenizer: Tokenizer) -> list[int]:
    mask = np.zeros(-(-(tokenizer.num_tokens + 50) // 32), dtype=np.uint32)
    state.fill(mask)
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


def draw_at_random(grammar: Grammar, tokenizer: Tokenizer, random: Random) -> str:
    """A reply whose every token is any of the allowed ones."""
    state, drawn = grammar.start(), []
    while not state.is_finished and len(drawn) < 400:
        token_id = random.choice(allowed_ids(state, tokenizer))
        if token_id in tokenizer.stop_ids:
            break
        state.accept(token_id)
        drawn.append(token_id)
    return tokenizer.decode(drawn, skip_special_tokens=False)


def test_every_reply_is_one_of_the_choices(tokenizer: Tokenizer) -> None:
    choices = ("Yes", "Yet", "No!")
    grammar = compiler_of(tokenizer).compile(StructuredOutput(choice=choices))
    texts = {draw_at_random(grammar, tokenizer, Random(seed)) for seed in range(40)}
    assert texts == set(choices)


def test_a_token_is_allowed_if_some_reply_begins_with_it(byte_level: Tokenizer) -> None:
    """The oracle tries every token of the vocabulary; `[a-c]` and spaces never force one."""
    pattern = "[a-c]* (the|[0-9])*[a-c ]*"
    grammar = compiler_of(byte_level).compile(StructuredOutput(regex=pattern))
    reachable = re.compile("[a-c]*( (the|[0-9])*(t|th|[a-c ]*))?")
    random, state, text = Random(0), grammar.start(), ""
    for _ in range(30):
        allowed = set(allowed_ids(state, byte_level))
        words = {i: byte_level.decode([i]) for i in range(byte_level.num_tokens)}
        expected = {i for i, word in words.items() if word and reachable.fullmatch(text + word)}
        is_complete = re.fullmatch(pattern, text) is not None
        ends = set(byte_level.stop_ids) if is_complete else set()
        if text.endswith((" t", " th", "et", "eth", "0t", "0th")):
            assert allowed <= expected  # the rest of "the" is forced, so only one way to spell it
        else:
            assert allowed == expected | ends
        token_id = random.choice(sorted(allowed - set(byte_level.stop_ids)))
        state.accept(token_id)
        text += words[token_id]


@needs_shared
def test_json_of_a_schema_parses_and_has_its_fields(qwen2: Tokenizer) -> None:
    grammar = compiler_of(qwen2).compile(StructuredOutput(json_schema=PERSON))
    for seed in range(10):
        text = draw_at_random(grammar, qwen2, Random(seed))
        value = json.loads(text)
        assert re.search(r"[ \n\r\t]{33}", text.replace(value["name"], "")) is None
        assert value.keys() == {"name", "age"}
        assert isinstance(value["age"], int)


def test_a_state_is_a_replys_own(byte_level: Tokenizer) -> None:
    grammar = compiler_of(byte_level).compile(StructuredOutput(choice=("ab", "cd")))
    first, second = grammar.start(), grammar.start()
    for char in "ab":
        first.accept(byte_level.encode(char, add_special_tokens=False)[0])
    assert first.is_finished
    assert allowed_ids(first, byte_level) == list(byte_level.stop_ids)
    assert not second.is_finished


def test_the_same_form_is_compiled_once(byte_level: Tokenizer) -> None:
    """Also in another thread than the one that uses it: a server compiles beside its engine."""
    compiler = compiler_of(byte_level)
    with ThreadPoolExecutor() as pool:
        grammar = pool.submit(compiler.compile, StructuredOutput(json_schema=PERSON)).result()
    again = compiler.compile(StructuredOutput(json_schema=json.loads(json.dumps(PERSON))))
    assert grammar is again
    assert allowed_ids(again.start(), byte_level)


def test_a_grammar_that_grows_too_complex_raises(byte_level: Tokenizer) -> None:
    """More ways to go on than the parser follows at once, and only behind the first token."""
    ways = [f'w{number}: "{number}" "."' for number in range(3000)]
    names = " | ".join(f"w{number}" for number in range(3000))
    source = "\n".join([f'start: ("a" | "b") ({names})', *ways])
    state = compiler_of(byte_level).compile(StructuredOutput(grammar=source)).start()
    (token_id,) = byte_level.encode("a", add_special_tokens=False)
    assert token_id in allowed_ids(state, byte_level)
    state.accept(token_id)
    assert not state.is_finished
    with pytest.raises(ValueError, match="items"):
        allowed_ids(state, byte_level)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"regex": "(a"}, "unclosed group"),
        ({"regex": "a(?=b)"}, "look-around"),
        ({"regex": "\ud800"}, "surrogates"),
        ({"json_schema": {"type": "nonsense"}}, "Invalid type: nonsense"),
        ({"json_schema": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"json_schema": {"$ref": "#/nowhere"}}, "nowhere"),
        ({"json_schema": {"const": {1, 2}}}, "not JSON"),
        ({"grammar": "start: nothing"}, "nothing"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_reason(
    byte_level: Tokenizer, given: dict[str, object], reason: str
) -> None:
    with pytest.raises(ParameterError, match=reason) as caught:
        compiler_of(byte_level).compile(StructuredOutput.from_mapping(given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "exactly one of .*, not none"),
        ({"regex": "a", "choice": ["a"]}, "not regex and choice"),
        ({"json": {}}, "unknown kind of structured output 'json'; known: json_object, "),
        ({"json_object": "yes"}, "true or false"),
        ({"json_schema": "{}"}, "must be a JSON object"),
        ({"choice": ["a", ""]}, "not empty"),
        ({"choice": "ab"}, "must list texts"),
        ({"regex": 7}, "must be a text"),
    ],
)
def test_a_malformed_form_is_refused_on_construction(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        SamplingParams.from_mapping({"structured": given})


def test_response_formats_of_openai() -> None:
    read = StructuredOutput.from_response_format
    assert read({"type": "text"}) is None
    assert read({"type": "json_object"}) == StructuredOutput(json_object=True)
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    assert read(schema) == StructuredOutput(json_schema=PERSON)
    for bad in ({"type": "xml"}, {"type": "json_schema"}, "json"):
        with pytest.raises(ParameterError, match="response_format must be"):
            read(bad)
