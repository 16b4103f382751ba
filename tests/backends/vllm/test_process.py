"""A server process of our own: started, watched, stopped, and never left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from martlet.backends.base import Backend, Prompt, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.openai.backend import OpenAIBackend
from martlet.backends.options import BackendOptions, VllmOptions
from martlet.backends.vllm.command import serve_command
from martlet.backends.vllm.process import VllmProcess, free_port
from martlet.engine.params import SamplingParams
from martlet.errors import EngineError, NotFoundError, ParameterError
from martlet.models.folder import ModelFolder
from serve.servers import load_demo, wait_until
from support.adapters import make_adapter

PROMPT = Prompt(messages=[{"role": "user", "content": "Ann is left of Bo. Who is right of Ann?"}])
PARAMS = SamplingParams(temperature=0.8, max_tokens=12, ignore_eos=True)
SOURCES = Path(__file__).resolve().parents[3] / "src"
STAND_IN = Path(__file__).with_name("martlet_as_vllm.py")


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where logs are kept; temporary files go there too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "state" / "martlet"


def program(folder: Path, line: str) -> str:
    """An executable file that runs a line of shell."""
    path = folder / "vllm"
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def load(program: str, **options: object) -> OpenAIBackend:
    vllm = VllmOptions(program=program)
    given = BackendOptions(backend="vllm", dtype="fp32", vllm=vllm, **options)
    backend = load_backend("demo", options=given)
    assert isinstance(backend, OpenAIBackend)
    return backend


def draw(backend: Backend) -> str:
    rendered = backend.render(PROMPT)
    request = SampleRequest(
        request_id="a", prompt_ids=rendered.token_ids, params=PARAMS, seed=7, prompt=PROMPT
    )
    backend.submit(request)
    while True:
        for output in backend.poll():
            assert output.error is None
            return output.text


def group_of(backend: OpenAIBackend) -> int:
    """The process group of a backend's server, found by its port."""
    port = backend.server.address.base_url.split(":")[2].removesuffix("/v1").encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if port in path.read_bytes().split(b"\0"):
            return os.getpgid(int(path.parent.name))
    raise AssertionError("it does not run")


def is_alive(group: int) -> bool:
    """Whether a process of a group lives; what nobody waited for yet does not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = path.read_bytes().rpartition(b")")[2].split()[:3]
            if int(its_group) == group and state != b"Z":
                return True
    return False


def test_it_starts_answers_dies_and_stops(
    tmp_path: Path, logs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = f'PYTHONPATH={SOURCES} exec {sys.executable} {STAND_IN} "$@"'
    backend = load(program(tmp_path, line))
    group = group_of(backend)
    try:
        (log,) = logs.iterdir()
        assert f"its log is {log}" in capfd.readouterr().err
        assert " serve " in log.read_text().splitlines()[0]
        native = load_demo()
        assert draw(backend) == draw(native)
        assert backend.identity.model_hash == native.identity.model_hash
        native.close()
        os.killpg(group, signal.SIGKILL)
        with pytest.raises(EngineError, match=f"vLLM has ended with code -9.*{log}"):
            draw(backend)
    finally:
        backend.close()
    assert not is_alive(group)
    assert "not vLLM but Martlet's own server" in log.read_text()


def test_one_that_does_not_start_shows_its_last_words(tmp_path: Path, logs: Path) -> None:
    with pytest.raises(EngineError, match=r"(?s)ended with code 3; .*\.log:.*no room on the GPU"):
        load(program(tmp_path, "echo no room on the GPU >&2; exit 3"))
    assert len(list(logs.iterdir())) == 1


def test_an_error_is_found_before_what_is_said_behind_it(tmp_path: Path) -> None:
    warning = "echo WARNING as in OSError: too many files"
    command = ["/bin/sh", "-c", f"echo Value''Error: no room; {warning}; seq 99; exit 3"]
    process = VllmProcess(command, port=free_port(), log=tmp_path / "log")
    with pytest.raises(EngineError, match=r"(?s)with code 3; .*:\nValueError: no room$"):
        process.wait_until_ready(on_wait=lambda _seconds, _line: None)
    process.close()


def test_all_that_it_started_ends_with_it(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "sleep 1000 & sleep 1000"]
    process = VllmProcess(command, port=free_port(), log=tmp_path / "log")
    assert process.why_gone() is None
    process.close()
    assert not is_alive(process.process_id)


def test_a_process_whose_name_is_no_text_does_not_stop_the_keeper(tmp_path: Path) -> None:
    """Linux cuts names at 15 bytes, which may be in the middle of a character."""
    is_named = tmp_path / "named"
    line = rf"printf '\344\275' > /proc/$$/comm; touch {is_named}; sleep 1000; :"
    command = ["/bin/sh", "-c", 'sh -c "$0" & sleep 1000', line]
    process = VllmProcess(command, port=free_port(), log=tmp_path / "log")
    wait_until(is_named.exists, timeout_s=20)
    process.close()
    assert not is_alive(process.process_id)


def test_it_ends_when_we_are_killed(tmp_path: Path) -> None:
    """No handler of ours runs: the pipe to the keeper closes. Ray kills our children with us."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from martlet.backends.vllm.process import VllmProcess\n"
        "command = ['/bin/sh', '-c', 'touch $TMPDIR/left; sleep 1000 & sleep 1000']\n"
        f"started = VllmProcess(command, port=1, log=Path({str(tmp_path / 'log')!r}))\n"
        "print(started.process_id, flush=True); time.sleep(1000)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        assert is_alive(group)
        wait_until(lambda: any(tmp_path.glob("vllm-*/left")), timeout_s=20)
        parent.kill()
        os.kill(group, signal.SIGKILL)
    wait_until(lambda: not is_alive(group), timeout_s=20)
    assert not any(tmp_path.glob("vllm-*"))


