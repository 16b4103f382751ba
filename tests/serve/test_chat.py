"""Chat over HTTP says what `LLM` says in Python, spoken to by the stock client."""

import asyncio

import httpx
import openai
import pytest

from martlet import LLM, SamplingParams
from martlet.demo import puzzles_path
from serve.servers import Running

MESSAGES = [{"role": "user", "content": "Anna sits left of Bo. Who sits on the right?"}]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", dtype="fp32", kv_memory_gib=0.05)


def test_greedy_replies_are_those_of_python(client: openai.OpenAI, llm: LLM) -> None:
    (expected,) = llm.chat(MESSAGES, SamplingParams(temperature=0, max_tokens=40))
    reply = client.chat.completions.create(
        model="demo", messages=MESSAGES, temperature=0, max_completion_tokens=40
    )
    (choice,) = reply.choices
    assert choice.message.content == expected.outputs[0].text
    assert choice.finish_reason == expected.outputs[0].finish_reason
    assert reply.usage.prompt_tokens == len(expected.prompt_token_ids)
    assert reply.usage.completion_tokens == len(expected.outputs[0].token_ids)


def test_a_seed_draws_what_it_draws_in_python(client: openai.OpenAI, llm: LLM) -> None:
    params = SamplingParams(n=4, seed=11, temperature=1.0, max_tokens=24)
    (expected,) = llm.chat(MESSAGES, params)
    texts = [sample.text for sample in expected.outputs]
    assert len(set(texts)) > 1

    def draw(seed: int) -> list[str | None]:
        reply = client.chat.completions.create(
            model="demo", messages=MESSAGES, n=4, seed=seed, temperature=1.0, max_tokens=24
        )
        assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
        return [choice.message.content for choice in reply.choices]

    assert draw(11) == draw(11) == texts
    assert draw(12) != texts


def test_a_stream_joined_is_the_reply(client: openai.OpenAI) -> None:
    asked = {"model": "demo", "messages": MESSAGES, "n": 2, "seed": 3, "max_tokens": 24}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    stream = client.chat.completions.create(
        **asked, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks)
    for choice in whole.choices:
        own = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert own[0].delta.role == "assistant"
        assert [c.finish_reason for c in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == choice.finish_reason
        assert "".join(c.delta.content or "" for c in own) == choice.message.content
        assert len(own) > 5, "a reply streams token by token"
        scored = [entry for c in own if c.logprobs for entry in c.logprobs.content]
        assert scored == choice.logprobs.content


def test_logprobs_name_tokens_and_bytes(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        temperature=0,
        max_tokens=6,
        logprobs=True,
        top_logprobs=3,
        extra_body={"ignore_eos": True, "skip_special_tokens": False},
    )
    (choice,) = reply.choices
    entries = choice.logprobs.content
    assert len(entries) == 6
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token, "greedy takes the likeliest"
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs)


def test_a_stop_string_never_shows(client: openai.OpenAI) -> None:
    asked = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 40}
    full = client.chat.completions.create(**asked).choices[0].message.content
    stop = full[4:9]
    stopped = client.chat.completions.create(**asked, stop=stop).choices[0]
    assert stopped.message.content == full[: full.index(stop)]
    assert stopped.finish_reason == "stop"
    stream = client.chat.completions.create(**asked, stop=[stop, "zzz"], stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == stopped.message.content


def test_biases_and_penalties_change_the_reply(client: openai.OpenAI, http: httpx.Client) -> None:
    asked = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 8}
    plain = client.chat.completions.create(**asked).choices[0].message.content
    ids = http.post("/tokenize", json={"prompt": plain}).json()["tokens"]
    banned = client.chat.completions.create(**asked, logit_bias={str(ids[0]): -100})
    assert banned.choices[0].message.content[:3] != plain[:3]
    penalised = client.chat.completions.create(**asked, extra_body={"repetition_penalty": 50.0})
    assert penalised.choices[0].message.content != plain


