"""Structured output from a prompt to a text, on both backends."""

import json

import pytest

from martlet import LLM, SamplingParams
from martlet.errors import EngineError, ParameterError
from martlet.models.folder import ModelFolder
from martlet.text.structured import StructuredOutput

PROMPTS = ["Anna sits left of", "The answer is", "1 + 2 ="]
SCHEMA = {
    "type": "object",
    "properties": {"side": {"enum": ["left", "right"]}, "seats": {"type": "integer", "maximum": 9}},
    "required": ["side", "seats"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["native", "transformers"])
def llm(request: pytest.FixtureRequest, tiny_llama: ModelFolder) -> LLM:
    options = {"kv_memory_gib": 0.05} if request.param == "native" else {}
    return LLM(str(tiny_llama.path), backend=request.param, dtype="fp32", **options)


def test_replies_have_the_form_and_the_seed_repeats_them(llm: LLM) -> None:
    params = SamplingParams(
        n=3,
        seed=3,
        max_tokens=200,
        structured=StructuredOutput(json_schema=SCHEMA),
    )
    outputs = [llm.generate(PROMPTS, params) for _ in range(2)]
    texts, again = ([s.text for o in some for s in o.outputs] for some in outputs)
    assert texts == again
    assert len(set(texts)) > 3
    for text in texts:
        value = json.loads(text)
        assert value["side"] in ("left", "right")
        assert value["seats"] <= 9


def test_rows_with_and_without_a_form_share_a_batch(llm: LLM) -> None:
    free = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    (alone,) = llm.generate(PROMPTS[0], free)
    chosen = SamplingParams(temperature=0, structured=StructuredOutput(choice=("left", "right")))
    digits = SamplingParams(temperature=0, structured=StructuredOutput(regex="[0-9]{3}"))
    outputs = llm.generate([PROMPTS[0], *PROMPTS], [free, chosen, chosen, digits])
    assert outputs[0].outputs[0].text == alone.outputs[0].text
    for output in outputs[1:3]:
        assert output.outputs[0].text in ("left", "right")
        assert output.outputs[0].finish_reason == "stop"
    assert len(outputs[3].outputs[0].text) == 3
    assert outputs[3].outputs[0].text.isdecimal()


def test_a_bad_form_is_refused_before_anything_is_computed(llm: LLM) -> None:
    bad = SamplingParams(structured=StructuredOutput(regex="(a"))
    with pytest.raises(ParameterError, match="unclosed group"):
        llm.generate(PROMPTS, [SamplingParams(max_tokens=4), bad, bad])
    (output,) = llm.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=4))
    assert output.outputs[0].text


def test_a_form_that_grows_too_complex_fails_by_name(llm: LLM) -> None:
    ways = [f'w{number}: "{number}" "."' for number in range(3000)]
    names = " | ".join(f"w{number}" for number in range(3000))
    source = "\n".join([f'start: ("a" | "b") ({names})', *ways])
    many_ways = StructuredOutput(grammar=source)
    with pytest.raises(EngineError, match="the form of the reply cannot be kept"):
        llm.generate(PROMPTS[0], SamplingParams(structured=many_ways))
