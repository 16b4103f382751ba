"""The life of adapters: revisions, memory, pins, prefix blocks, and books that always agree."""

import gc
import random
import shutil
import weakref
from pathlib import Path

import pytest

from martlet.engine.config import EngineConfig
from martlet.engine.engine import Engine
from martlet.engine.request import Request
from martlet.errors import BusyError, NotFoundError, ResourceError
from martlet.models.folder import ModelFolder
from martlet.models.load import LoadedModel
from support.adapters import make_adapter
from support.engines import BLOCK_SIZE, greedy, load_fp32, run_to_end

PROMPT = list(range(5, 45))
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def model(tiny_llama: ModelFolder) -> LoadedModel:
    return load_fp32(tiny_llama)


@pytest.fixture(scope="module")
def paths(tiny_llama: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("adapters")
    return {
        name: make_adapter(
            place / name, tiny_llama, seed=seed, r=4, target_modules=["q_proj", "up_proj"]
        )
        for seed, name in enumerate(NAMES)
    }


def make_engine(model: LoadedModel, *, max_loaded: int, num_blocks: int = 64) -> Engine:
    return Engine(
        model,
        EngineConfig(
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            max_num_requests=8,
            max_num_batched_tokens=64,
            max_context_tokens=128,
            headroom_blocks=0,
            max_loaded_adapters=max_loaded,
        ),
    )


def install(engine: Engine, name: str, path: Path) -> str:
    return engine.adapters.install(engine.adapters.prepare(name, path)).revision


def begin(engine: Engine, name: str | None, request_id: str = "one", tokens: int = 6) -> Request:
    return engine.add(request_id, PROMPT, greedy(tokens), seed=0, adapter=name)


def reply(engine: Engine, name: str | None) -> list[int]:
    request = begin(engine, name)
    run_to_end(engine)
    assert request.error is None
    return request.output_ids


def test_what_is_known_of_an_adapter(model: LoadedModel, paths: dict[str, Path]) -> None:
    engine = make_engine(model, max_loaded=4)
    revision = install(engine, "a", paths["a"])
    (info,) = engine.adapters.list()
    assert (info.name, info.path, info.revision, info.ranks) == ("a", paths["a"], revision, (4,))
    assert (info.num_tensors, info.num_tensors_expected) == (8, 8)
    assert info.probe_kl > 0
    assert info.proof == f"tensors 8/8, probe KL {info.probe_kl:.2g}"
    assert info.is_loaded
    assert not info.is_pinned
    assert len(revision) == 16
    assert install(engine, "again", paths["a"]) == revision
    begin(engine, "a")
    assert engine.adapters.get("a").num_requests == 1
    run_to_end(engine)
    assert engine.adapters.get("a").num_requests == 0
    with pytest.raises(NotFoundError, match="no adapter is called 'x'; there are: a, again"):
        begin(engine, "x")
    assert engine.num_unfinished == 0


def test_a_replaced_revision_is_freed_with_its_last_request(
    model: LoadedModel, paths: dict[str, Path]
) -> None:
    engine = make_engine(model, max_loaded=1)
    install(engine, "a", paths["a"])
    old = weakref.ref(begin(engine, "a").adapter)
    begin(engine, "a", "other")
    engine.step()
    install(engine, "a", paths["b"])
    engine.abort("one")
    gc.collect()
    assert old() is not None, "another request runs with it"
    assert engine.adapters.get("a").num_requests == 1
    run_to_end(engine)
    gc.collect()
    assert old() is None
    engine.adapters.drop("a")
    engine.check_integrity()
    assert engine.adapters.list() == ()


def test_the_least_recently_used_goes_and_is_read_again(
    model: LoadedModel, paths: dict[str, Path], tmp_path: Path
) -> None:
    engine = make_engine(model, max_loaded=2)
    changing = shutil.copytree(paths["a"], tmp_path / "changing")
    first = install(engine, "a", changing)
    install(engine, "b", paths["b"])
    expected = reply(engine, "a")
    install(engine, "c", paths["c"])
    loaded = {info.name: info.is_loaded for info in engine.adapters.list()}
    assert loaded == {"a": True, "b": False, "c": True}
    assert engine.adapters.get("b").size_bytes == 0
    reply(engine, "b")
    assert not engine.adapters.get("a").is_loaded
    assert reply(engine, "a") == expected
    assert engine.adapters.get("a").revision == first
    install(engine, "d", paths["d"])
    reply(engine, "c")
    assert not engine.adapters.get("a").is_loaded
    shutil.copytree(paths["b"], changing, dirs_exist_ok=True)
    changed = reply(engine, "a")
    assert engine.adapters.get("a").revision != first
    assert changed == reply(engine, "b")
    assert changed != expected
    engine.check_integrity()


def test_pinned_and_used_adapters_stay(model: LoadedModel, paths: dict[str, Path]) -> None:
    engine = make_engine(model, max_loaded=2)
    install(engine, "a", paths["a"])
    install(engine, "b", paths["b"])
    engine.adapters.pin("a", True)
    begin(engine, "b")
    with pytest.raises(BusyError, match="all 2 places for adapters are taken by those that"):
        install(engine, "c", paths["c"])
    run_to_end(engine)
    engine.adapters.pin("b", True)
    with pytest.raises(ResourceError, match="by pinned ones; unpin or drop one"):
        install(engine, "c", paths["c"])
    assert [info.name for info in engine.adapters.list()] == ["a", "b"]
    engine.adapters.pin("a", False)
    install(engine, "c", paths["c"])
    assert [info.is_loaded for info in engine.adapters.list()] == [False, True, True]
    with pytest.raises(NotFoundError):
        engine.adapters.drop("x")


def test_prefix_blocks_are_never_shared_across_adapters_or_revisions(
    model: LoadedModel, paths: dict[str, Path]
) -> None:
    engine = make_engine(model, max_loaded=4)
    install(engine, "a", paths["a"])
    install(engine, "twin", paths["a"])
    for name in ("a", "twin", None):
        first, second = begin(engine, name), None
        run_to_end(engine)
        second = begin(engine, name)
        run_to_end(engine)
        assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 32), name
    install(engine, "a", paths["b"])
    replaced = begin(engine, "a")
    run_to_end(engine)
    assert replaced.num_cached_tokens == 0


