"""What is wrong with an adapter is said in one sentence, before anything is computed with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import Tensor

from martlet.engine.engine import Engine
from martlet.errors import AdapterError, MartletError, NotFoundError, ParameterError
from martlet.lora.config import read_config
from martlet.models.folder import ModelFolder, open_folder
from support.adapters import make_adapter
from support.engines import greedy, load_fp32, make_engine, run_to_end
from support.tiny_models import tiny_model_folder

Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
LORA_B = f"{Q_PROJ}.lora_B.weight"
V_LORA_B = LORA_B.replace("q_proj", "v_proj")


@pytest.fixture(scope="module")
def engine(tiny_llama: ModelFolder) -> Engine:
    return make_engine(load_fp32(tiny_llama))


@pytest.fixture(scope="module")
def sound(tiny_llama: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sound") / "adapter"
    return make_adapter(place, tiny_llama, r=4, target_modules=["q_proj", "v_proj"])


@pytest.fixture
def broken(sound: Path, tmp_path: Path) -> Path:
    """A copy of a sound adapter, for a test to break."""
    return shutil.copytree(sound, tmp_path / "broken")


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(engine: Engine, folder: Path, error: type[MartletError] = AdapterError) -> str:
    with pytest.raises(error) as caught:
        engine.adapters.install(engine.adapters.prepare("broken", folder))
    assert engine.adapters.list() == ()
    engine.check_integrity()
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters (LoRA on bare"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices (single trained rows"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens (activated LoRA)"),
        ({"layer_replication": [[0, 2]]}, "layer_replication (replicated layers)"),
        ({"use_qalora": True}, "use_qalora (QALoRA)"),
        ({"use_novelty": True}, "use_novelty=True is a setting of a PEFT that is not known"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "corda"}, "path_initial_model_for_weight_conversion"),
        ({"r": "four"}, "is not a LoRA config of PEFT"),
        ({"rank_pattern": {"(": 4}}, "no regular expression"),
        ({"r": 8}, "its shape is (4, 64), and (8, 64) is needed"),
        ({"target_modules": ["q_proj", "v_proj", "q_prj"]}, "target_modules names 'q_prj'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names 'lm_head'"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, "tensors 8/12: model.layers.0"),
        ({"use_dora": True}, "without lora_magnitude_vector"),
    ],
)
def test_configs(engine: Engine, broken: Path, changes: dict[str, object], words: str) -> None:
    change_config(broken, **changes)
    assert words in refusal(engine, broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(LORA_B), "tensors 6/8: model.layers.0.self_attn.q_proj.lora_A.weight"),
        (
            lambda t: t.update({f"{Q_PROJ}.lora_C.weight": t[LORA_B].clone()}),
            "q_proj.lora_C.weight: the model has no such module",
        ),
        (
            lambda t: t.update({"q_proj.lora_A.weight": t[LORA_B].clone()}),
            "1 of 9 tensors have names",
        ),
        (
            lambda t: t.update({"base_model.model.vision.lora_A.weight": t[LORA_B].clone()}),
            "tensors 8/9: vision.lora_A.weight: the model has no such module",
        ),
        (lambda t: t[LORA_B].fill_(torch.nan), "it holds values that are not finite"),
        (lambda t: t[V_LORA_B].fill_(3e38), "makes logits that are not finite"),
        (lambda t: [b.zero_() for name, b in t.items() if "lora_B" in name], "changes nothing"),
        (
            lambda t: t.update({f"{Q_PROJ}.base_layer.bias": torch.zeros(64)}),
            "a bias, and the module has none",
        ),
        (
            lambda t: t.update({"base_model.model.model.norm.lora_A.weight": t[LORA_B].clone()}),
            "LoRA is served on linear and embedding layers, and this is a RMSNorm",
        ),
        (
            lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(330, 64)}),
            "its shape is (330, 64), and (320, 64) is needed",
        ),
        (
            lambda t: t.update({"base_model.model.lm_head.base_layer.weight": torch.ones(320, 64)}),
            "was trained on another lm_head",
        ),
    ],
)
def test_tensors(
    engine: Engine, broken: Path, change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    change_tensors(broken, change)
    assert words in refusal(engine, broken)


def test_folders(engine: Engine, broken: Path, tiny_llama: ModelFolder, tmp_path: Path) -> None:
    assert "no such adapter folder" in refusal(engine, tmp_path / "nowhere", NotFoundError)
    assert "holds a whole model" in refusal(engine, tiny_llama.path)
    weights = broken / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    assert "is cut short" in refusal(engine, broken)
    torch.save(safetensors.torch.load(content), broken / "adapter_model.bin")
    weights.unlink()
    words = refusal(engine, broken)
    assert "reading a pickle can run any code" in words
    assert "s.save_file(torch.load('adapter_model.bin', weights_only=True)" in words
    (broken / "adapter_model.bin").unlink()
    assert "adapter_model.safetensors is missing" in refusal(engine, broken)
    (broken / "adapter_config.json").write_text("{")
    assert "cannot be read as JSON" in refusal(engine, broken)
    with pytest.raises(ParameterError, match="a name that is not empty"):
        engine.adapters.prepare(" ", broken)


def test_an_adapter_for_another_base(engine: Engine, tmp_path: Path) -> None:
    other = open_folder(tiny_model_folder("gpt2", tmp_path / "gpt2"))
    path = make_adapter(tmp_path / "a", other, r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    words = refusal(engine, path)
    assert "tensors 0/4" in words
    assert f"It was made for {other.path}" in words


def test_an_untrained_adapter_of_each_kind(
    engine: Engine, tiny_llama: ModelFolder, tmp_path: Path
) -> None:
    for number, config in enumerate(
        ({}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"})
    ):
        path = make_adapter(
            tmp_path / str(number), tiny_llama, scale=0, r=4, target_modules=["q_proj"], **config
        )
        assert "changes nothing" in refusal(engine, path)


def test_a_refused_adapter_leaves_the_model_as_it_was(engine: Engine, broken: Path) -> None:
    def reply() -> list[int]:
        request = engine.add("base", [11, 22, 33], greedy(6), seed=0)
        run_to_end(engine)
        return request.output_ids

    expected, layers = reply(), str(engine._model.module)
    change_tensors(broken, lambda tensors: tensors[V_LORA_B].fill_(3e38))
    refusal(engine, broken)
    assert str(engine._model.module) == layers
    assert reply() == expected


def test_names_match_modules_by_the_rules_of_peft(tmp_path: Path) -> None:
    modules = [
        f"model.layers.{layer}.{name}"
        for layer in (0, 1, 11)
        for name in ("self_attn.q_proj", "self_attn.xq_proj", "mlp.experts.1.up_proj", "norm")
    ] + ["lm_head", "q_proj", "model.embed_tokens"]
    for number, settings in enumerate(
        (
            {"target_modules": ["q_proj", "model.layers.1.mlp.experts.1.up_proj"]},
            {"target_modules": r".*\.(q_proj|up_proj)", "exclude_modules": r".*layers\.1\..*"},
            {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
            {"target_modules": ["up_proj"], "layers_to_transform": 11, "layers_pattern": "layers"},
            {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
            {"target_modules": ["q_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
        )
    ):
        patterns = {r"layers\.1\..*": 2, "q_proj": 16, "^model.layers.0.self_attn.xq_proj": 32}
        theirs = LoraConfig(r=8, rank_pattern=patterns, alpha_pattern={"lm_head": 3}, **settings)
        theirs.save_pretrained(tmp_path / str(number))
        ours = read_config(tmp_path / str(number))
        for module in modules:
            assert ours.targets(module) == bool(check_target_module_exists(theirs, module))
            assert ours.rank_of(module) == patterns.get(get_pattern_key(patterns, module), 8)
        assert ours.scaling_of("lm_head") == 3 / 8
