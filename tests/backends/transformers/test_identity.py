"""What the backend tells of itself, and how it reads a prompt."""

from pathlib import Path

from backends.transformers.asking import load_plain
from martlet.backends.base import Prompt
from martlet.backends.transformers import TransformersBackend
from support.tiny_models import MAX_CONTEXT_TOKENS, tiny_model_folder


def test_a_prompt_is_rendered_in_three_ways(backend: TransformersBackend) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    chat = backend.render(Prompt(messages=messages))
    assert chat.text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert backend.render(Prompt(text=chat.text)).token_ids == chat.token_ids
    assert backend.render(Prompt(token_ids=chat.token_ids)).token_ids == chat.token_ids


def test_the_backend_tells_what_it_is(tmp_path: Path) -> None:
    folder = tiny_model_folder("falcon", tmp_path)
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.6, "top_k": 20, "eos_token_id": 2, "top_p": null}'
    )
    backend = load_plain(folder)
    assert (backend.identity.model, backend.identity.backend) == (str(folder), "transformers")
    assert (backend.identity.dtype, backend.identity.adapter) == ("float32", None)
    assert len(backend.identity.model_hash) == 64
    assert backend.limits.max_context_tokens == MAX_CONTEXT_TOKENS
    assert backend.default_params.values == {"temperature": 0.6, "top_k": 20}
