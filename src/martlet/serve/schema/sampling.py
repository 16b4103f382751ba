"""The fields of a request that say how a reply is drawn, the same for every way to ask."""

from typing import Annotated

from pydantic import Field

from martlet.errors import ParameterError
from martlet.serve.schema.base import RequestModel

SAME_NAMES = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
    "max_tokens",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "seed",
    "skip_special_tokens",
)
"""Fields that are named as in `SamplingParams`, which checks their ranges."""

StopText = str | Annotated[list[str], Field(max_length=16)]


class StreamOptions(RequestModel):
    """How a reply is streamed."""

    include_usage: bool = False
    """Whether a last chunk tells how many tokens there were."""
    include_obfuscation: bool = False
    """Taken and without effect: nothing is added to hide the length of a piece."""


class SamplingFields(RequestModel):
    """What chat and text completions share."""

    model: str = Field(max_length=512)
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=1024)] | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    stop: StopText | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    skip_special_tokens: bool | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    timeout: float | None = Field(default=None, gt=0, le=86_400)
    """Seconds after which an unfinished reply is given up, with status 504."""
    user: str | None = None
    """Taken and without effect."""

    def sampling_values(self) -> dict[str, object]:
        """The sampling parameters that the request sets, under the names of `SamplingParams`.

        Raises:
            ParameterError: If two fields contradict each other, or a key of `logit_bias` is no
                token id.
        """
        if self.stream_options is not None and not self.stream:
            raise ParameterError("stream_options is only for stream=true", param="stream_options")
        values = {name: value for name in SAME_NAMES if (value := getattr(self, name)) is not None}
        if self.logit_bias is not None:
            values["logit_bias"] = {_token_id(key): b for key, b in self.logit_bias.items()}
        return values


def _token_id(key: str) -> int:
    if not key.isdecimal() or len(key) > 10:
        raise ParameterError(
            f"logit_bias maps token ids to numbers, not {key!r}", param="logit_bias"
        )
    return int(key)
