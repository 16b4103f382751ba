"""Faults of servers beside a model and its adapters."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from transformers import AutoTokenizer

from backends.unruly_server import listening
from doctor.vllm_shaped import vllm_shaped
from martlet.doctor.adapter import AdapterExamination, KnownAdapter
from martlet.doctor.finding import Finding
from martlet.doctor.model import KnownModel, ModelExamination
from martlet.doctor.server import examine_server
from martlet.models.folder import ModelFolder
from martlet.models.resolve import resolve
from martlet.serve.settings import ServeSettings
from serve.servers import load_demo, serving
from support.adapters import make_adapter
from support.tiny_models import CHAT_TEMPLATE, END_OF_TEXT


def known(path: Path, chat_template: Path | None = None) -> KnownModel:
    examination = ModelExamination(str(path), chat_template)
    list(examination.findings())
    assert examination.model is not None
    return examination.model


def adapter_of(path: Path, model: KnownModel) -> KnownAdapter:
    examination = AdapterExamination("judge", str(path), model)
    list(examination.findings())
    assert examination.adapter is not None
    return examination.adapter


def examined(url: str, model: KnownModel | None, *adapters: KnownAdapter) -> dict[str, Finding]:
    findings = examine_server(f"{url}/v1", model=model, adapters=adapters)
    return {each.subject: each for each in findings}


def test_a_server_of_the_model_and_one_of_another_template(tmp_path: Path) -> None:
    own = known(resolve("demo"))
    changed = shutil.copytree(resolve("demo"), tmp_path / "changed")
    template = changed / "chat_template.jinja"
    template.write_text(own.tokenizer.template + "{{ '\n' }}")
    folder = make_adapter(tmp_path / "judge", own.folder, r=4, target_modules=["q_proj"])
    adapter = adapter_of(folder, own)
    settings = ServeSettings(adapter_dirs=(tmp_path,))
    with closing(load_demo()) as backend, serving(backend, settings=settings) as running:
        before = examined(running.url, own, adapter)
        asked = {"name": "judge", "path": str(folder)}
        httpx.post(f"{running.url}/v1/adapters", json=asked).raise_for_status()
        after = examined(running.url, known(changed), adapter)
        as_trained = examined(running.url, known(changed, resolve("demo") / template.name))
        other = examined(running.url, known(resolve("demo"), template))
        make_adapter(folder, own.folder, seed=1, r=4, target_modules=["q_proj"])
        later = examined(running.url, own, adapter_of(folder, own))
    assert [before[name].state for name in ("server", "prompts")] == ["ok", "ok"]
    assert "serves no 'judge'" in before["served judge"].what
    assert after["served judge"].state == "ok"
    fault = after["prompts"]
    assert (fault.state, fault.exit_code) == ("fault", 2)
    assert "reads a conversation differently" in fault.what
    assert fault.remedy == f"martlet serve {changed}"
    assert as_trained["prompts"].state == "ok"
    assert other["prompts"].remedy is not None
    assert other["prompts"].remedy.endswith(f"demo/model --chat-template {template}")
    assert (later["served judge"].state, later["served judge"].exit_code) == ("fault", 4)
    serve = f"martlet serve demo --adapter judge={folder}"
    assert later["served judge"].remedy == before["served judge"].remedy == serve


def test_two_bos_at_a_server(tiny_llama: ModelFolder, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama.path, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = END_OF_TEXT
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    model = known(folder)
    with listening(vllm_shaped(folder)) as url:
        assert examined(url, model)["prompts"].state == "ok"
    with listening(vllm_shaped(folder, adds_bos_to_chats=True)) as url:
        fault = examined(url, model)["prompts"]
    assert (fault.state, fault.exit_code) == ("fault", 2)
    assert "begins a conversation with two BOS tokens" in fault.what
    assert fault.remedy == f"vllm serve {folder} --served-model-name base"


@pytest.fixture(scope="module")
def wide(tiny_llama: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> KnownAdapter:
    """An adapter of rank 20."""
    folder = tmp_path_factory.mktemp("wide") / "judge"
    make_adapter(folder, tiny_llama, r=20, target_modules=["q_proj"])
    return adapter_of(folder, known(tiny_llama.path))


def assert_too_high(finding: Finding, wide: KnownAdapter) -> None:
    assert (finding.state, finding.exit_code) == ("fault", 4)
    assert "adapter judge has rank 20, and vllm at http" in finding.what
    assert "takes 16 at most" in finding.what
    assert finding.remedy == (
        "vllm serve /models/base --served-model-name base --enable-lora --max-lora-rank 32 "
        f"--lora-modules judge={wide.folder.path}"
    )


def test_rank_too_high_for_a_server_that_tells(tiny_llama: ModelFolder, wide: KnownAdapter) -> None:
    with listening(vllm_shaped(tiny_llama.path, max_lora_rank=16)) as url:
        assert_too_high(examined(url, None, wide)["served judge"], wide)
    with listening(vllm_shaped(tiny_llama.path, max_lora_rank=32)) as url:
        assert examined(url, None, wide)["served judge"].state == "warning"


@contextmanager
def command_line(program: Path, *arguments: str) -> Iterator[None]:
    """A process with the command line of `vllm serve`, that listens nowhere."""
    program.write_text("import sys\nprint(flush=True)\nsys.stdin.read()\n")
    pipe = subprocess.PIPE
    command = [sys.executable, str(program), "serve", "base", *arguments]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate(b"")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_rank_too_high_for_a_server_whose_command_line_tells(
    tiny_llama: ModelFolder, wide: KnownAdapter, tmp_path: Path
) -> None:
    with listening(vllm_shaped(tiny_llama.path)) as url:
        port = str(httpx.URL(url).port)
        assert examined(url, None, wide)["served judge"].state == "warning"
        with command_line(tmp_path / "vllm", "--enable-lora", f"--port={port}"):
            assert_too_high(examined(url, None, wide)["served judge"], wide)
        with command_line(tmp_path / "vllm", "--port", port, "--max-lora-rank", "64"):
            assert examined(url, None, wide)["served judge"].state == "warning"


def test_servers_that_do_not_answer_as_asked(tiny_llama: ModelFolder) -> None:
    model = known(tiny_llama.path)
    with listening(vllm_shaped(tiny_llama.path)) as url:
        wrong = {each.subject: each for each in examine_server(url, model=None, adapters=())}
    assert wrong["server"].exit_code == 3
    assert wrong["server"].remedy == f"martlet doctor --url {url}/v1"
    silent = examined(url, model)["server"]
    assert (silent.state, silent.exit_code) == ("fault", 8)
    assert silent.remedy == f"martlet serve {model.name}"
