"""Tiny random models of many architectures, saved as the folders that a user would bring.

They are small enough for any test and odd enough to find mistakes: grouped keys, windows shorter
than the tests' contexts, biases and norms that are not the identity, logits far enough apart
that a greedy reply is not one token over and over.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE = 320
MAX_CONTEXT_TOKENS = 512
WINDOW_TOKENS = 32
"""Keys that a layer with a sliding or chunked window sees."""

END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_CORPUS = (
    "The quick brown fox jumps over the lazy dog. Which option is right? The answer is A, B or C.",
    "If Anna sits left of Bo and Bo sits left of Cleo, then Anna sits left of Cleo. 1 + 2 = 3.",
    "请根据题目选择正确答案。答案是：A。小明在小红的左边，小红在小刚的左边。",
)

_SIZES = MappingProxyType(
    {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "max_position_embeddings": MAX_CONTEXT_TOKENS,
    }
)
_WINDOW = MappingProxyType(
    {
        "sliding_window": WINDOW_TOKENS,
        "num_hidden_layers": 4,
        "layer_types": [*3 * ["sliding_attention"], "full_attention"],
    }
)
_YARN = MappingProxyType(
    {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }
)
# Where the embeddings outweigh the layers, a random model with a tied head repeats its last token.
_UNTIED = MappingProxyType({"tie_word_embeddings": False})
_GEMMA = MappingProxyType(
    {
        **_WINDOW,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        **_UNTIED,
    }
)
_MOE = MappingProxyType({"num_local_experts": 4, "num_experts_per_tok": 2})
_LINEAR_ATTENTION = MappingProxyType(
    {
        "head_dim": 16,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention"],
    }
)

_ARCHITECTURE_TO_CONFIG: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "llama": {},
        "llama4": {
            "model_type": "llama4_text",
            "head_dim": 16,
            "intermediate_size_mlp": 96,
            "num_hidden_layers": 4,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": WINDOW_TOKENS,
            "floor_scale": 64,
        },
        "qwen2": {},
        "qwen3": {"head_dim": 16},
        "qwen3_moe": {
            "head_dim": 16,
            "moe_intermediate_size": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
        "mistral": {"head_dim": 16, "sliding_window": WINDOW_TOKENS},
        "ministral3": {
            "head_dim": 16,
            "rope_parameters": {
                **_YARN,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
        },
        "mixtral": {**_MOE},
        "gemma2": {**_GEMMA},
        "gemma3": {**_GEMMA, "model_type": "gemma3_text"},
        "phi": {},
        "phi3": {"original_max_position_embeddings": MAX_CONTEXT_TOKENS},
        "phimoe": {**_MOE},
        "olmo2": {"initializer_range": 1.0},
        "granite": {"embedding_multiplier": 2.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
        "smollm3": {"num_hidden_layers": 4, "no_rope_layer_interval": 2},
        "gpt_oss": {**_WINDOW, **_MOE, "head_dim": 16, "rope_parameters": {**_YARN}},
        "gpt_neox": {},
        "gpt2": {},
        "cohere2": {**_WINDOW, "logit_scale": 1.0},
        "glm4": {"head_dim": 16},
        "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64, "init_std": 0.2},
        "exaone4": {**_WINDOW},
        "deepseek_v3": {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "kv_lora_rank": 24,
            "q_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
        "bloom": {**_UNTIED},
        "falcon": {},
        "qwen3_next": {
            **_LINEAR_ATTENTION,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
        "qwen3_5": {**_LINEAR_ATTENTION, "model_type": "qwen3_5_text"},
        "stablelm": {},
    }
)

REFUSED = ("bloom", "falcon", "qwen3_next", "qwen3_5", "stablelm")
"""Architectures whose attention does not go through transformers' attention interface."""
ARCHITECTURES = tuple(name for name in _ARCHITECTURE_TO_CONFIG if name not in REFUSED)
"""Architectures that the native engine runs."""


def tiny_model_folder(
    architecture: str, folder: Path, *, seed: int = 0, **settings: object
) -> Path:
    """Saves a random fp32 model of an architecture, with tokenizer and chat template.

    Args:
        architecture: One of `ARCHITECTURES` or `REFUSED`.
        folder: Where the model goes; made if it is missing.
        seed: Two seeds give two models of the same shape.
        settings: Of the config, in place of the tiny ones.

    Returns:
        The folder.
    """
    tokenizer = tiny_tokenizer()
    special_ids = {
        "bos_token_id": tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        "pad_token_id": tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END_OF_TURN),
    }
    own = {"model_type": architecture, **_ARCHITECTURE_TO_CONFIG[architecture]}
    default = AutoConfig.for_model(own["model_type"])
    sizes = {name: size for name, size in _SIZES.items() if hasattr(default, name)}
    config = AutoConfig.for_model(**{**sizes, **special_ids, **own, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _shake_vectors(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer of `VOCAB_SIZE` tokens with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, START_OF_TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[START_OF_TURN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_CONTEXT_TOKENS,
    )


@torch.no_grad()
def _shake_vectors(model: torch.nn.Module) -> None:
    # Fresh biases are 0 and fresh norms 1: a model that forgets them would pass every test.
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.1)