def test_an_explained_reply_says_where_each_parameter_came_from(client: openai.OpenAI) -> None:
    asked = {"model": "demo", "messages": MESSAGES, "top_p": 0.5, "max_tokens": 4}
    header = {"X-Martlet-Explain": "1"}
    explained = client.chat.completions.create(**asked, extra_headers=header)
    facts = explained.model_extra["martlet"]
    assert facts["parameters"]["top_p"] == {"value": 0.5, "source": "request"}
    assert facts["parameters"]["min_p"]["source"] == "default of martlet"
    assert facts["num_prompt_tokens"] == [explained.usage.prompt_tokens]
    assert "Anna sits left" in facts["prompts"][0]
    first, *others = client.chat.completions.create(**asked, stream=True, extra_headers=header)
    assert first.model_extra["martlet"]["parameters"] == facts["parameters"]
    assert not any("martlet" in (chunk.model_extra or {}) for chunk in others)
    assert "martlet" not in client.chat.completions.create(**asked).model_extra


def test_the_same_prompt_again_is_in_the_cache(client: openai.OpenAI) -> None:
    text = puzzles_path().read_text(encoding="utf-8")[:600]
    asked = {"model": "demo", "messages": [{"role": "user", "content": text}], "max_tokens": 2}
    client.chat.completions.create(**asked)
    usage = client.chat.completions.create(**asked).usage
    assert usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens <= 16


def test_parts_of_text_are_joined_and_developers_are_heard(http: httpx.Client) -> None:
    def tokens(messages: list[dict[str, object]]) -> list[int]:
        return http.post("/tokenize", json={"messages": messages}).json()["tokens"]

    parts = [{"type": "text", "text": "An"}, {"type": "text", "text": "na"}]
    as_parts = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    as_text = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Anna"}]
    assert tokens(as_parts) == tokens(as_text)


def test_many_asynchronous_clients_get_their_own_replies(demo: Running, llm: LLM) -> None:
    conversations = [
        [{"role": "user", "content": f"{name} sits left of Bo. Who is first?"}]
        for name in ("Anna", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida")
    ]
    expected = llm.chat(conversations, SamplingParams(temperature=0, max_tokens=24))

    async def ask_all() -> list[str | None]:
        async with demo.async_client() as client:
            replies = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="demo", messages=messages, temperature=0, max_tokens=24
                    )
                    for messages in conversations
                )
            )
        return [reply.choices[0].message.content for reply in replies]

    assert asyncio.run(ask_all()) == [output.outputs[0].text for output in expected]


def test_harmless_fields_of_clients_are_taken(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        max_tokens=2,
        user="u",
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        parallel_tool_calls=True,
        safety_identifier="s",
        prompt_cache_key="p",
        modalities=["text"],
        response_format={"type": "text"},
    )
    assert reply.usage.completion_tokens == 2


def test_candidates_follow_a_token_through_the_draw(http: httpx.Client) -> None:
    asked = {
        "model": "demo",
        "messages": [{"role": "user", "content": "2 + 2 = ?"}],
        "max_tokens": 4,
        "temperature": 0.5,
        "top_k": 2,
        "seed": 1,
        "logprobs": True,
        "candidates": 3,
    }
    whole = http.post("/v1/chat/completions", json=asked).json()["choices"][0]
    for step in whole["logprobs"]["content"]:
        rivals = {each["token_id"]: each for each in step["candidates"]}
        drawn = rivals[step["token_id"]]
        assert drawn["token"] == step["token"]
        assert drawn["scaled"] == pytest.approx(drawn["logit"] / 0.5, rel=1e-5)
        shares = [each["draw_probability"] for each in rivals.values()]
        assert sum(share > 0 for share in shares) == 2
        assert sum(shares) == pytest.approx(1)
    plain = http.post(
        "/v1/chat/completions",
        json={name: value for name, value in asked.items() if name != "candidates"},
    ).json()["choices"][0]
    assert plain["message"] == whole["message"]
    assert "candidates" not in plain["logprobs"]["content"][0]
    refused = http.post("/v1/chat/completions", json={**asked, "logprobs": False})
    assert refused.json()["error"]["param"] == "candidates"
