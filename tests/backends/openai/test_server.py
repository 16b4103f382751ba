"""One server after another: Martlet's own, one that tells nothing, one that breaks off, none."""

import logging
from collections.abc import Iterator

import pytest

from backends.unruly_server import UnrulyFront, listening
from martlet import LLM, SamplingParams
from martlet.backends.base import Backend, Prompt, SampleDelta, SampleOutput, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.native import NativeBackend
from martlet.backends.openai import courier
from martlet.backends.openai.backend import OpenAIBackend
from martlet.backends.options import BackendOptions
from martlet.errors import (
    AuthenticationError,
    InputError,
    NotFoundError,
    ParameterError,
    PromptTooLongError,
    TemplateError,
    UnavailableError,
)
from martlet.models.folder import ModelFolder
from martlet.models.resolve import resolve
from martlet.serve.keys import ApiKeys
from serve.servers import Running, load_demo, serving, wait_until

MESSAGES = [{"role": "user", "content": "Ann is left of Bo. Who is right of Ann?"}]
PROMPT = Prompt(messages=MESSAGES)
PARAMS = SamplingParams(temperature=0.9, top_p=0.9, max_tokens=24, ignore_eos=True)
PLAIN = SamplingParams(temperature=0.9, top_p=0.9, max_tokens=24)


@pytest.fixture(scope="module")
def native() -> Iterator[NativeBackend]:
    backend = load_demo()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    backend = load_demo()
    with serving(backend) as running:
        yield running
    backend.close()


@pytest.fixture
def remote(running: Running) -> Iterator[OpenAIBackend]:
    yield from opened(f"{running.url}/v1#demo")


def opened(model: str, **options: object) -> Iterator[OpenAIBackend]:
    backend = load_backend(model, options=BackendOptions(**options))
    assert isinstance(backend, OpenAIBackend)
    yield backend
    backend.close()


def ask(
    backend: Backend,
    prompt: Prompt = PROMPT,
    params: SamplingParams = PARAMS,
    *,
    seed: int = 2**64 - 5,
    streams: bool = False,
) -> tuple[SampleOutput, list[SampleDelta]]:
    """One sample and the pieces that it came in."""
    rendered = backend.render(prompt)
    request = SampleRequest(
        request_id="a",
        prompt_ids=rendered.token_ids,
        params=params,
        seed=seed,
        streams=streams,
        prompt=prompt,
    )
    backend.submit(request)
    deltas: list[SampleDelta] = []
    while True:
        outputs = backend.poll()
        deltas += backend.take_deltas()
        for output in outputs:
            return output, deltas


def test_our_own_server_draws_what_the_engine_draws(
    remote: OpenAIBackend, native: NativeBackend
) -> None:
    scored = SamplingParams(temperature=0.9, top_p=0.9, max_tokens=24, logprobs=0)
    for prompt in (PROMPT, Prompt(text="Ann is left"), Prompt(token_ids=(5, 6, 7))):
        there, here = ask(remote, prompt, scored)[0], ask(native, prompt, scored)[0]
        assert (there.text, there.finish_reason) == (here.text, here.finish_reason)
        assert there.num_tokens == len(here.token_ids)
        assert there.num_prompt_tokens == here.num_prompt_tokens
        assert there.cumulative_logprob == pytest.approx(here.cumulative_logprob, abs=1e-4)
    assert remote.render(PROMPT).token_ids == native.render(PROMPT).token_ids
    assert remote.limits.max_context_tokens == native.limits.max_context_tokens
    assert remote.identity.model.endswith("/v1#demo")
    assert remote.identity.model_hash == ""


def test_python_asks_a_server_like_a_model(running: Running) -> None:
    params = SamplingParams(n=2, temperature=0.9, max_tokens=12, seed=3)
    texts = []
    for llm in (LLM("demo", dtype="fp32", kv_memory_gib=0.05), LLM(f"{running.url}/v1")):
        (output,) = llm.chat(MESSAGES, params, use_tqdm=False)
        texts.append([sample.text for sample in output.outputs])
        llm._backend.close()
    assert texts[0] == texts[1]


def test_a_reply_may_have_a_form(remote: OpenAIBackend) -> None:
    params = SamplingParams(max_tokens=8, structured={"choice": ["left", "right"]})
    assert ask(remote, params=params)[0].text in ("left", "right")
    with pytest.raises(ParameterError, match="of chats alone"):
        ask(remote, Prompt(text="Ann"), params)


def test_planning_is_as_patient_as_drawing(
    running: Running, native: NativeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="uvicorn.error")
    front = UnrulyFront(running.url, faults=("busy", "half", "nonsense"), path_ending="tokenize")
    with listening(front) as url:
        for backend in opened(f"{url}/v1"):
            assert backend.render(PROMPT).token_ids == native.render(PROMPT).token_ids
    assert len(front.asked) == 4


@pytest.mark.parametrize("faults", [(), ("half", "refusal", "half")])
def test_a_stream_that_breaks_off_goes_on_where_it_was(
    running: Running,
    native: NativeBackend,
    faults: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, logger="uvicorn.error")
    front = UnrulyFront(running.url, faults=faults)
    with listening(front) as url:
        for backend in opened(f"{url}/v1"):
            output, deltas = ask(backend, streams=True)
    assert output.text == ask(native)[0].text
    assert "".join(delta.text for delta in deltas) == output.text
    assert len(deltas) > 4
    assert len(front.asked) == len(faults) + 1


