"""Adapters over HTTP: loaded, asked, replaced, pinned and dropped while requests run."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from martlet import LLM, SamplingParams
from martlet.backends.load import load_backend
from martlet.backends.native import NativeBackend
from martlet.backends.options import BackendOptions
from martlet.models.folder import ModelFolder, open_folder
from martlet.serve.settings import ServeSettings
from serve.servers import Running, serving, slow_down
from support.adapters import make_adapter
from support.tiny_models import tiny_model_folder

PROMPT = "The quick brown fox"
GREEDY = {"temperature": 0, "max_tokens": 24, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def folders(tiny_llama: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`poet`, `other-poet` and `judge` for the tiny Llama, and `foreign` for another model."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("poet", "other-poet", "judge")):
        make_adapter(root / name, tiny_llama, seed=seed, r=4, target_modules="all-linear")
    elsewhere = open_folder(tiny_model_folder("gpt_neox", tmp_path_factory.mktemp("base") / "neox"))
    make_adapter(root / "foreign", elsewhere, r=4, target_modules="all-linear")
    return root


@pytest.fixture(scope="module")
def server(tiny_llama: ModelFolder, folders: Path) -> Iterator[Running]:
    options = BackendOptions(dtype="fp32", kv_memory_gib=0.05)
    backend = load_backend(str(tiny_llama.path), options=options)
    assert isinstance(backend, NativeBackend)
    slow_down(backend, step_s=0.005)
    with serving(
        backend, names=("base",), settings=ServeSettings(adapter_dirs=(folders,))
    ) as running:
        yield running


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    """A client; what it loads is dropped at the end."""
    with server.http() as http:
        yield http
        for adapter in http.get("/v1/adapters").json()["data"]:
            http.delete(f"/v1/adapters/{adapter['id']}")


def load(http: httpx.Client, name: str, path: str | None = None) -> dict[str, object]:
    reply = http.post("/v1/adapters", json={"name": name, "path": path or name})
    assert reply.status_code == 200, reply.text
    return reply.json()


def ask(server: Running, model: str) -> str:
    reply = server.client().completions.create(model=model, prompt=PROMPT, **GREEDY)
    return reply.choices[0].text


def test_one_server_answers_for_the_base_and_its_adapters(
    server: Running, http: httpx.Client, folders: Path, tiny_llama: ModelFolder
) -> None:
    card = load(http, "poet")
    load(http, "judge")
    number, total = card["tensors"].split("/")
    assert number == total != "0"
    assert card["probe_kl"] > 0
    llm = LLM(
        str(tiny_llama.path),
        dtype="fp32",
        kv_memory_gib=0.05,
        adapters={name: str(folders / name) for name in ("poet", "judge")},
    )
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    texts = {}
    for name in (None, "poet", "judge"):
        (output,) = llm.generate([PROMPT], params, adapter=name, use_tqdm=False)
        texts[name] = output.outputs[0].text
        assert ask(server, name or "base") == texts[name]
    assert len(set(texts.values())) == 3


def test_models_carry_their_proof(server: Running, http: httpx.Client) -> None:
    card = load(http, "poet")
    base, poet = server.client().models.list().data
    assert (base.id, poet.id) == ("base", "poet")
    assert poet.model_extra["parent"] == "base"
    assert poet.model_extra["adapter"]["revision"] == card["revision"]
    assert "martlet_adapters_loaded 1.0" in http.get("/metrics").text
    reply = http.post(
        "/v1/completions",
        json={"model": "poet", "prompt": PROMPT},
        headers={"X-Martlet-Explain": "1"},
    ).json()
    assert reply["model"] == reply["martlet"]["adapter"] == "poet"
    assert reply["martlet"]["adapter_revision"] == card["revision"]


def test_a_reply_keeps_the_revision_that_it_began_with(server: Running, http: httpx.Client) -> None:
    first = load(http, "poet")
    before = ask(server, "poet")
    stream = server.client().completions.create(model="poet", prompt=PROMPT, stream=True, **GREEDY)
    pieces = [next(stream), next(stream), next(stream)]
    second = load(http, "poet", "other-poet")
    assert second["revision"] != first["revision"]
    pieces += list(stream)
    assert "".join(piece.choices[0].text for piece in pieces) == before
    assert ask(server, "poet") != before


def test_adapters_are_pinned_and_dropped(server: Running, http: httpx.Client) -> None:
    load(http, "poet")
    pinned = http.patch("/v1/adapters/poet", json={"is_pinned": True}).json()
    assert pinned["is_pinned"] is True
    assert http.get("/v1/adapters/poet").json() == pinned
    assert http.delete("/v1/adapters/poet").json()["deleted"] is True
    assert http.get("/v1/adapters/poet").status_code == 404
    with pytest.raises(openai.NotFoundError, match="answers for base"):
        ask(server, "poet")


def test_vllms_clients_load_and_unload(server: Running, http: httpx.Client) -> None:
    body = {"lora_name": "poet", "lora_path": "poet"}
    assert http.post("/v1/load_lora_adapter", json=body).status_code == 200
    again = http.post("/v1/load_lora_adapter", json={**body, "load_inplace": False})
    assert again.status_code == 400
    assert ask(server, "poet") != ask(server, "base")
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "poet"}).status_code == 200
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "poet"}).status_code == 404


def test_an_adapter_of_another_base_is_refused_with_the_reason(http: httpx.Client) -> None:
    refused = http.post("/v1/adapters", json={"name": "foreign", "path": "foreign"})
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "adapter"
    assert http.get("/v1/adapters").json()["data"] == []


def test_an_adapter_out_of_memory_is_read_again(tiny_llama: ModelFolder, folders: Path) -> None:
    options = BackendOptions(dtype="fp32", kv_memory_gib=0.05, max_loaded_adapters=1)
    backend = load_backend(str(tiny_llama.path), options=options)
    settings = ServeSettings(adapter_dirs=(folders,))
    with serving(backend, names=("base",), settings=settings) as one, one.http() as http:
        client = one.client()

        def ask(model: str) -> str:
            reply = client.completions.create(model=model, prompt=PROMPT, **GREEDY)
            return reply.choices[0].text

        load(http, "poet")
        first = ask("poet")
        load(http, "judge")
        assert [card["is_loaded"] for card in http.get("/v1/adapters").json()["data"]] == [
            True,
            False,
        ]
        assert ask("judge") != first
        assert ask("poet") == first
        one.on_engine(lambda backend: backend.engine.check_integrity())
