"""Merge and quantise real tiny models: PEFT and compressed-tensors are the oracles."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from martlet.backends.load import load_backend
from martlet.errors import (
    AdapterError,
    CertificateError,
    ModelError,
    NotFoundError,
    ParameterError,
)
from martlet.export import certificate
from martlet.export.run import merge, quantize
from martlet.models.folder import ModelFolder, open_folder
from martlet.models.linear.fp8 import StoredFp8
from martlet.models.linear.int4 import Int4Linear, can_pack_int4
from martlet.models.linear.int8 import Int8Linear
from martlet.models.linear.integer import IntegerLinear
from martlet.models.linear.rounded import to_fp8
from martlet.models.linear.rounding import round_groups
from martlet.models.linear.stored import Awq, Gptq, PackQuantized
from martlet.models.load import load_model
from martlet.models.machine_code.support import can_compile
from martlet.models.pretrained import load_module
from martlet.models.resolve import resolve
from support.adapters import load_with_peft, make_adapter
from support.engines import load_fp32, make_engine
from support.tiny_models import tiny_model_folder

CPU = torch.device("cpu")
IDS = torch.tensor([list(range(5, 45))])


def ignore(_stage: str, _done: int, _all: int) -> None:
    """No bar."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_folder(tiny_model_folder("qwen2", tmp_path_factory.mktemp("base") / "model"))


@torch.inference_mode()
def logits_of(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()(IDS).logits[0]


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "lora_bias": True},
        {"target_modules": "all-linear", "use_dora": True, "rank_pattern": {"q_proj": 16}},
        {"target_modules": ["q_proj"], "bias": "all", "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["embed_tokens", "lm_head", "o_proj"]},
    ],
    ids=["rslora", "dora", "saved", "ends"],
)
def test_merged_answers_as_peft(
    config: dict[str, object], base: ModelFolder, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "a", base, **{"r": 8, **config})
    done = merge(str(adapter), out=tmp_path / "m", model=str(base.path), data=None, report=ignore)
    assert done.passed
    assert done.top1_agreement == 1.0
    with torch.inference_mode():
        expected = load_with_peft(base, adapter)(IDS).logits[0]
    torch.testing.assert_close(logits_of(tmp_path / "m"), expected, atol=1e-4, rtol=1e-4)
    assert json.loads((tmp_path / "m" / "certificate.json").read_text())["passed"] is True


