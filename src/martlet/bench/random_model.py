"""A model to measure without one: the shape of Qwen2 0.5B, random weights in bf16.

Speed does not depend on what weights say, and nothing has to be downloaded.
"""

from pathlib import Path

VOCAB_SIZE = 151_936
NAME = "qwen2-0.5b-random"
CONTEXT_TOKENS = 16_384


def make_model(folder: Path) -> Path:
    """Saves the model and a tokenizer, about 1 GB.

    Args:
        folder: Made if absent.

    Returns:
        The folder.
    """
    import torch
    import transformers
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        eos_token_id=VOCAB_SIZE - 1,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    model = Qwen2ForCausalLM(config)
    torch.nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(folder)
    _add_tokenizer(folder)
    return folder


def _add_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer that reads any text; each id is a text of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"w{number}" for number in range(len(alphabet), VOCAB_SIZE - 1))]
    end = "<|endoftext|>"
    words.append(end)  # Qwen2's tokenizer would add it behind the model's last row
    inner = Tokenizer(
        models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end).save_pretrained(folder)
