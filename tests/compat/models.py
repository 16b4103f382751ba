"""Tiny random models with the context and the chat templates of published ones."""

import json
from pathlib import Path

from support.tiny_models import END_OF_TEXT, tiny_model_folder

MAX_CONTEXT_TOKENS = 4096


def model_folder(architecture: str, folder: Path, *, template: str | None = None) -> Path:
    """Saves a random model with room for whole conversations.

    Args:
        template: In place of the ChatML template; empty for none.
    """
    tiny_model_folder(architecture, folder)
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