@pytest.fixture(scope="module")
def adapter(base: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapter") / "a", base, target_modules="all-linear")


def test_an_fp32_base_merged_in_bf16_is_rejected(
    base: ModelFolder, adapter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m"
    with pytest.raises(CertificateError, match="mean KL"):
        merge(str(adapter), out=out, model=str(base.path), dtype="bf16", report=ignore)
    assert not out.exists()
    rejected = tmp_path / "m.rejected"
    kept = json.loads((rejected / "certificate.json").read_text())
    assert kept["passed"] is False
    # By whatever name it goes later, it is not served.
    rejected.rename(out)
    with pytest.raises(ModelError, match="failed its certificate when it was made: mean KL"):
        load_backend(str(out))
    (out / "certificate.json").unlink()
    load_backend(str(out)).close()


def test_another_base_renamed_tensors_and_a_full_folder_are_refused(
    base: ModelFolder, adapter: Path, tmp_path: Path
) -> None:
    made_for = {"base": "b", "base_hash": "0" * 64, "template_hash": "", "tokenizer_hash": ""}
    made_for |= {"stop_ids": [], "tuner": "lora", "method": "sft", "base_dtype": "float32"}  # type: ignore[dict-item]
    made_for |= {"base_quantization": None, "martlet": "0", "format": 1}  # type: ignore[dict-item]
    other = tmp_path / "other"
    other.mkdir()
    for path in adapter.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    content = {**made_for, "proof": None, "generations": []}
    (other / "martlet.json").write_text(json.dumps(content))
    with pytest.raises(AdapterError, match="merged onto another base"):
        merge(str(other), out=tmp_path / "m", model=str(base.path), report=ignore)
    with pytest.raises(NotFoundError, match=r"trained on b, which is not here: .* with --model"):
        merge(str(other), out=tmp_path / "m", report=ignore)
    (other / "martlet.json").unlink()
    weights = other / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    renamed = {name.replace("q_proj", "query"): value.clone() for name, value in tensors.items()}
    safetensors.torch.save_file(renamed, weights)
    with pytest.raises(AdapterError, match="no such module"):
        merge(str(other), out=tmp_path / "m", model=str(base.path), report=ignore)
    biased = make_adapter(tmp_path / "b", base, target_modules=["o_proj"], lora_bias=True)
    with pytest.raises(AdapterError, match="no place for one"):
        merge(str(biased), out=tmp_path / "m", model=str(base.path), report=ignore)
    with pytest.raises(ParameterError, match="not empty"):
        merge(str(adapter), out=base.path, model=str(base.path), report=ignore)


@pytest.mark.parametrize("bits", [8, 4])
def test_transformers_loads_what_is_written(bits: int, demo_quantized: dict[int, Path]) -> None:
    folder = demo_quantized[bits]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = logits_of(folder)
    module = load_module(
        open_folder(folder), dtype=torch.float32, device=CPU, trust_remote_code=False
    )
    with torch.inference_mode():
        got = module(IDS).logits[0]
    error = (got - expected).norm() / expected.norm()
    # With 8 bits the two divide a token's range by 127 and by 127.5.
    assert error < (0.03 if bits == 8 else 1e-4)


@pytest.mark.parametrize(("bits", "kind"), [(8, Int8Linear), (4, Int4Linear)])
def test_the_engine_takes_the_fast_layers_in_bf16(
    bits: int, kind: type[nn.Module], demo_quantized: dict[int, Path]
) -> None:
    loaded = load_model(open_folder(demo_quantized[bits]), dtype=torch.bfloat16, device=CPU)
    fast = IntegerLinear if can_compile() else kind
    assert sum(isinstance(module, fast) for module in loaded.module.modules()) > 20


@pytest.fixture(scope="module")
def demo_quantized(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    place = tmp_path_factory.mktemp("quantised")
    quantize("demo", out=place / "8", bits=8, report=ignore)
    with pytest.raises(CertificateError):
        quantize("demo", out=place / "4", bits=4, report=ignore)
    return {8: place / "8", 4: place / "4.rejected"}


def test_gptq_v1_stores_zeros_less_one() -> None:
    layer = Gptq(nn.Linear(8, 8, bias=False), num_groups=1, zero_offset=1)
    words = sum(value << 4 * place for place, value in enumerate(range(7)))
    layer.qweight = nn.Parameter(torch.full((1, 8), words, dtype=torch.int32), requires_grad=False)
    layer.qzeros = nn.Parameter(torch.full((1, 1), 0x77777777, dtype=torch.int32), False)
    layer.scales = nn.Parameter(torch.full((1, 8), 0.5), requires_grad=False)
    layer.g_idx = nn.Parameter(torch.zeros(8, dtype=torch.int32), requires_grad=False)
    expected = (torch.tensor([0, 1, 2, 3, 4, 5, 6, 0]) - 8) * 0.5
    assert torch.equal(layer.dequantized()[0], expected)
    with torch.inference_mode():
        assert torch.equal(layer(torch.eye(8))[:, 0], expected)


def test_awq_puts_the_even_outputs_of_a_word_first() -> None:
    layer = Awq(nn.Linear(1, 8, bias=False), num_groups=1)
    word = sum(value << 4 * place for place, value in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
    layer.qweight = nn.Parameter(torch.full((1, 1), word, dtype=torch.int32), requires_grad=False)
    layer.qzeros = nn.Parameter(torch.zeros(1, 1, dtype=torch.int32), requires_grad=False)
    layer.scales = nn.Parameter(torch.full((1, 8), 0.5), requires_grad=False)
    assert torch.equal(layer.dequantized()[:, 0], torch.arange(8) * 0.5)


def test_an_adapter_on_an_int8_base_answers_as_on_the_base_itself(
    demo_quantized: dict[int, Path], tmp_path: Path
) -> None:
    whole = open_folder(resolve("demo"))
    path = make_adapter(tmp_path / "a", whole, target_modules="all-linear")
    prompt = tuple(range(20, 60))
    adapted, plain = [], []
    for folder in (whole, open_folder(demo_quantized[8])):
        engine = make_engine(load_fp32(folder))
        revision = engine.adapters.prepare("a", path)
        engine.adapters.install(revision)
        plain.append(engine.logits(prompt))
        adapted.append(engine.logits(prompt, revision))
    error = (adapted[1] - adapted[0]).norm() / adapted[0].norm()
    effect = (adapted[1] - plain[1]).norm() / plain[1].norm()
    assert error < 0.03 < effect


def pack(values: torch.Tensor) -> torch.Tensor:
    """`[N, 8 W]` values from 0 to 15 -> `[N, W]` words, the first value lowest."""
    shifts = torch.arange(0, 32, 4)
    words = (values.long().unflatten(1, (-1, 8)) << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def pack_gptq(weight: torch.Tensor, size: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """As gptqmodel writes: transposed, zeros less one, groups in an order of their own."""
    groups = torch.randperm(weight.shape[1]) // size
    order = groups.argsort(stable=True)
    values, scales = round_groups(weight[:, order], weight.shape[1] // size)
    values = values[:, order.argsort()]
    return values * scales[:, groups], {
        "qweight": pack((values + 8).contiguous()).T.contiguous(),
        "qzeros": pack(torch.full_like(scales.T.contiguous(), 7)),
        "scales": scales.T.contiguous(),
        "g_idx": groups.int(),
    }


def pack_awq(weight: torch.Tensor, size: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """As AutoAWQ's `gemm` writes: the place of each of a word's eight outputs is in its table."""
    places = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    values, scales = round_groups(weight, weight.shape[1] // size)
    zeros = torch.randint(0, 8, scales.shape)
    stored = (values + 8).clamp(max=15)
    groups = torch.arange(weight.shape[1]) // size

    def words(numbers: torch.Tensor) -> torch.Tensor:
        return pack(numbers.unflatten(1, (-1, 8))[..., places].flatten(1).contiguous())

    return (stored - zeros[:, groups]) * scales[:, groups], {
        "qweight": words(stored.T),
        "qzeros": words(zeros.T),
        "scales": scales.T.contiguous(),
    }


@pytest.mark.parametrize(
    ("packing", "settings"),
    [
        (pack_gptq, {"quant_method": "gptq", "desc_act": True, "sym": True}),
        (pack_awq, {"quant_method": "awq", "version": "gemm", "zero_point": True}),
    ],
    ids=["gptq", "awq"],
)
def test_a_folder_of_packed_words_answers_as_its_rounded_weights(
    packing: Callable[[torch.Tensor, int], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    settings: dict[str, object],
    base: ModelFolder,
    tmp_path: Path,
) -> None:
    size = 32
    plain, stored = tmp_path / "plain", tmp_path / "stored"
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    model.save_pretrained(plain)
    tensors = safetensors.torch.load_file(plain / "model.safetensors")
    rounded, packed = dict(tensors), {}
    for name, weight in tensors.items():
        if "_proj.weight" not in name:
            packed[name] = weight
            continue
        rounded[name], parts = packing(weight, size)
        packed |= {f"{name.removesuffix('.weight')}.{part}": t for part, t in parts.items()}
    safetensors.torch.save_file(rounded, plain / "model.safetensors", {"format": "pt"})
    shutil.copytree(base.path, stored)
    for path in stored.glob("*.safetensors"):
        path.unlink()
    safetensors.torch.save_file(packed, stored / "model.safetensors", {"format": "pt"})
    settings = {**settings, "bits": 4, "group_size": size}
    config = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    got = make_engine(load_fp32(open_folder(stored))).logits(tuple(IDS[0].tolist()))
    torch.testing.assert_close(got, logits_of(plain), atol=1e-4, rtol=1e-4)
    assert (got - logits_of(base.path)).abs().max() > 0.1


@pytest.mark.parametrize("has_zeros", [False, True], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("num_rows", [1, 5, 64])
def test_the_int4_operator_computes_what_is_stored(has_zeros: bool, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(128, 48)
    stored = PackQuantized(linear, num_groups=4, has_zeros=has_zeros, has_group_index=False)
    values = torch.randint(0, 16, (48, 128), generator=generator)
    zeros = torch.randint(0, 16, (48, 4), generator=generator)
    stored.weight_packed = nn.Parameter(pack(values), requires_grad=False)
    scales = torch.rand(48, 4, generator=generator).bfloat16().float() / 10
    stored.weight_scale = nn.Parameter(scales, requires_grad=False)
    if has_zeros:
        words = pack(zeros.T.contiguous()).T.contiguous()
        stored.weight_zero_point = nn.Parameter(words, requires_grad=False)
    middle = zeros if has_zeros else torch.full_like(zeros, 8)
    weight = (values - middle.repeat_interleave(32, 1)) * scales.repeat_interleave(32, 1)
    torch.testing.assert_close(stored.dequantized(), weight)
    assert can_pack_int4(stored)
    x = torch.randn(num_rows, 128, generator=generator).bfloat16()
    with torch.inference_mode():
        got = Int4Linear(stored)(x).float()
    expected = x.float() @ weight.T + linear.bias.detach().float()
    assert (got - expected).norm() / expected.norm() < 0.01


def test_few_logits_wait_in_memory_and_the_rest_is_told(
    base: ModelFolder, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "MAX_LOGIT_BYTES", 50_000)
    done = merge(str(adapter), out=tmp_path / "m", model=str(base.path), report=ignore)
    assert done.passed
    assert done.num_left_out > 0
    assert any(f"{done.num_left_out} more left out" in line for line in done.lines)


def test_experts_are_not_left_as_they_are_in_silence(tmp_path: Path) -> None:
    folder = tiny_model_folder("mixtral", tmp_path / "experts")
    with pytest.raises(ModelError, match="has experts"):
        quantize(str(folder), out=tmp_path / "q", bits=8, report=ignore)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"quant_method": "gptq", "bits": 3}, "GPTQ of 3 bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "'marlin'"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "'gemv'"),
    ],
)
def test_other_packings_are_refused_by_name(
    settings: dict[str, object], reason: str, base: ModelFolder, tmp_path: Path
) -> None:
    stored = shutil.copytree(base.path, tmp_path / "stored")
    config = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    with pytest.raises(ModelError, match=reason):
        load_fp32(open_folder(stored))


def test_an_fp8_folder_answers_as_its_rounded_weights(base: ModelFolder, tmp_path: Path) -> None:
    """As compressed-tensors writes it: eight bits of floating point, a scale for each output."""
    stored = shutil.copytree(base.path, tmp_path / "stored")
    weights = next(stored.glob("*.safetensors"))
    packed = {}
    for name, tensor in safetensors.torch.load_file(weights).items():
        packed[name] = tensor
        if "_proj.weight" in name:
            scale = tensor.abs().amax(dim=1, keepdim=True) / 448
            packed[name] = (tensor / scale).to(torch.float8_e4m3fn)
            packed[f"{name}_scale"] = scale
    safetensors.torch.save_file(packed, weights, {"format": "pt"})
    kind = {"num_bits": 8, "type": "float", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**kind, "strategy": "channel", "dynamic": False},
        "input_activations": {**kind, "strategy": "token", "dynamic": True},
    }
    settings = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
    }
    config = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    model = load_fp32(open_folder(stored))
    layers = [layer for layer in model.module.modules() if isinstance(layer, StoredFp8)]
    assert all(layer.weight.dtype == torch.float8_e4m3fn for layer in layers)
    assert len(layers) == sum(name.endswith("_scale") for name in packed)
    got = make_engine(model).logits(tuple(IDS[0].tolist()))
    rounded = load_fp32(base)
    for name, layer in list(rounded.module.named_modules()):
        if name.endswith("_proj"):
            rounded.module.set_submodule(name, to_fp8(layer))
    expected = make_engine(rounded).logits(tuple(IDS[0].tolist()))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
