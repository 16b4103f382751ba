"""Faults of a machine and its packages, planted for real where a test may."""

import shutil
import socket
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from martlet.doctor.machine import TorchCpu, examine_cpu, examine_port
from martlet.doctor.packages import examine_python, examine_requirements, examine_vllm

BF16_FLAGS = frozenset({"avx512f", "avx512_bf16"})


def test_torch_without_avx512_bf16() -> None:
    build = TorchCpu(capability="AVX2", has_bf16_products=False, limits=())
    finding = examine_cpu(BF16_FLAGS, build)
    assert finding.state == "warning"
    assert "built without AVX-512 bf16 (AVX2)" in finding.what
    assert finding.remedy is not None
    assert finding.remedy.startswith("pip install --force-reinstall")
    assert examine_cpu(frozenset({"avx2"}), build).state == "ok"


def test_torch_that_the_environment_holds_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            finding = examine_cpu(BF16_FLAGS, TorchCpu.here())
        assert finding.state == "warning"
        assert finding.remedy == f"unset {name}"


def test_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = examine_port(port, model="demo")
    assert finding.state == "warning"
    assert f"{port} is in use" in finding.what
    assert finding.remedy is not None
    free = int(finding.remedy.removeprefix("martlet serve demo --port "))
    assert examine_port(free, model=None).state == "ok"


FULL_DISK = """
from pathlib import Path
from martlet.doctor.machine import examine_disk
found = examine_disk(Path.cwd(), use="results")
print(found.state, found.exit_code, found.what, found.remedy, sep="|")
"""


def test_full_disk(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && cd {tmp_path} && "
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*isolated, f"{mount} true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small disk is not allowed here")
    command = [*isolated, f'{mount} exec "$0" -c "$1"', sys.executable, FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    state, exit_code, what, remedy = done.stdout.strip().split("|", 3)
    assert (state, exit_code) == ("fault", "6")
    assert "the disk is full: 1 MiB for results" in what
    assert remedy.startswith(f"du -xh --max-depth=2 {tmp_path}")


def write_package(site: Path, name: str, version: str, *requires: str) -> None:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


def test_wrong_pin_of_vllm(tmp_path: Path) -> None:
    venv.create(tmp_path, symlinks=True)
    site = next((tmp_path / "lib").glob("python*/site-packages"))
    program = tmp_path / "bin" / "vllm"
    program.write_text(f"#!{tmp_path}/bin/python\n")
    program.chmod(0o755)
    empty = examine_vllm(str(program), is_named=True)
    assert (empty.state, empty.exit_code) == ("fault", 7)
    assert "has no vLLM" in empty.what
    write_package(site, "vllm", "0.33.0", "torch==2.14.0", "transformers<5.21", "torchvision")
    write_package(site, "torch", "2.13.0")
    write_package(site, "transformers", "5.20.0")
    wrong = examine_vllm(str(program), is_named=True)
    assert wrong.state == "fault"
    assert "torch==2.14.0 is needed, and 2.13.0 is there" in wrong.what
    assert wrong.remedy == f"{tmp_path}/bin/python -m pip install torch==2.14.0"
    shutil.rmtree(site / "torch-2.13.0.dist-info")
    write_package(site, "torch", "2.14.0+cu130")
    assert examine_vllm(str(program), is_named=True).state == "ok"


def test_vllm_that_is_not_where_the_user_says(tmp_path: Path) -> None:
    program = str(tmp_path / "own" / "bin" / "vllm")
    missing = examine_vllm(program, is_named=True)
    assert (missing.state, missing.exit_code) == ("fault", 3)
    assert missing.remedy == f"python -m venv {tmp_path}/own && {tmp_path}/own/bin/pip install vllm"
    assert examine_vllm(program, is_named=False).state == "ok"


def test_the_packages_of_these_tests_are_sound() -> None:
    findings = [examine_python(), *examine_requirements()]
    assert [each.state for each in findings] == ["ok"] * 3
