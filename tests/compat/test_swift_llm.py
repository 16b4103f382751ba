"""The fifth article's functions: its snippets as they stand, and what they promise."""

import io
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import pytest

from compat.articles import needs_articles, python_snippets, requests
from compat.models import model_folder
from martlet import LLM, SamplingParams
from martlet.compat.swift_llm import (
    GenerationConfig,
    LoRARequest,
    ModelType,
    VllmEngine,
    XRequestConfig,
    get_default_template_type,
    get_template,
    get_vllm_engine,
    inference_client,
    inference_stream_vllm,
    inference_vllm,
)
from martlet.errors import NotFoundError, ParameterError, UnavailableError
from martlet.models.folder import open_folder
from serve.servers import load_demo, serving
from support.adapters import make_adapter
from support.shared import SHARED

ENGINE_SNIPPETS = ("2.1", "2.2", "2.3", "2.5", "5.2")
CLIENT_SNIPPETS = ("4.1 swift", "4.1 openai", "4.1 swift text", "4.1 openai text", "5.3 openai")


def snippet(section: str) -> str:
    sections = ["2.1", "2.2", "2.3", "2.5", *CLIENT_SNIPPETS[:4], "5.2", "5.3 openai"]
    return dict(zip(sections, python_snippets(), strict=True))[section].replace(
        "from swift.llm import", "from martlet.compat.swift_llm import"
    )


def printed_by(code: str) -> str:
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})
    return out.getvalue()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By what the article calls them."""
    place = tmp_path_factory.mktemp("models")
    own = {"chatglm3_6b": ("glm4", "chatglm3.jinja"), "qwen_7b_chat": ("qwen2", "chatml.jinja")}
    made = {
        name: model_folder(
            architecture,
            place / name,
            template=(SHARED / "templates" / file).read_text() if SHARED.is_dir() else None,
        )
        for name, (architecture, file) in own.items()
    }
    return {**made, "llama2_7b_chat": model_folder("llama", place / "llama2_7b_chat")}


@pytest.fixture(scope="module")
def adapter(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    base = open_folder(models["llama2_7b_chat"])
    return make_adapter(folder, base, r=8, target_modules=["q_proj", "down_proj"])


@needs_articles
@pytest.mark.parametrize("section", ENGINE_SNIPPETS)
def test_a_snippet_with_an_engine(section: str, models: dict[str, Path], adapter: Path) -> None:
    code = re.sub(r"ModelType\.(\w+)", lambda found: repr(str(models[found[1]])), snippet(section))
    code = code.replace("vx-xxx/checkpoint-100-merged", str(models["qwen_7b_chat"]))
    code = code.replace("output/llama2-7b-chat/vx-xxx/checkpoint-xxx-peft", str(adapter))
    printed = printed_by(code)
    assert "response: " in printed
    if section == "5.2":
        tuned, base = re.split(r"query: .*\nresponse: ", printed)[1:]
        assert tuned.strip() != base.strip()
    else:
        (history,) = re.findall(r"^history: (\[\(.*\)\])$", printed, re.M)
        queries = [query for query, _ in eval(history)]
        assert queries == (["你好"] if section == "2.5" else ["浙江的省会在哪?", "这有什么好吃的"])


@pytest.fixture(scope="module")
def engine(models: dict[str, Path]) -> VllmEngine:
    return get_vllm_engine(str(models["llama2_7b_chat"]), enable_lora=True, dtype="fp32")


REQUESTS = [
    {"query": "Which option is right?"},
    {"query": "And now?", "history": [("1 + 2 = ?", "3")], "system": "Be brief."},
]
GREEDY = GenerationConfig(temperature=0, max_new_tokens=24)


def test_responses_are_those_of_the_conversation(
    engine: VllmEngine, models: dict[str, Path], adapter: Path
) -> None:
    template = get_template("llama", engine.hf_tokenizer)
    conversations = [
        [{"role": "user", "content": "Which option is right?"}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1 + 2 = ?"},
            {"role": "assistant", "content": "3"},
            {"role": "user", "content": "And now?"},
        ],
    ]
    lora = LoRARequest("default-lora", 1, str(adapter))
    llm = LLM(str(models["llama2_7b_chat"]), dtype="fp32", adapters={"default-lora": str(adapter)})
    params = SamplingParams(temperature=0, max_tokens=24)
    for request, name in ((None, None), (lora, "default-lora")):
        expected = [each.outputs[0].text for each in llm.chat(conversations, params, adapter=name)]
        got = inference_vllm(
            engine, template, REQUESTS, generation_config=GREEDY, lora_request=request
        )
        assert [each["response"] for each in got] == expected
        assert got[1]["history"] == [("1 + 2 = ?", "3"), ("And now?", expected[1])]


def test_a_stream_grows_to_the_whole_and_can_be_left(engine: VllmEngine) -> None:
    template = get_template("own", engine.hf_tokenizer)
    whole = inference_vllm(engine, template, REQUESTS, generation_config=GREEDY)
    steps = list(inference_stream_vllm(engine, template, REQUESTS, generation_config=GREEDY))
    assert len(steps) > 2
    assert steps[-1] == whole
    for place in range(len(REQUESTS)):
        texts = [step[place]["response"] for step in steps]
        assert all(later.startswith(text) for text, later in pairwise(texts))
    stream = inference_stream_vllm(engine, template, REQUESTS, generation_config=GREEDY)
    next(stream)
    with pytest.raises(ParameterError, match="another stream of this engine"):
        inference_vllm(engine, template, REQUESTS, generation_config=GREEDY)
    stream.close()
    assert engine.backend.num_unfinished == 0


def test_penalties_are_told_apart() -> None:
    config = GenerationConfig(repetition_penalty=1.3, presence_penalty=0.5)
    params = config.params()
    assert (params.repetition_penalty, params.presence_penalty) == (1.3, 0.5)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"history": []}, "needs a query"),
        ({"query": "Hi", "history": ["Hello"]}, r"list of \(query, response\)"),
        ({"query": "Hi", "images": ["a.png"]}, "images of a request is not known"),
    ],
)
def test_a_malformed_request_is_refused(
    engine: VllmEngine, request_: dict[str, object], sentence: str
) -> None:
    template = get_template("own", engine.hf_tokenizer)
    with pytest.raises(ParameterError, match=sentence):
        inference_vllm(engine, template, [request_])


def test_names_of_models_are_known_or_explained() -> None:
    assert ModelType.qwen_7b_chat == "qwen-7b-chat"
    assert get_default_template_type(ModelType.qwen_7b) == "default-generation"
    with pytest.raises(AttributeError, match="did you mean qwen-7b-chat"):
        _ = ModelType.qwen_7b_chta
    with pytest.raises(ParameterError, match="unknown model type 'gpt-9'"):
        get_vllm_engine("gpt-9")


@pytest.fixture(scope="module")
def chat_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A trained model under the article's name, and an adapter."""
    backend = load_demo()
    base = open_folder(backend.tokenizer.folder)
    folder = make_adapter(tmp_path_factory.mktemp("lora"), base, r=4, target_modules=["q_proj"])
    backend.adapters.install(backend.adapters.prepare("default-lora", folder))
    with serving(backend, names=("llama2-7b-chat",)) as running:
        yield running.url