def test_a_server_that_tells_nothing_is_asked_in_plain_words(
    running: Running, native: NativeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """No `/tokenize`, no context, nothing beyond OpenAI's fields: what it lacks is said first."""
    front = UnrulyFront(running.url, is_anonymous=True)
    with listening(front) as url:
        for backend in opened(f"{url}/v1#demo"):
            assert "its context is not known" in caplog.text
            with pytest.raises(ParameterError, match=r"cannot honour ignore_eos=True"):
                backend.prepare(PARAMS)
            with pytest.raises(ParameterError, match="--max-tokens"):
                ask(backend, Prompt(text="Ann"), SamplingParams())
            with pytest.raises(InputError, match="--tokenizer DIR"):
                _ = backend.tokenizer
            assert backend.render(PROMPT).token_ids == ()
            output, _ = ask(backend, params=PLAIN)
            long = Prompt(messages=[{"role": "user", "content": "left " * 2000}])
            refused, _ = ask(backend, long, PLAIN)
    assert output.text == ask(native, params=PLAIN)[0].text
    assert "top_k" not in front.asked[0]
    assert refused.finish_reason == "error"
    assert "context" in str(refused.error)


def test_a_tokenizer_here_must_agree_with_the_servers(
    running: Running, native: NativeBackend, tiny_llama: ModelFolder
) -> None:
    for backend in opened(f"{running.url}/v1", tokenizer=str(resolve("demo"))):
        assert backend.tokenizer.tokenizer_hash == native.tokenizer.tokenizer_hash
        assert ask(backend)[0].text == ask(native)[0].text
        with pytest.raises(PromptTooLongError):
            ask(backend, Prompt(token_ids=(5,) * 600))
    with pytest.raises(TemplateError, match=r"reads a text differently .* token \d+ is"):
        next(opened(f"{running.url}/v1", tokenizer=str(tiny_llama.path)))


def test_a_request_that_is_given_up_leaves_the_server(
    remote: OpenAIBackend, running: Running
) -> None:
    rendered = remote.render(PROMPT)
    long = SamplingParams(max_tokens=400, ignore_eos=True)
    for number in range(4):
        remote.submit(
            SampleRequest(
                request_id=str(number), prompt_ids=rendered.token_ids, params=long, seed=1
            )
        )
    wait_until(lambda: running.service.engine.num_unfinished == 4)
    for number in range(4):
        remote.abort(str(number))
    assert remote.num_unfinished == 0
    wait_until(lambda: running.service.engine.num_unfinished == 0)
    assert ask(remote)[0].error is None


def test_what_is_wrong_for_every_row_is_said_at_once(running: Running) -> None:
    url = f"{running.url}/v1"
    with pytest.raises(NotFoundError, match="serves no 'llama'; it serves demo"):
        load_backend(f"{url}#llama")
    with pytest.raises(NotFoundError, match="mostly ends with /v1"):
        load_backend(f"{running.url}#demo")
    with pytest.raises(UnavailableError, match="no server answers"):
        load_backend("http://127.0.0.1:1/v1#demo")
    with pytest.raises(ParameterError, match="says it twice"):
        load_backend(url, options=BackendOptions(base_url=url))
    with pytest.raises(ParameterError, match="dtype='bf16' has no effect on the openai backend"):
        load_backend(url, options=BackendOptions(dtype="bf16"))
    with pytest.raises(ParameterError, match="needs a server"):
        load_backend("demo", options=BackendOptions(backend="openai"))
    with pytest.raises(ParameterError, match="is a server's URL"):
        load_backend(url, options=BackendOptions(backend="native"))


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ApiKeys(key_to_scope={"sk-open": "use"})
    backend = load_demo()
    with serving(backend, keys=keys) as running:
        with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
            load_backend(f"{running.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-open")
        for remote in opened(f"{running.url}/v1"):
            assert ask(remote)[0].error is None
    backend.close()


def test_a_server_that_is_gone_ends_the_run_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = load_demo()
    with serving(backend) as running:
        remote = next(opened(f"{running.url}/v1", tokenizer=str(resolve("demo"))))
    backend.close()
    monkeypatch.setattr(courier, "PATIENCE_S", 0.5)
    with pytest.raises(UnavailableError, match="has answered nothing for"):
        ask(remote)
    remote.close()


def test_a_server_in_front_of_a_server_streams(running: Running) -> None:
    """The tokenizer here, the weights there: usage and words are those of the server behind."""
    asked = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 16}
    for remote in opened(f"{running.url}/v1", tokenizer=str(resolve("demo"))):
        with serving(remote) as front, front.client() as client, running.client() as direct:
            whole = client.chat.completions.create(**asked)
            behind = direct.chat.completions.create(**asked)
            stream = client.chat.completions.create(
                **asked, stream=True, stream_options={"include_usage": True}
            )
            chunks = list(stream)
            stream.close()
        assert whole.choices[0].message.content == behind.choices[0].message.content
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (
            behind.usage.prompt_tokens,
            behind.usage.completion_tokens,
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(pieces) == whole.choices[0].message.content
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert remote.num_unfinished == 0
