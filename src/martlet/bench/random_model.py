"""A model to measure without one: the shape of Qwen2 0.5B, random weights in bf16.

Speed does not depend on what weights say, and nothing has to be downloaded.
"""

from pathlib import Path

VOCAB_SIZE = 151_936
NAME = "qwen2-0.5b-random"
CONTEXT_TOKENS = 32_768


def make_model(folder: Path) -> Path:
    """Saves the model, about 1 GB.

    Args:
        folder: Made if absent.

    Returns:
        The folder.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    model = Qwen2ForCausalLM(config)
    torch.nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(folder)
    # Words are numbers; some engines convert no model without a tokenizer.
    words = WordLevel({str(token_id): token_id for token_id in range(VOCAB_SIZE)}, unk_token="0")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words)).save_pretrained(folder)
    return folder