@pytest.fixture(scope="module")
def text_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model without a chat template."""
    folder = model_folder("qwen2", tmp_path_factory.mktemp("qwen-7b"), template="")
    engine = get_vllm_engine(str(folder), dtype="fp32")
    with serving(engine.backend, names=("qwen-7b",)) as running:
        yield running.url


@needs_articles
@pytest.mark.parametrize("section", CLIENT_SNIPPETS)
def test_a_snippet_with_a_server(
    section: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue("text_url" if section.endswith("text") else "chat_url")
    monkeypatch.setenv("MARTLET_BASE_URL", f"{url}/v1")
    printed = printed_by(snippet(section).replace("http://localhost:8000", url))
    assert printed.startswith("model_type")
    replies = re.split(r"response: ", printed)[1:]
    assert len(replies) == 2
    assert all(reply.strip() for reply in replies)
    if "swift" in section:  # the last chunk of OpenAI's own client has a content that is None
        assert "None" not in printed


@needs_articles
def test_its_calls_of_curl(chat_url: str, text_url: str) -> None:
    chat, text, *_ = requests()
    for call, url in ((chat.replace("qwen-7b-chat", "llama2-7b-chat"), chat_url), (text, text_url)):
        command = call.replace("http://localhost:8000", url)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        (choice,) = json.loads(done.stdout)["choices"]
        assert choice.get("text") or choice["message"]["content"]


def test_a_server_answers_by_pairs_or_says_why_not(text_url: str, chat_url: str) -> None:
    port = text_url.rpartition(":")[2]
    config = XRequestConfig(max_tokens=4, seed=1)
    reply = inference_client("qwen-7b", "1 + 2 =", request_config=config, port=port)
    assert reply.choices[0].text
    with pytest.raises(ParameterError, match="history and system are for chats"):
        inference_client("qwen-7b", "And?", [("a", "b")], port=port)
    port = chat_url.rpartition(":")[2]
    with pytest.raises(NotFoundError, match="no model 'my-tuner'"):
        inference_client("my-tuner", "Hello", port=port)
    streaming = XRequestConfig(max_tokens=4, seed=1, stream=True)
    pieces = inference_client("llama2-7b-chat", "Hello", request_config=streaming, port=port)
    whole = inference_client("llama2-7b-chat", "Hello", request_config=config, port=port)
    streamed = "".join(piece.choices[0].delta.content for piece in pieces)
    assert streamed == whole.choices[0].message.content
    with pytest.raises(UnavailableError, match="does not answer"):
        inference_client("llama2-7b-chat", "Hello", port=1)
