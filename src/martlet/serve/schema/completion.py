"""The body of `POST /v1/completions`."""

from collections.abc import Mapping
from typing import ClassVar

from martlet.backends.base import Prompt
from martlet.errors import ParameterError
from martlet.serve.schema.sampling import SamplingFields

DEFAULTS: Mapping[str, object] = {"max_tokens": 16}
"""What OpenAI documents for this endpoint alone."""


class CompletionRequest(SamplingFields):
    """Texts, or token ids, to go on with; no chat template is applied."""

    REFUSED: ClassVar[Mapping[str, str]] = {
        "suffix": "the models served here only go on at the end of a text",
        "best_of": "ask for n samples and choose",
    }

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool = False
    """Whether a choice begins with its prompt."""
    logprobs: int | None = None

    def sampling_values(self) -> dict[str, object]:
        """See `SamplingFields.sampling_values`."""
        values = super().sampling_values()
        if self.logprobs is not None:
            values["logprobs"] = self.logprobs
            if self.echo:
                values["prompt_logprobs"] = self.logprobs
        if self.stream and self.echo and self.logprobs is not None:
            raise ParameterError(
                "echo with logprobs does not stream: a prompt is scored as a whole; give "
                "stream=false",
                param="stream",
            )
        return values

    def prompts(self) -> list[Prompt]:
        """One prompt for each text or list of ids.

        Raises:
            ParameterError: If there is none.
        """
        if not self.prompt:
            raise ParameterError("prompt is empty; give at least one token", param="prompt")
        if isinstance(self.prompt, str):
            return [Prompt(text=self.prompt)]
        if isinstance(self.prompt[0], int):
            return [_prompt_of(self.prompt)]
        return [_prompt_of(item) for item in self.prompt]


def _prompt_of(item: object) -> Prompt:
    return Prompt(text=item) if isinstance(item, str) else Prompt(token_ids=tuple(item))  # type: ignore[arg-type]  # a list of ids
