"""Prompts to token ids, the same for every backend that runs a model in this process."""

from collections.abc import Iterable

from martlet.backends.base import Prompt, RenderedPrompt
from martlet.errors import InputError, ParameterError
from martlet.text.tokenizer import Tokenizer


def render(prompt: Prompt, tokenizer: Tokenizer, *, vocab_size: int) -> RenderedPrompt:
    """Applies the chat template where there are messages, and tokenizes.

    Args:
        vocab_size: Token ids from here on are not the model's.

    Raises:
        TemplateError: If the model has no chat template, or it refuses the messages or tools.
        InputError: If the prompt is empty.
        ParameterError: If a token id is not in the vocabulary.
    """
    if prompt.messages is not None:
        text, token_ids = tokenizer.render(
            prompt.messages, tools=prompt.tools, variables=prompt.template_variables
        )
    elif prompt.text is not None:
        text, token_ids = prompt.text, tokenizer.encode(prompt.text, add_special_tokens=True)
    else:
        text, token_ids = "", tuple(prompt.token_ids or ())
    if not token_ids:
        raise InputError("the prompt is empty; give at least one token")
    check_vocabulary(token_ids, vocab_size=vocab_size)
    return RenderedPrompt(text=text, token_ids=token_ids, bos_id=tokenizer.bos_id)


def check_vocabulary(token_ids: Iterable[int], *, vocab_size: int) -> None:
    """Raises ParameterError, naming it, if an id is not in the vocabulary."""
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise ParameterError(
                f"token id {token_id} is not in the vocabulary: 0 to {vocab_size - 1}"
            )
