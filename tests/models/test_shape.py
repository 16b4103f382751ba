"""Measures under the names that different families' configs have for them."""

import pytest

from martlet.models.shape import ModelShape, read_shape

_QWEN = {
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "hidden_size": 896,
    "max_position_embeddings": 32768,
}


def _shape(**measures: int | None) -> ModelShape:
    names = (
        "num_layers",
        "num_attention_layers",
        "num_heads",
        "num_kv_heads",
        "key_dim",
        "value_dim",
        "max_context_tokens",
    )
    return ModelShape(**dict.fromkeys(names, None) | measures)


_QWEN_SHAPE = _shape(
    num_layers=24,
    num_attention_layers=24,
    num_heads=14,
    num_kv_heads=2,
    key_dim=64,
    value_dim=64,
    max_context_tokens=32768,
)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        pytest.param(_QWEN, _QWEN_SHAPE, id="qwen2"),
        pytest.param({"text_config": _QWEN}, _QWEN_SHAPE, id="text part of a larger model"),
        pytest.param(
            {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024},
            _shape(
                num_layers=12,
                num_attention_layers=12,
                num_heads=12,
                num_kv_heads=12,
                key_dim=64,
                value_dim=64,
                max_context_tokens=1024,
            ),
            id="gpt2",
        ),
        pytest.param(
            {
                "num_hidden_layers": 32,
                "num_attention_heads": 71,
                "num_kv_heads": 71,
                "hidden_size": 4544,
                "multi_query": True,
            },
            _shape(
                num_layers=32,
                num_attention_layers=32,
                num_heads=71,
                num_kv_heads=1,
                key_dim=64,
                value_dim=64,
            ),
            id="falcon, one head of keys",
        ),
        pytest.param(
            {
                "num_hidden_layers": 61,
                "num_attention_heads": 128,
                "num_key_value_heads": 128,
                "hidden_size": 7168,
                "kv_lora_rank": 512,
                "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64,
                "v_head_dim": 128,
            },
            _shape(
                num_layers=61,
                num_attention_layers=61,
                num_heads=128,
                num_kv_heads=128,
                key_dim=192,
                value_dim=128,
            ),
            id="deepseek, keys longer than values",
        ),
        pytest.param(
            {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2},
            _shape(num_layers=4, num_attention_layers=2),
            id="layers with a state instead of keys",
        ),
        pytest.param({}, _shape(), id="nothing"),
        pytest.param({"num_hidden_layers": "many"}, _shape(), id="not a number"),
    ],
)
def test_a_config_is_read(config: dict[str, object], shape: ModelShape) -> None:
    assert read_shape(config) == shape
