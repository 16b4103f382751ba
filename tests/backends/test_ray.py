"""A run over a Ray cluster of three nodes: one dies and one joins, and nobody can see it after."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from batch.lines import write_lines
from martlet.backends.base import Backend, SampleRequest
from martlet.backends.load import load_backend
from martlet.backends.options import BackendOptions
from martlet.backends.vllm.process import free_port
from martlet.batch.job import Job
from martlet.batch.options import JobOptions
from martlet.batch.summary import Progress
from martlet.batch.task import GENERATE
from martlet.engine.params import SamplingParams
from martlet.errors import NotFoundError, ParameterError, ResourceError, UnavailableError

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402
from ray.util import placement_group  # noqa: E402

from backends.ray_nodes import NODE, running_nodes  # noqa: E402
from martlet.backends.ray.backend import RayBackend  # noqa: E402
from martlet.backends.ray.cluster import Demand, connect  # noqa: E402
from martlet.backends.ray.crew import Crew  # noqa: E402
from martlet.backends.ray.remote import RemoteEngine  # noqa: E402
from martlet.backends.ray.worker import Worker  # noqa: E402

ROWS = [{"id": i, "prompt": f"Ann sits left of number {i}. Who sits right?"} for i in range(60)]
PARAMS = {"n": 2, "temperature": 0.9, "max_tokens": 32, "ignore_eos": True}
OPTIONS = BackendOptions(dtype="fp32", device="cpu", max_num_requests=8, kv_memory_gib=0.05)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes of one core."""
    with running_nodes(3) as cluster:
        yield cluster


def job(folder: Path, out: str) -> Job:
    data = write_lines(folder / "data.jsonl", ROWS)
    options = JobOptions(data=str(data), out=folder / out, given_params=PARAMS)
    return Job.read(GENERATE, options)


def run(backend: Backend, job: Job) -> bytes:
    job.run(backend)
    return job.options.out.read_bytes()


@pytest.mark.slow
def test_a_cluster_at_other_work_is_waited_for_a_while(
    cluster: Cluster,
) -> None:
    disconnect = connect(cluster.address)
    try:
        assert placement_group([{"CPU": 1}] * 3).wait(30)
        crew = Crew(
            Demand(num_gpus=0).seats,
            lambda seat: RemoteEngine(seat, "demo", OPTIONS),
            room_timeout_s=1.0,
        )
        with pytest.raises(ResourceError, match="other work holds its cores"):
            crew.assemble()
        with pytest.raises(ResourceError, match="other work holds its cores"):
            crew.look_around()
        crew.close()
    finally:
        disconnect()


@pytest.mark.slow
def test_what_a_node_refuses_is_said_once_and_with_its_name(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    options = replace(OPTIONS, ray=cluster.address, adapters={"a": "/nowhere"})
    with pytest.raises(NotFoundError, match=r"^node .+ \([0-9a-f]{6}\): .*/nowhere"):
        load_backend("demo", options=options)
    assert not caplog.text
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_node_that_dies_and_one_that_joins_change_no_byte(
    cluster: Cluster,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = load_backend("demo", options=replace(OPTIONS, ray=cluster.address))
    assert isinstance(backend, RayBackend)
    crew, first = backend.crew, list(backend.crew.engines)
    assert len(first) == 3
    needed = {ray.get_runtime_context().get_node_id(), cluster.head_node.node_id}
    doomed = next(engine for engine in first if engine.seat.node_id not in needed)
    assert backend.limits.max_num_requests == 24
    with pytest.raises(ParameterError, match="schema"):
        backend.prepare(SamplingParams(structured={"json": {"type": "nonsense"}}))
    joined: list[int] = []

    def meddle(progress: Progress) -> None:
        """Once a sixth is drawn: a node dies with its requests, and another one joins."""
        if progress.num_samples_drawn < 20 or joined:
            joined.extend(len(each.unfinished) for each in crew.engines if each not in first)
            return
        assert doomed.unfinished
        node = next(n for n in cluster.list_all_nodes() if n.node_id == doomed.seat.node_id)
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(**NODE)
        deadline = time.monotonic() + 60
        while not any(each not in first for each in crew.engines):
            assert time.monotonic() < deadline, "the node that joined got no engine"
            crew.look_around()
        joined.append(0)

    over_ray = job(tmp_path, "ray.jsonl")
    summary = over_ray.run(backend, on_progress=meddle)
    identity = backend.identity
    backend.close()
    assert not ray.is_initialized()

    alone = load_backend("demo", options=OPTIONS)
    assert over_ray.options.out.read_bytes() == run(alone, job(tmp_path, "alone.jsonl"))
    assert identity == alone.identity
    alone.close()
    assert summary.samples_drawn == 120
    assert max(joined) > 0, "the engine that joined got no requests"
    assert f"node {doomed.seat.node} lost its engine" in caplog.text
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("Ray: engines ") == 2, "at the start, and when a node joined"


def test_what_a_cluster_cannot_do_is_said_at_once() -> None:
    for model, address, error, message in (
        ("http://127.0.0.1:9/v1#llama", "auto", ParameterError, "which computes by itself"),
        ("demo", "ray://127.0.0.1:10001", ParameterError, "with --ray auto"),
        ("demo", "local", ParameterError, "takes auto or HOST:PORT, not 'local'"),
        ("demo", f"127.0.0.1:{free_port()}", UnavailableError, "ray start --head"),
    ):
        with pytest.raises(error, match=message):
            load_backend(model, options=replace(OPTIONS, ray=address))


def test_engines_that_would_draw_differently_are_told_apart() -> None:
    worker, other = Worker(), Worker()
    facts = worker.load("demo", OPTIONS)
    assert facts.differences(other.load("demo", OPTIONS)) == []
    shorter = other.load("demo", replace(OPTIONS, max_context_tokens=64))
    assert facts.differences(shorter) == [
        f"context is 64, not {facts.max_context_tokens}",
    ]
    foreign = replace(facts, identity=replace(facts.identity, model_hash="0" * 8))
    assert facts.differences(foreign) == [
        f"model_hash is '00000000', not {facts.identity.model_hash!r}"
    ]
    refused = SampleRequest(request_id="1", prompt_ids=(10**6,), params=SamplingParams(), seed=0)
    (output,) = worker.work([refused], [])
    assert output.error is not None
    assert "token id 1000000 is not in the vocabulary" in output.error
    worker.close()
    other.close()