def test_what_would_have_no_effect_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="--vllm-bin"):
        load(str(tmp_path / "nothing"))
    vllm = program(tmp_path, "exit 1")
    with pytest.raises(
        ParameterError, match=r"kv_memory_gib=1\.0 has no effect on the vllm backend"
    ):
        load(vllm, kv_memory_gib=1.0)
    with pytest.raises(ParameterError, match="speculation=False has no effect on the vllm backend"):
        load(vllm, speculation=False)
    parallel = BackendOptions(backend="native", vllm=VllmOptions(tensor_parallel_size=2))
    with pytest.raises(ParameterError, match="has no effect on the native backend"):
        load_backend("demo", options=parallel)
    started = BackendOptions(backend="vllm", vllm=VllmOptions(program=vllm))
    with pytest.raises(ParameterError, match="runs already"):
        load_backend("http://127.0.0.1:8000/v1", options=started)


def test_the_command_says_all_that_was_asked_for(tiny_llama: ModelFolder, tmp_path: Path) -> None:
    adapters = {
        name: str(make_adapter(tmp_path / name, tiny_llama, r=rank))
        for name, rank in (("a", 4), ("b", 20))
    }
    vllm = VllmOptions(tensor_parallel_size=2, data_parallel_size=4, quantization="fp8")
    options = BackendOptions(
        backend="vllm",
        vllm=vllm,
        adapters=adapters,
        max_num_requests=32,
        max_context_tokens=4096,
        prefix_sharing=False,
    )
    command = serve_command("vllm", Path("m"), port=1234, dtype="bfloat16", options=options)
    assert " ".join(command) == (
        "vllm serve m --host 127.0.0.1 --port 1234 --served-model-name martlet-base "
        "--dtype bfloat16 --max-num-seqs 32 --generation-config vllm --max-model-len 4096 "
        "--quantization fp8 --tensor-parallel-size 2 --data-parallel-size 4 "
        "--no-enable-prefix-caching --enable-lora --max-lora-rank 32 --max-loras 2 "
        f"--lora-modules a={adapters['a']} b={adapters['b']}"
    )


def test_prompts_stay_whole_on_a_build_for_cpus(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "vllm"
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, is_cpu in (("vllm-0.32.0", False), ("vllm-0.32.0+cpu", True)):
        (packages / f"{name}.dist-info").mkdir(parents=True)
        command = serve_command(
            str(program), Path("m"), port=1, dtype="float32", options=BackendOptions(backend="vllm")
        )
        assert ("--no-enable-chunked-prefill" in command) is is_cpu