def test_a_failing_step_lets_go_of_its_adapters(model: LoadedModel, paths: dict[str, Path]) -> None:
    engine = make_engine(model, max_loaded=2)
    install(engine, "a", paths["a"])
    expected = reply(engine, "a")
    begin(engine, "a")

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    hook = model.module.model.layers[1].register_forward_pre_hook(fail)
    (output,) = engine.step()
    hook.remove()
    assert output.finish_reason == "error"
    engine.check_integrity()
    assert engine.adapters.get("a").num_requests == 0
    assert reply(engine, "a") == expected


def test_random_traces(model: LoadedModel, paths: dict[str, Path]) -> None:
    """Adapters and requests come and go at random; every finished reply is its revision's own."""
    oracle = make_engine(model, max_loaded=4)
    expected: dict[str, list[int]] = {}
    for name, path in paths.items():
        revision = install(oracle, name, path)
        expected[revision] = reply(oracle, name)
    for seed in range(5):
        chance = random.Random(seed)
        engine = make_engine(model, max_loaded=2, num_blocks=16)
        requests: list[Request] = []
        for number in range(80):
            name, action = chance.choice(NAMES), chance.random()
            try:
                if action < 0.15:
                    install(engine, name, paths[chance.choice(NAMES)])
                elif action < 0.2:
                    engine.adapters.drop(name)
                elif action < 0.25:
                    engine.adapters.pin(name, chance.random() < 0.3)
                elif action < 0.5:
                    requests.append(begin(engine, name, str(number)))
                elif action < 0.55 and requests:
                    engine.abort(chance.choice(requests).request_id)
                else:
                    engine.step()
            except (NotFoundError, BusyError, ResourceError):
                pass
            engine.check_integrity()
        run_to_end(engine)
        finished = [request for request in requests if request.finish_reason == "length"]
        assert finished
        for request in finished:
            assert request.adapter is not None
            assert request.output_ids == expected[request.adapter.revision]
