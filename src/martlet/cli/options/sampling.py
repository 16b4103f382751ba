"""How replies are drawn."""

from dataclasses import dataclass, fields
from typing import Annotated

from martlet.cli.options.option import option

_SAMPLING = "Sampling"


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a reply is drawn; what is not given comes from the model's folder or the verb."""

    n: Annotated[
        int | None,
        option(
            _SAMPLING,
            "Samples of each question; unless given, 8 for vote and 1 for generate.",
            "--samples",
            "-n",
            metavar="N",
        ),
    ] = None
    temperature: Annotated[
        float | None,
        option(_SAMPLING, "Divides the logits; 0 takes the most likely token.", "--temperature"),
    ] = None
    top_p: Annotated[
        float | None,
        option(_SAMPLING, "Keep the most likely tokens that add up to this.", "--top-p"),
    ] = None
    top_k: Annotated[
        int | None,
        option(_SAMPLING, "Keep this many most likely tokens; 0 keeps all.", "--top-k"),
    ] = None
    min_p: Annotated[
        float | None,
        option(_SAMPLING, "Drop tokens less likely than this part of the most likely.", "--min-p"),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        option(
            _SAMPLING,
            "Above 1, makes tokens of prompt and reply less likely.",
            "--repetition-penalty",
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        option(_SAMPLING, "Subtracted once for a token in the reply.", "--presence-penalty"),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        option(
            _SAMPLING, "Subtracted each time that a token is in the reply.", "--frequency-penalty"
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        option(
            _SAMPLING,
            "The longest reply, in tokens; unless given, 1024 for vote and what fits for others.",
            "--max-tokens",
        ),
    ] = None
    min_tokens: Annotated[
        int | None, option(_SAMPLING, "Nothing ends a shorter reply.", "--min-tokens")
    ] = None
    stop: Annotated[
        list[str] | None,
        option(_SAMPLING, "A text that ends the reply; may be repeated.", "--stop", metavar="TEXT"),
    ] = None
    stop_token_ids: Annotated[
        list[int] | None,
        option(
            _SAMPLING,
            "A token that ends the reply, besides the model's own; may be repeated.",
            "--stop-token-id",
            metavar="ID",
        ),
    ] = None
    ignore_eos: Annotated[
        bool | None,
        option(_SAMPLING, "Go on after the model's own end tokens.", "--ignore-eos"),
    ] = None
    seed: Annotated[
        int | None,
        option(_SAMPLING, "Fixes every draw; unless given, 0, and a chat draws afresh.", "--seed"),
    ] = None

    def given_params(self) -> dict[str, object]:
        """The parameters that the user gave, by their names in `SamplingParams`.

        Raises:
            ParameterError: If a value is out of its range.
        """
        from martlet.engine.params import SamplingParams

        given = {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None and value != []
        }
        SamplingParams.from_mapping(given)
        return given
