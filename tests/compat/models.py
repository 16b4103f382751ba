"""Tiny random models with the context and the chat templates of published ones."""

import json
from pathlib import Path

import safetensors.torch

from support.tiny_models import END_OF_TEXT, END_OF_TURN, tiny_model_folder, tiny_tokenizer

MAX_CONTEXT_TOKENS = 4096


def model_folder(
    architecture: str, folder: Path, *, template: str | None = None, is_brief: bool = False
) -> Path:
    """Saves a random model with room for whole conversations.

    Args:
        template: In place of the ChatML template; empty for none.
        is_brief: Whether its replies end soon.
    """
    tiny_model_folder(architecture, folder)
    if is_brief:
        make_brief(folder, tiny_tokenizer().convert_tokens_to_ids(END_OF_TURN))
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = MAX_CONTEXT_TOKENS
    (folder / "config.json").write_text(json.dumps(config))
    if template is not None:
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        tokenizer["bos_token"] = END_OF_TEXT  # some templates write it
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        (folder / "chat_template.jinja").unlink()
        if template:
            (folder / "chat_template.jinja").write_text(template)
    return folder


def make_brief(folder: Path, end_id: int) -> None:
    """Lets a random model say its end token often: that logit gets the widest range."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["lm_head.weight"][end_id] *= 3
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
