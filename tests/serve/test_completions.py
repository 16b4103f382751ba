"""Text completions: texts and token ids, one and many, echoed and scored."""

import httpx
import openai
import pytest

from martlet import LLM, SamplingParams


def test_texts_ids_and_lists_of_them_give_the_same(
    client: openai.OpenAI, http: httpx.Client
) -> None:
    texts = ["Anna sits left of", "Bo has the red"]
    ids = [http.post("/tokenize", json={"prompt": text}).json()["tokens"] for text in texts]
    asked = {"model": "demo", "temperature": 0, "max_tokens": 8}
    alone = [client.completions.create(prompt=text, **asked).choices[0].text for text in texts]
    for prompt in (texts, ids):
        reply = client.completions.create(prompt=prompt, **asked)
        assert [choice.text for choice in reply.choices] == alone
        assert reply.usage.prompt_tokens == sum(map(len, ids))
    assert client.completions.create(prompt=ids[1], **asked).choices[0].text == alone[1]


def test_sixteen_tokens_unless_told(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="demo", prompt="Anna", extra_body={"ignore_eos": True, "min_tokens": 1}
    )
    assert reply.usage.completion_tokens == 16


def test_an_echo_is_scored_as_in_python(client: openai.OpenAI) -> None:
    text = "小明 sits left of Bo"
    llm = LLM("demo", dtype="fp32", kv_memory_gib=0.05)
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=2, prompt_logprobs=2)
    (expected,) = llm.generate([text], params)
    (choice,) = client.completions.create(
        model="demo", prompt=text, temperature=0, max_tokens=3, logprobs=2, echo=True
    ).choices
    assert choice.text == text + expected.outputs[0].text
    scores = choice.logprobs
    token_ids = [*expected.prompt_token_ids, *expected.outputs[0].token_ids]
    positions = [*expected.prompt_logprobs[1:], *expected.outputs[0].logprobs]
    own = [at[token_id].logprob for token_id, at in zip(token_ids[1:], positions, strict=True)]
    assert scores.token_logprobs[0] is None
    assert scores.token_logprobs[1:] == pytest.approx(own, abs=1e-4)
    assert all(2 <= len(top) <= 3 for top in scores.top_logprobs[1:])
    for token, offset in zip(scores.tokens, scores.text_offset, strict=True):
        if not token.startswith("bytes:"):
            assert choice.text[offset:].startswith(token) or offset == len(choice.text)


def test_a_stream_of_several_prompts_joined_is_the_reply(client: openai.OpenAI) -> None:
    asked = {"model": "demo", "prompt": ["Anna", "Bo"], "n": 2, "seed": 1, "max_tokens": 10}
    whole = client.completions.create(**asked, echo=True)
    texts, ends = {}, {}
    for chunk in client.completions.create(**asked, echo=True, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            ends[choice.index] = choice.finish_reason
    assert [texts[i] for i in range(4)] == [choice.text for choice in whole.choices]
    assert [ends[i] for i in range(4)] == [choice.finish_reason for choice in whole.choices]


def test_streamed_logprobs_joined_are_those_of_the_reply(client: openai.OpenAI) -> None:
    asked = {"model": "demo", "prompt": "小明", "seed": 4, "max_tokens": 12, "logprobs": 1}
    whole = client.completions.create(**asked).choices[0].logprobs
    chunks = list(client.completions.create(**asked, stream=True))
    pieces = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [item for piece in pieces for item in getattr(piece, name)]
        assert joined == getattr(whole, name)


def test_text_and_back(http: httpx.Client) -> None:
    text = "小明 sits left of Bo 🎲"
    asked = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert asked["count"] == len(asked["tokens"]) == len(asked["token_strs"])
    assert asked["max_model_len"] == 512
    assert http.post("/detokenize", json={"tokens": asked["tokens"]}).json() == {"prompt": text}
